"""The mirror of a study: a W&B run of its own, live, rebuilt and uploaded, read by W&B's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import refuses
from tests.track.fake_wandb import FakeWandb
from tests.track.runs import make_config, make_result, records, summary_in
from vitq import track
from vitq.cli import main
from vitq.config import RunConfig, signature
from vitq.config.tuning import OptionRange
from vitq.errors import StoreError
from vitq.store import Store, SweepRecord, mirror_record
from vitq.store.studies import StudyDir, StudyRecord, TrialRecord, write_study
from vitq.track.rebuild import rebuild

KL = (0.5, 0.25, None, 0.375, 0.125)
NAME = "tune_erq"


def studied(tmp_path: Path, **tracker: str) -> tuple[RunConfig, StudyDir]:
    """A study of five trials, one of which failed; its run of trial 4 is stored."""
    config = make_config(tmp_path, tracker=tracker)
    store = Store(config.runs_dir)
    run_dir = store.run(signature(config))
    run_dir.write_config(config.to_dict())
    run_dir.write_result(make_result(config))
    trials = [
        TrialRecord(
            number=number, state="failed" if kl is None else "done", kl=kl, seconds=2.0, signature=signature(config),
            options={"steps.erq.penalty": 10.0**number, "kinds.weight.options.percentiles": [0.9, 0.99]},
        )
        for number, kl in enumerate(KL)
    ]  # fmt: skip
    ranges = {
        "steps.erq.penalty": OptionRange(low=1.0, high=1e6, log=True),
        "kinds.weight.options.percentiles": OptionRange(choices=([0.9, 0.99], [0.5, 1.0])),
    }
    record = StudyRecord(
        name=NAME, method="erq", held_out=50, ranges=ranges, own=trials[0].options, trials=trials,
        importances={"steps.erq.penalty": 1.0}, recipe="erq_tuned.yaml",
    )  # fmt: skip
    store.write_sweep(SweepRecord(name=NAME, signatures=[signature(config)]))
    write_study(store, record)
    return config, StudyDir(store, NAME)


def folder_of(study_dir: StudyDir) -> Path:
    known = mirror_record.read(study_dir)
    assert known is not None
    return Path(known.sync_dir)


def test_curve_table_and_charts(tmp_path: Path) -> None:
    config, study_dir = studied(tmp_path)
    track.mirror_study(config, study_dir)
    folder = folder_of(study_dir)
    summary = summary_in(folder)
    assert summary["exit_code"] == 0
    values = summary["summary"]
    assert (values["kl"], values["kl_own"], values["held_out"], values["trials_done"]) == (0.125, 0.5, 50, 4)
    assert values["best/steps/erq/penalty"] == 10_000.0
    assert {"trials", "tuning/curve", "tuning/importances"} <= values.keys() | {key.split(".")[0] for key in values}
    read = records(folder)
    history = [entry["history"]["item"] for entry in read if entry["type"] == "history"]
    curve = [(row["trial"], row["kl"], row["kl_least"]) for row in history if "kl_least" in row]
    assert curve == [(0, 0.5, 0.5), (1, 0.25, 0.25), (3, 0.375, 0.25), (4, 0.125, 0.125)]
    (run,) = (entry["run"] for entry in read if entry["type"] == "run")
    assert (run["display_name"], run["run_group"], run["job_type"]) == (NAME, NAME, "tune")
    assert not study_dir.log_path.exists(), "W&B refused nothing"


def test_it_is_made_again_from_the_store_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, study_dir = studied(tmp_path)
    track.mirror_study(config, study_dir)
    first = folder_of(study_dir)
    second = rebuild(study_dir, None)
    assert second != first == second.parent / first.name
    assert second == folder_of(study_dir)
    assert main(["sync", NAME, "--dry-run", "--runs-dir", config.runs_dir]) == 0
    assert capsys.readouterr().out.startswith("2 runs: 1 to upload, 1 to rebuild and upload")


def test_sync_uploads_it(tmp_path: Path, online: FakeWandb) -> None:
    config, study_dir = studied(tmp_path)
    track.mirror_study(config, study_dir)
    # The run of its trial has no table of sites, so its own mirror cannot be made: the study's arrives all the same.
    assert main(["sync", NAME, "--runs-dir", config.runs_dir]) == 1
    assert online.runs[NAME].summary["kl"] == 0.125
    assert (online.runs[NAME].group, online.runs[NAME].exit_code) == (NAME, 0)
    known = mirror_record.read(study_dir)
    assert known is not None
    assert known.uploaded is not None


def test_nothing_is_mirrored_where_trials_are_not(tmp_path: Path) -> None:
    config, study_dir = studied(tmp_path, name="none")
    track.mirror_study(config, study_dir)
    assert not study_dir.tracker_path.exists()


def test_a_study_without_a_result_has_no_mirror(tmp_path: Path) -> None:
    _, study_dir = studied(tmp_path)
    record = StudyRecord(name=NAME, method="erq", held_out=50, ranges={}, own={}, trials=[])
    write_study(study_dir.store, record)
    with refuses(StoreError, "study", NAME):
        rebuild(study_dir, None)
