"""What people see: live on a terminal, lines elsewhere, and never an escape code in a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.fake_engine import FakeEngine, result_of
from vitq.planning import compose, planner
from vitq.planning import display as show
from vitq.planning.plan import PlannedRun


@pytest.fixture
def run(engine: FakeEngine) -> PlannedRun:
    file, roots = compose.root_config()
    return planner.make(compose.load(file, roots, ["bits=w4a4"])).runs[0]


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=140, legacy_windows=False), text


def test_plain_lines(run: PlannedRun) -> None:
    target, text = console(False)
    with show.make(target, "demo", 3) as display:
        assert type(display) is show.Show
        display.skipped(run)
        progress = display.running(run)
        progress.stage("steps.ranges", 12)
        progress.advance(1, "blocks.0")
        display.finished(run, result_of(run.config, run.signature))
        display.running(run)
        display.failed(run, ValueError("[odd] text"))
    lines = text.getvalue().splitlines()
    assert [line[:5] for line in lines] == ["[1/3]", "[2/3]", "[2/3]", "[3/3]", "[3/3]"]
    assert "finished before, skipped" in lines[0]
    assert lines[2].endswith("top-1 88.00 %, drop 10.00 points")
    assert lines[4].endswith("ValueError: [odd] text")
    assert "\x1b" not in text.getvalue()


def test_a_long_run_says_where_it_stands(run: PlannedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(show.time, "monotonic", lambda: now)
    target, text = console(False)
    progress = show.make(target, "demo", 1).running(run)
    progress.stage("steps.ranges", 12)
    now = 11.0
    progress.advance(5, "blocks.4")
    now = 12.0
    progress.advance(1, "blocks.5")
    assert text.getvalue().splitlines()[1:] == ["[1/1] vit_digits minmax w4a4  steps.ranges 5/12 blocks.4"]


def test_live_line_has_stage_block_and_sweep_bar(run: PlannedRun) -> None:
    target, text = console(True)
    with show.make(target, "demo", 3) as display:
        assert isinstance(display, show.LiveShow)
        progress = display.running(run)
        progress.stage("steps.ranges", 12)
        progress.advance(5, "blocks.4")
        display._live.refresh()
        shown = text.getvalue()
        display.finished(run, result_of(run.config, run.signature))
        display._live.refresh()
    for words in ("vit_digits minmax w4a4", "steps.ranges", "blocks.4", "5/12", "demo", "0/3"):
        assert words in shown
    assert "1/3" in text.getvalue()
    assert "top-1" in text.getvalue()


def test_live_display_ends_with_the_block_that_uses_it(run: PlannedRun) -> None:
    target, _ = console(True)
    display = show.LiveShow(target, "demo", 1)
    error = KeyboardInterrupt()
    display.__enter__().running(run)
    assert display._live.is_started
    display.__exit__(KeyboardInterrupt, error, None)
    assert not display._live.is_started
