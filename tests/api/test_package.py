"""`import vitq` in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vitq


def python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light(tmp_path: Path) -> None:
    heavy = ("torch", "timm", "hydra", "pandas", "pydantic", "rich", "wandb", "vitq.api.network", "vitq.api.runs")
    code = f"import sys, vitq; dir(vitq), vitq.VitqError; print([m for m in {heavy} if m in sys.modules])"
    assert python(code, tmp_path).strip() == "[]"


def test_runs_and_the_store_need_no_torch(tmp_path: Path) -> None:
    code = "import sys, vitq; vitq.list_methods(); vitq.store('runs').sweeps(); print('torch' in sys.modules)"
    assert python(code, tmp_path).strip() == "False"


@pytest.mark.parametrize("first", ["import vitq.store.atomic", "from vitq.store import Store", "import vitq"])
def test_store_is_a_package_and_a_function(first: str, tmp_path: Path) -> None:
    code = (
        f"{first}; import vitq, vitq.store as s; print(vitq.store('here').sweeps(), s.RunDir.__name__, vitq.store is s)"
    )
    assert python(code, tmp_path).strip() == "[] RunDir True"


def test_every_public_name_is_there_and_documented(repo: Path) -> None:
    text = (repo / "docs" / "api.md").read_text()
    for name in vitq.__all__:
        assert getattr(vitq, name).__doc__
        assert f"::: vitq.{name}\n" in text or name == "store"
    assert set(vitq.__all__) <= set(dir(vitq))
    with pytest.raises(AttributeError) as raised:
        vitq.quantise  # noqa: B018
    assert raised.value.name == "quantise"
