"""docs/adding-a-method.md, followed to the letter in a copy of the checkout: its files written, its commands run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "adding-a-method.md"
FENCE = re.compile(r"^```(\w+)(?: +(\w+)=(\S+))?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block. `action`: title (a file to write), exit, or ''."""

    language: str
    action: str
    value: str
    text: str


def blocks() -> list[Block]:
    """Blocks of the guide, in order."""
    found = FENCE.findall(GUIDE.read_text(encoding="utf-8"))
    return [Block(language, action, value.strip('"'), text) for language, action, value, text in found]


@dataclass
class Reader:
    """Somebody who follows the guide in a checkout."""

    checkout: Path
    ran: list[str] = field(default_factory=list)

    def follow(self, block: Block) -> None:
        if block.language == "bash":
            for command in block.text.splitlines():
                self._run(command, int(block.value) if block.action == "exit" else 0)
        elif block.action == "title":
            path = self.checkout / block.value
            assert not path.exists(), f"the guide overwrites {block.value}"
            path.write_text(block.text, encoding="utf-8")
        else:
            raise AssertionError(f"a block of the guide is neither file nor command:\n{block.text}")

    def _run(self, command: str, expected: int) -> None:
        environment = {
            **os.environ,
            "PATH": f"{self.checkout / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.checkout),
            "WANDB_MODE": "offline",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, f"$ {command}\n{done.stdout}\n{done.stderr}"
        self.ran.append(done.stdout + done.stderr)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A copy of the checkout in which `vitq`, `pytest` and `python` mean this interpreter and that copy."""
    checkout = tmp_path / "check out"
    for folder in ("vitq", "conf", "sweeps", "launchers", "tests/methods"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # What `pip install -e .` maps by the package-dir table of pyproject.toml.
    (checkout / "vitq" / "launchers").symlink_to(checkout / "launchers", target_is_directory=True)
    (checkout / "bin").mkdir()
    for name, option in (("vitq", "-m vitq"), ("pytest", "-m pytest"), ("python", "")):
        script = checkout / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {option} "$@"\n')
        script.chmod(0o755)
    return Reader(checkout)


@pytest.mark.slow
def test_the_guide_works_when_followed_literally(reader: Reader) -> None:
    for block in blocks():
        reader.follow(block)
    said = "\n".join(reader.ran)
    assert "mse_probs  " in said  # vitq list methods
    assert "factor=1.5" in said  # the refused option
    assert "passed" in said  # pytest
    # Twelve different configs; cells that the commands share are run once.
    assert len(list((reader.checkout / "runs").glob("*/result.json"))) == 12


def test_the_guide_writes_files_of_all_three_sorts_and_runs_commands() -> None:
    """Guards the test above: a change of the guide's notation must not leave it with nothing to follow."""
    written = [block.value for block in blocks() if block.action == "title"]
    assert sum(path.startswith("conf/method/") for path in written) == 3
    assert sum(path.startswith("vitq/methods/") for path in written) == 2
    assert sum(len(block.text.splitlines()) for block in blocks() if block.language == "bash") >= 8


@pytest.mark.parametrize(
    "block", [b for b in blocks() if b.value.endswith(".py") and b.action == "title"], ids=lambda b: b.value
)
def test_its_python_files_keep_the_rules_of_style(block: Block, tmp_path: Path) -> None:
    path = tmp_path / Path(block.value).name
    path.write_text(block.text, encoding="utf-8")
    for options in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *options, "--config", str(ROOT / "pyproject.toml"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
