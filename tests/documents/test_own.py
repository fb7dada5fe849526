"""docs/own.md, followed to the letter with a fake engine; docs/configuration.md is what the dataclasses say."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.config import RunConfig
from vitq.config.reference import entries
from vitq.config.sweep import SweepConfig
from vitq.launchers.local.slots import LocalOptions
from vitq.launchers.slurm.options import SlurmOptions
from vitq.store import Store

BLOCK = re.compile(r'```(yaml title="(?P<file>[^"]+)"|bash)\n(?P<text>.*?)```', re.DOTALL)
LINES = re.compile(r"^vitq .*$", re.MULTILINE)


def test_the_page_works_as_it_is_written(
    engine: FakeEngine, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "lab_vit.safetensors").write_bytes(b"")
    (tmp_path / "images" / "flowers").mkdir(parents=True)
    blocks = list(BLOCK.finditer((repo / "docs" / "own.md").read_text()))
    for block in blocks:
        if block["file"]:
            file = tmp_path / block["file"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block["text"])
    printed = {}
    commands = [line for block in blocks if not block["file"] for line in LINES.findall(block["text"])]
    for command in commands:
        capsys.readouterr()
        assert main(shlex.split(command)[1:]) == 0, (command, capsys.readouterr().err)
        printed[command] = capsys.readouterr().out
    assert len(commands) == 12
    assert str(tmp_path / "conf" / "model" / "lab_vit.yaml") in printed[commands[0]]
    assert "eval_limit: 1000" in printed[commands[1]]
    store = Store("runs")
    assert store.sweeps() == ["ablation", "ablation_32", "first_look"]
    assert len(store.read_sweep("ablation").signatures) == 12
    assert len(store.read_sweep("ablation_32").signatures) == 12


def test_the_reference_is_up_to_date(repo: Path) -> None:
    """`python docs/configuration.py` writes it."""
    spec = importlib.util.spec_from_file_location("configuration", repo / "docs" / "configuration.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (repo / "docs" / "configuration.md").read_text() == script.page()


@pytest.mark.parametrize("kind", [RunConfig, SweepConfig, LocalOptions, SlurmOptions])
def test_every_key_says_what_it_means(kind: type) -> None:
    assert [entry.key for entry in entries(kind) if not entry.about] == []


def test_entries_are_what_a_config_has() -> None:
    found = {entry.key: entry for entry in entries(RunConfig)}
    size = found["calib.size"]
    assert (size.kind, size.default, size.volatile) == ("integer ≥ 1", "32", False)
    assert found["calib.cache"].kind == "auto, device, host, disk"
    assert found["model.name"].default is None
    assert found["method.kinds.NAME.symmetric"].kind == "true or false"
    assert {key for key in found if found[key].volatile} >= {
        "runs_dir",
        "data.root",
        "tracker.tags",
        "model.checkpoint",
    }
    config, problems = RunConfig.parse({"model": {"name": "a"}, "data": {"name": "b"}, "method": {"name": "c"}})
    assert config is not None, problems
    plain = config.to_dict()
    assert {key.partition(".")[0] for key in found} == {*plain, "task"}  # a task is left out at its default
