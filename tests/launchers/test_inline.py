"""The inline launcher: one run after another, failures recorded, finished runs skipped."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.errors import refuses
from tests.fake_engine import FakeEngine
from vitq.config import RunConfig
from vitq.errors import VitqError
from vitq.planning import compose, planner
from vitq.planning.display import Show
from vitq.planning.launcher import LAUNCHERS, launcher_of
from vitq.planning.plan import Plan


def make(*overrides: str) -> Plan:
    file, roots = compose.root_config()
    planned = planner.make(compose.load(file, roots, ["tracker=none", *overrides], multirun=True), name="test")
    planned.commit()
    return planned


def launch(planned: Plan) -> tuple[list[str], str]:
    text = io.StringIO()
    show = Show(Console(file=text, width=200), "test", len(planned.runs))
    with show:
        failed = launcher_of(planned).launch(planned, show)
    return failed, text.getvalue()


def fail_at_4_bits(config: RunConfig) -> None:
    if config.bits.weight == 4:
        raise ValueError("no such\nthing")


def test_runs_in_order_with_the_sweep_as_group(engine: FakeEngine) -> None:
    planned = make("bits=w8a8,w4a4,w3a3")
    failed, text = launch(planned)
    assert failed == []
    assert engine.executed == [run.signature for run in planned.runs]
    assert engine.groups == ["test"] * 3
    assert text.count("done in") == 3
    assert "[3/3] vit_digits minmax w3a3" in text
    assert "top-1 84.67 %, drop 13.33 points" in text


def test_a_failed_run_is_recorded_and_the_next_one_starts(engine: FakeEngine) -> None:
    engine.fail = fail_at_4_bits
    planned = make("bits=w8a8,w4a4,w3a3")
    failed, text = launch(planned)
    assert failed == [planned.runs[1].signature]
    assert len(engine.executed) == 3
    run_dir = planned.store.run(failed[0])
    status = run_dir.read_status()
    assert status is not None
    assert (status.state, status.error) == ("failed", "ValueError: no such thing")
    assert "fail_at_4_bits" in (status.traceback or "")
    assert "fail_at_4_bits" in run_dir.log_path.read_text()
    assert not run_dir.is_done()
    assert "ValueError: no such thing" in text


def test_second_start_repeats_only_what_failed(engine: FakeEngine) -> None:
    engine.fail = fail_at_4_bits
    launch(make("bits=w8a8,w4a4,w3a3"))
    engine.executed.clear()
    engine.fail = lambda config: None
    planned = make("bits=w8a8,w4a4,w3a3")
    failed, text = launch(planned)
    assert failed == []
    assert engine.executed == [planned.runs[1].signature]
    assert text.count("finished before, skipped") == 2


def test_an_unreadable_result_is_not_done(engine: FakeEngine) -> None:
    planned = make("bits=w8a8")
    launch(planned)
    planned.store.run(planned.runs[0].signature).result_path.write_text('{"half')
    engine.executed.clear()
    launch(make("bits=w8a8"))
    assert len(engine.executed) == 1


def test_ctrl_c_passes_and_keeps_what_is_finished(engine: FakeEngine) -> None:
    def interrupt(config: RunConfig) -> None:
        if config.bits.weight == 4:
            raise KeyboardInterrupt

    engine.fail = interrupt
    planned = make("bits=w8a8,w4a4,w3a3")
    with pytest.raises(KeyboardInterrupt):
        launch(planned)
    assert [planned.store.run(run.signature).is_done() for run in planned.runs] == [True, False, False]


def test_an_unknown_launcher_names_the_valid_ones() -> None:
    with refuses(VitqError, value="locall", valid=["inline", "local"]):
        LAUNCHERS["locall"]
