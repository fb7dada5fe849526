"""What a shell is offered after a tab."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.errors import refuses
from tests.fake_engine import FakeEngine
from vitq.cli import completion, main
from vitq.cli.completion import fitting
from vitq.errors import VitqError
from vitq.store import Store


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("vitq sw", ["sweep"]),
        ("vitq sweep de", ["demo"]),
        ("vitq run method=repq", ["method=repq_vit"]),
        ("vitq run -m bits=w8a8,w4a", ["bits=w8a8,w4a3", "bits=w8a8,w4a4", "bits=w8a8,w4a8"]),
        ("vitq run calib.s", ["calib.size="]),
        ("vitq run me", ["method="]),
        ("vitq run --dry", ["--dry-run"]),
        ("vitq list s", ["sites", "sweeps"]),
    ],
)
def test_what_fits(line: str, among: list[str]) -> None:
    found = fitting(line)
    assert {*among} <= {*found}
    assert all(name.startswith(line.rpartition(" ")[2]) for name in found)


@pytest.mark.parametrize("line", ["vitq nothing ", "vitq run method=zzz", "vitq sweep zzz"])
def test_nothing_fits(line: str) -> None:
    assert fitting(line) == []


def test_sweeps_runs_and_options_of_the_user(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-m", "tracker=none", "seed=1,2", "runs_dir=elsewhere"]) == 0
    names = Store("elsewhere").signatures()
    assert fitting("vitq status --runs-dir elsewhere mul") == ["multirun"]
    assert fitting("vitq show --runs-dir elsewhere ") == names
    assert fitting(f"vitq show {names[0][:5]}") == []
    (tmp_path / "conf" / "bits").mkdir(parents=True)
    (tmp_path / "conf" / "bits" / "odd.yml").write_text("weight: 3\n")
    assert fitting("vitq run bits=o") == ["bits=odd"]
    capsys.readouterr()
    assert main(["completion", "--line", "vitq run bits=o"]) == 0
    assert capsys.readouterr().out == "bits=odd\n"
    with refuses(VitqError, key="shell", valid=["bash", "fish", "zsh"]):
        completion.main(completion.parser().parse_args([]))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_puts_it_behind_the_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """bash takes `method=re` for three words and replaces the last of them."""
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    asked = "COMP_LINE='vitq run method=re'; COMP_POINT=${#COMP_LINE}; _vitq; printf '%s' \"${COMPREPLY[0]}\""
    shell = f"vitq() {{ printf 'method=repq_vit\\n'; }}; compopt() {{ :; }}\n{script}\n{asked}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == "repq_vit"
