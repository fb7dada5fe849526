"""The command line: exit codes, streams, and what is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import fail_at_4_bits
from tests.errors import command_problems, command_refuses, is_about
from tests.fake_engine import FakeEngine
from vitq.cli import COMMANDS, main
from vitq.config import RunConfig
from vitq.config.labels import star_note
from vitq.store import Store
from vitq.store.result import Result

QUICK = ["tracker=none", "model=vit_digits"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy_and_has_examples(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "vitq", *([command] if command else []), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert f"vitq {command}".strip() in done.stdout
    assert "examples:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "timm", "wandb", "pandas", "plotly", "hydra", "omegaconf", "numpy", "rich"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith("vitq ")


def test_no_command_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_unknown_command_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["swep", "demo"])
    assert exit.value.code == 2
    assert "Did you mean 'sweep'?" in capsys.readouterr().err


def test_run_prints_the_scores_and_the_record(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *QUICK, "bits=w8a8"]) == 0
    out = capsys.readouterr().out
    (signature,) = Store("runs").signatures()
    assert "vit_digits minmax w8a8" in out
    assert "top-1 93" in out
    assert str(Store("runs").run(signature).path) in out
    assert not Store("runs").sweeps()
    assert engine.groups == [None]


def test_run_json_is_the_result_and_nothing_else(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def chatter(config: RunConfig) -> None:
        print("a library that prints")

    engine.fail = chatter
    for _ in range(2):  # executed, then skipped
        assert main(["run", *QUICK, "--json", "bits=w8a8"]) == 0
        captured = capsys.readouterr()
        result = Result.model_validate(json.loads(captured.out))
        assert result.signature in Store("runs").signatures()
        assert result.metrics.top1 == 93.0
    assert "skipped" in captured.err


def test_options_between_overrides(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "bits=w8a8", "--json", "seed=1", "--dry-run", "method=mse"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["config"]["seed"], run["config"]["method"]["name"]) == (1, "mse")


def test_failed_run_exits_1_and_names_the_log(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.fail = fail_at_4_bits
    assert main(["run", *QUICK, "bits=w4a4"]) == 1
    out = capsys.readouterr().out
    assert "ValueError: no such thing" in out
    assert "log.txt" in out
    assert main(["run", *QUICK, "bits=w4a4", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_invalid_config_exits_2_with_all_problems_and_writes_nothing(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    problems = command_problems(["run", "-m", "bits.weight=1,4", "methd=x", "calib.size=32,9999"])
    assert capsys.readouterr().out == ""
    narrow, unknown = sorted(problems, key=lambda problem: problem.key)
    assert is_about(narrow, "bits.weight", 1, [2, 3, 4, 8, "fp"])
    assert is_about(unknown, "methd", "methd", ["method", "bits", "cache_dir"])
    assert not list(tmp_path.iterdir())


def test_dry_run_lists_the_runs_that_cannot_start(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", *QUICK, "calib.size=32,9999", "--dry-run"]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    signature, state, label = line.split(maxsplit=2)
    assert (len(signature), state, label) == (16, "refused", "vit_digits minmax w8a8 calib.size=9999")


def test_warnings_of_a_plan_are_printed_and_kept(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "warnings", lambda config: ["2 files are left out"])
    words = ["run", "-m", *QUICK, "seed=1,2"]
    assert main([*words, "--dry-run"]) == 0
    assert "warning: 2 files are left out" in capsys.readouterr().out.splitlines()
    assert main([*words, "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["runs"]) == 2
    assert "vitq: 2 files are left out" in captured.err.splitlines()

    seen: list[list[str]] = []

    def look(config: RunConfig) -> None:
        statuses = [Store("runs").run(signature).read_status() for signature in Store("runs").signatures()]
        seen.append([line for status in statuses if status and status.state != "done" for line in status.warnings])

    engine.fail = look
    assert main(words) == 0
    assert capsys.readouterr().err.splitlines().count("vitq: 2 files are left out") == 1
    assert [len(lines) for lines in seen] == [2, 1]


def test_warnings_that_only_a_result_has_are_printed_once_for_all_runs(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as full precision far from the published one: no plan can know it."""
    words = ["run", "-m", *QUICK, "method=minmax,mse"]
    assert main(words) == 0
    store = Store("runs")
    for signature in store.signatures():
        result = store.run(signature).require_result()
        store.run(signature).write_result(result.model_copy(update={"warnings": ["far from the published one"]}))
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.count("warning: far from the published one [2 runs]") == 1
    assert main(["run", *QUICK, "method=mse"]) == 0
    assert "warning: far from the published one\n" in capsys.readouterr().out


def test_several_values_without_m(engine: FakeEngine) -> None:
    command_refuses(["run", "bits=w8a8,w4a4"], key="bits", value=["w8a8", "w4a4"])


def test_the_name_of_a_sweep_is_not_ignored(engine: FakeEngine, capsys: pytest.CaptureFixture[str], repo: Path) -> None:
    command_refuses(["run", "--name", "mine", *QUICK], key="--name", value="mine")
    words = ["run", "-m", "--config-dir", str(repo / "sweeps"), "--config-name", "demo", "--dry-run", "--json"]
    assert main([*words, "--name", "mine", "bits=w8a8", "model=vit_digits"]) == 0
    assert json.loads(capsys.readouterr().out)["sweep"] == "mine"


def test_multirun_is_a_sweep_with_a_table(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-m", "--name", "mine", *QUICK, "method=fp32,minmax", "bits=w8a8,w4a4"]) == 0
    out = capsys.readouterr().out
    assert "4 cells" in out
    assert Store("runs").read_sweep("mine").axes["method"] == ["fp32", "minmax"]
    assert "minmax" in out
    assert str(Path("runs/sweeps/mine/report.html").absolute()) in out
    assert Path("runs/sweeps/mine/report.html").stat().st_size > 0


def test_hydra_style_primary_config(engine: FakeEngine, capsys: pytest.CaptureFixture[str], repo: Path) -> None:
    words = ["run", "--config-dir", str(repo / "sweeps"), "--config-name", "demo", "--dry-run", "--json"]
    assert main([*words, "bits=w8a8", "model=vit_digits"]) == 0
    assert json.loads(capsys.readouterr().out)["sweep"] == "demo"


def test_dry_run_lists_and_writes_nothing(
    small: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["sweep", small, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "6 cells, 5 runs, 0 finished before; nothing was started or written" in out
    assert "planned  vit_digits mse w4a4" in out
    assert engine.executed == []
    assert not (tmp_path / "runs").exists()


def test_dry_run_says_what_a_star_is(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    for word, said in (("bits.kinds.probs=8", True), ("bits=w4a4", False)):
        assert main(["run", "-m", *QUICK, word, "seed=1,2", "--dry-run"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert sum("planned  " in line and ("w8a8*" in line.lower()) is said for line in lines) == 2, lines
        assert (star_note(["W8A8*"]) in lines) is said


def test_sweep_twice_repeats_nothing_and_prints_the_same_table(
    small: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", small]) == 0
    first = capsys.readouterr().out
    assert len(engine.executed) == 5
    assert engine.groups == ["small"] * 5
    assert main(["sweep", small]) == 0
    second = capsys.readouterr().out
    assert len(engine.executed) == 5
    assert second.count("finished before, skipped") == 5

    def table(text: str) -> list[str]:
        return [line for line in text.splitlines() if "skipped" not in line and not line.startswith(("[", "small:"))]

    assert table(first) == table(second)
    assert any("minmax" in line for line in table(first))


def test_sweep_json(small: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.fail = fail_at_4_bits
    assert main(["sweep", small, "--json"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert len(document["runs"]) == 5
    assert len(document["failed"]) == 2
    by_state = [row["state"] for row in document["runs"]]
    assert (by_state.count("done"), by_state.count("failed")) == (3, 2)
    assert "2 of 5 runs failed" in captured.err


def test_a_sweep_without_its_baseline_says_so_in_one_line(
    small: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", small, "method=mse", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["sweep"] == "small"
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("vitq: sweep.baseline=minmax: not among the methods of this sweep (mse)")
    words = ["sweep", small, "sweep.baseline=minmx", "--dry-run"]
    command_refuses(words, key="sweep.baseline", value="minmx", valid=["fp32", "minmax", "mse"])


def test_status_and_report_of_an_unknown_sweep(engine: FakeEngine) -> None:
    for command in ("status", "report"):
        command_refuses([command, "nothing"], key="sweep", value="nothing")


def test_report_formats(small: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["sweep", small])
    capsys.readouterr()
    assert main(["report", small, "--format", "csv", "--format", "md", "--out", str(tmp_path / "page")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(path.suffix for path in written) == [".csv", ".md"]
    assert all(path.parent == tmp_path / "page" and path.stat().st_size for path in written)


def test_ctrl_c_exits_130(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(config: RunConfig) -> None:
        raise KeyboardInterrupt

    engine.fail = interrupt
    assert main(["run", *QUICK]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m vitq list methods | head -n 1; exit ${{PIPESTATUS[0]}}"
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_a_compiler_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """torch makes it while it is imported, whether or not the run compiles anything."""
    words = [sys.executable, "-m", "vitq", "run", "method=minmax", "tracker=none"]
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": "/proc/nowhere"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 2
    assert "TORCHINDUCTOR_CACHE_DIR=/proc/nowhere: " in done.stderr
    assert "Traceback" not in done.stderr
