"""`vitq list`: what there is, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.errors import command_refuses
from vitq.cli import main


@pytest.mark.parametrize(("what", "name"), [("models", "swin_digits"), ("methods", "repq_vit"), ("sweeps", "demo")])
def test_list(what: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    assert any(line.startswith(name) for line in capsys.readouterr().out.splitlines())
    assert main(["list", what, "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries[name]["about"]
    assert Path(entries[name]["file"]).is_file()


def test_list_takes_own_groups_and_refuses_stray_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# My own\nname: mine\n")
    assert main(["list", "methods", "--config-dir", str(tmp_path)]) == 0
    assert "My own" in capsys.readouterr().out
    command_refuses(["list", "methods", "bits=w4a4"], key="overrides", value=["bits=w4a4"])


def test_list_sites_reports_problems() -> None:
    command_refuses(["list", "sites", "bits.weight=99"], key="bits.weight", value=99, valid=[4, "fp"])
