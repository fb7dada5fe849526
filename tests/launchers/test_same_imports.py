"""Workers, jobs of SLURM and drivers in the background import what their driver imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitq.launchers.slurm import commands
from vitq.planning.background import same_imports


def found(folder: Path, module: str) -> str:
    """Where a Python that is started in a folder, as workers are, finds a module; '' for none."""
    code = f"import importlib.util as u, json; s = u.find_spec({module!r}); print(json.dumps(s.origin if s else ''))"
    env = os.environ | same_imports()
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the user stands, with a module of the user's and one that hides timm."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("timm", "of_the_lab"):
        (folder / f"{name}.py").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])
    return folder


def test_the_folder_where_the_user_stands_is_not_searched(here: Path) -> None:
    assert found(here, "of_the_lab") == ""
    assert "timm/__init__.py" in found(here, "timm")


def test_what_the_driver_has_ahead_comes_first(here: Path) -> None:
    sys.path.insert(0, "")  # as `python -m vitq` and notebooks have it
    other = here.parent
    assert found(other, "of_the_lab") == str(here / "of_the_lab.py")
    assert found(other, "timm") == str(here / "timm.py")


def test_what_the_driver_appended_comes_along_unless_it_hides_a_module_of_python(here: Path) -> None:
    sys.path.append(str(here))
    assert found(here.parent, "of_the_lab") == str(here / "of_the_lab.py")
    (here / "random.py").write_text("")
    assert found(here.parent, "of_the_lab") == ""
    assert found(here.parent, "random") != str(here / "random.py")


def test_a_job_of_slurm_exports_it(here: Path) -> None:
    sys.path.insert(0, str(here / "it's here"))
    lines = "; ".join(commands._exports())
    shell = f'{lines}; printf "%s|%s" "$PYTHONSAFEPATH" "$PYTHONPATH"'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    safe, _, path = done.stdout.partition("|")
    assert safe == "1"
    assert path.split(os.pathsep)[0] == str(here / "it's here")
