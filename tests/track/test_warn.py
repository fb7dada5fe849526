"""What goes wrong with the mirror costs the mirror, is said, and never costs the record."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.track.runs import SITES, execute, kill_service, leet, log_of, make_config, make_result, read_back
from vitq import track
from vitq.config import signature
from vitq.store import Store


def test_a_folder_that_cannot_be_written_costs_the_mirror_and_not_the_record(tmp_path: Path, caplog: Any) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    config = make_config(tmp_path, tracker={"dir": str(blocked)})
    with caplog.at_level(logging.WARNING, logger="vitq.track"):
        run_dir = execute(config)
    assert run_dir.is_done()
    assert "init failed" in log_of(run_dir)
    assert "not mirrored" in log_of(run_dir)
    assert "init failed" in caplog.text


@pytest.mark.parametrize("moment", ["before the result", "after the result"])
def test_the_death_of_wandbs_service_costs_one_mirror_and_no_record(tmp_path: Path, moment: str) -> None:
    config, after = make_config(tmp_path, seed=1), make_config(tmp_path, seed=2)
    run_dir = Store(config.runs_dir).run(signature(config))
    with track.make(config.tracker).run(config, signature(config), None, run_dir) as tracked:
        run_dir.write_result(make_result(config))
        if moment == "before the result":
            kill_service()
        tracked.result(make_result(config), SITES)
        if moment == "after the result":
            kill_service()
    assert run_dir.is_done()
    assert "finish failed" in log_of(run_dir)
    execute(after)
    seen = read_back(after)
    assert (seen["exit_code"], seen["summary"]["top1"]) == (0, 71.5)


def test_a_service_that_died_between_two_runs_is_started_again(tmp_path: Path) -> None:
    first, second = make_config(tmp_path, seed=1), make_config(tmp_path, seed=2)
    execute(first)
    kill_service()
    run_dir = execute(second)
    assert "another service process" in log_of(run_dir)
    last = json.loads(leet(Path(json.loads(run_dir.tracker_path.read_text())["sync_dir"]), "--summary"))
    assert (last["exit_code"], last["summary"]["top1"]) == (0, 71.5)


def test_the_runs_own_error_is_raised_when_wandb_fails_as_well(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run_dir = Store(config.runs_dir).run(signature(config))

    cause = RuntimeError("the real cause")

    def both_fail() -> None:
        with track.make(config.tracker).run(config, signature(config), None, run_dir):
            kill_service()
            raise cause

    with pytest.raises(RuntimeError) as raised:
        both_fail()
    assert raised.value is cause
    assert "finish failed" in log_of(run_dir)


def test_a_table_that_wandb_refuses_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(*args: object, **kwargs: object) -> None:
        raise TypeError("no table today")

    monkeypatch.setattr(wandb, "Table", refuse)
    config = make_config(tmp_path)
    run_dir = execute(config)
    assert run_dir.is_done()
    assert "no table today" in log_of(run_dir)
    run = read_back(config)
    assert (run["exit_code"], run["summary"]["top1"]) == (0, 71.5)


def test_a_log_that_cannot_be_written_leaves_the_warning_on_the_logger(tmp_path: Path, caplog: Any) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    config = make_config(tmp_path, tracker={"dir": str(blocked)})
    run_dir = Store(config.runs_dir).run(signature(config))
    run_dir.log_path.mkdir(parents=True)
    with caplog.at_level(logging.WARNING, logger="vitq.track"):
        execute(config)
    assert run_dir.is_done()
    assert "cannot write" in caplog.text
    assert "init failed" in caplog.text


def test_a_damaged_tracker_json_is_a_warning(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run_dir = Store(config.runs_dir).run(signature(config))
    run_dir.path.mkdir(parents=True)
    run_dir.tracker_path.write_text("{half a rec")
    execute(config)
    assert "reading tracker.json failed" in log_of(run_dir)
    assert json.loads(run_dir.tracker_path.read_text())["generation"] == 1


def test_an_id_that_cannot_be_remembered_is_a_warning(tmp_path: Path, caplog: Any) -> None:
    config = make_config(tmp_path)
    run_dir = Store(config.runs_dir).run(signature(config))
    run_dir.path.parent.mkdir(parents=True)
    run_dir.path.write_text("a file where the run's folder should be")
    with (
        caplog.at_level(logging.WARNING, logger="vitq.track"),
        track.make(config.tracker).run(config, signature(config), None, run_dir) as tracked,
    ):
        tracked.result(make_result(config), SITES)
    assert "remembering the run's id failed" in caplog.text
    assert read_back(config)["summary"]["top1"] == 71.5
