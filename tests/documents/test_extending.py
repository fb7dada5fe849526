"""docs/extending.md, followed to the letter: its package is written, built, installed in a new environment, and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.environments import environment
from vitq.store import Run, Store

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)(?: +(\w+)=(\S+))?\n(.*?)^```$", re.M | re.S)

# One environment for all of them, and one wheel for them and the tests of packaging.
pytestmark = pytest.mark.xdist_group("packaging")


@dataclass(frozen=True)
class Block:
    """A fenced block. action: title (a file to write), exit (of a command that is refused), in (a folder), or ''."""

    language: str
    action: str
    value: str
    text: str


def blocks() -> list[Block]:
    """Blocks of the guide, in order."""
    found = FENCE.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    return [Block(language, action, value.strip('"'), text) for language, action, value, text in found]


@dataclass
class Reader:
    """Somebody who follows the guide in an empty folder, with an environment of his own."""

    folder: Path
    executables: Path
    printed: dict[str, str] = field(default_factory=dict)

    def follow(self, block: Block) -> None:
        if block.action == "title":
            path = self.folder / block.value
            path.parent.mkdir(parents=True, exist_ok=True)
            assert not path.exists(), f"the guide overwrites {block.value}"
            path.write_text(block.text, encoding="utf-8")
            return
        assert block.language == "bash", f"a block of the guide is neither file nor command:\n{block.text}"
        for command in block.text.splitlines():
            folder = self.folder / block.value if block.action == "in" else self.folder
            self._run(command, folder, int(block.value) if block.action == "exit" else 0)

    def _run(self, command: str, folder: Path, expected: int) -> None:
        own = {"PATH": f"{self.executables}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=inherited | own, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, f"$ {command}\n{done.stdout}\n{done.stderr}"
        self.printed[command] = done.stdout


@pytest.fixture(scope="module")
def reader(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """One who has read to the end."""
    folder = tmp_path_factory.mktemp("an empty folder")
    reader = Reader(folder, environment(tmp_path_factory.mktemp("new") / "env", wheel))
    for block in blocks():
        reader.follow(block)
    return reader


def _runs(reader: Reader) -> Iterator[Run]:
    store = Store(reader.folder / "runs")
    yield from (Run(store.run(signature)) for signature in store.signatures())


def _run_of(reader: Reader, method: str) -> Run:
    (run,) = (run for run in _runs(reader) if run.config.method.name == method)
    return run


@pytest.mark.slow
def test_lists_show_what_the_package_brings(reader: Reader) -> None:
    for what, names in {"methods": {"lab_po2", "repq_vit"}, "models": {"lab_mixer"}, "sweeps": {"lab", "demo"}}.items():
        lines = reader.printed[f"vitq list {what}"].splitlines()
        assert names <= {line.split(" ")[0] for line in lines}, what


@pytest.mark.slow
def test_a_run_uses_the_quantizer_the_step_the_family_and_the_probe(reader: Reader) -> None:
    run = _run_of(reader, "lab_po2")
    result = json.loads(run.dir.result_path.read_text())
    assert result["provenance"]["versions"]["lab-vitq"] == "1.2.3"
    assert result["config"]["model"]["name"] == "lab_mixer"
    assert set(result["config"]["method"]["steps"]) == {"activations", "shrink", "weights"}
    assert result["metrics"]["fp_top1"] > 50
    assert result["metrics"]["drop"] < 10
    sites = run.sites.set_index("site")
    row = sites.loc["blocks.1.mlp_channels.fc1.input"]
    assert [row["kind"], row["quantizer"], row["bits"]] == [
        "post_norm",
        "PowerOfTwo",
        8,
    ]
    arrays = run.dir.read_probe("used_codes")
    assert arrays is not None
    assert len(arrays["site"]) == 10
    assert (arrays["used"] <= 2 ** arrays["bits"]).all()
    assert (arrays["used"] > 16).all()
    assert run.dir.probe_picture_path("used_codes").is_file()


@pytest.mark.slow
def test_what_the_guide_shows_composes_or_is_refused(reader: Reader) -> None:
    assert "12" in reader.printed["vitq sweep lab --dry-run tracker=none"]
    # The refused run and the sweep that was only planned left nothing.
    assert sorted(run.config.method.name for run in _runs(reader)) == ["lab_po2", "mse_probs"]


def test_the_guide_shows_every_extension_point() -> None:
    """Guards the tests above: a change of the guide's notation must not leave them with nothing to follow."""
    written = [block.value for block in blocks() if block.action == "title"]
    assert len(written) == len(set(written)) == 13
    code = "\n".join(block.text for block in blocks() if block.language == "python")
    for name in ("register_quantizer", "register_step", "register_probe", "register_family", "EMBEDDED.register"):
        assert f"{name}(" in code
    assert {"conf/method", "conf/model", "conf/probe"} <= {
        str(Path(path).parent)[-len("conf/method") :].lstrip("/") for path in written
    }


@pytest.mark.parametrize(
    "block", [b for b in blocks() if b.value.endswith(".py") and b.action == "title"], ids=lambda b: b.value
)
def test_its_python_files_keep_the_rules_of_style(block: Block, tmp_path: Path) -> None:
    path = tmp_path / Path(block.value).name
    path.write_text(block.text, encoding="utf-8")
    rules: Any = ["--config", str(ROOT / "pyproject.toml"), str(path)]
    for options in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *options, *rules]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
