"""What a person sees while a plan is executed: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from vitq.progress import Progress
from vitq.report.numbers import figures

if TYPE_CHECKING:
    from vitq.planning.plan import PlannedRun
    from vitq.store.result import Result

# Seconds between two lines about the stages of one run, where lines cannot be overwritten.
_QUIET_SECONDS = 10.0


class Show:
    """Plain lines, one when a run starts and one when it ends; the base of the live display.

    Use as a context manager around a launch. `name`: of the sweep or of the one run. `total`: number of runs.
    """

    def __init__(self, console: Console, name: str, total: int):
        self.console, self.name, self.total = console, name, total
        self.ended = 0
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to put back for plain lines."""

    def running(self, run: PlannedRun) -> Progress:
        """A run starts; give the returned listener to it."""
        self._started[run.signature] = time.monotonic()
        self._print_line(run, "started", ahead=1)
        return _Lines(self, run)

    def finished(self, run: PlannedRun, result: Result) -> None:
        """A run ended with a result."""
        self._end(run)
        self._print_line(run, f"[green]done[/] in {self._seconds(run)}: {_scores(run, result)}")

    def failed(self, run: PlannedRun, error: BaseException) -> None:
        """A run ended without a result."""
        self._end(run)
        line = " ".join(f"{type(error).__name__}: {error}".split())
        self._print_line(run, f"[red]failed[/] after {self._seconds(run)}: {escape(line)}")

    def ended_quietly(self, run: PlannedRun) -> None:
        """What was done to a run has ended, and the caller says how."""
        self._end(run)

    def skipped(self, run: PlannedRun) -> None:
        """A run has its result already."""
        self._end(run)
        other = f" by other code ({run.other_code}; --again computes it anew)" if run.other_code else ""
        self._print_line(run, f"[dim]finished before{other}, skipped ({run.signature})[/]")

    def _end(self, run: PlannedRun) -> None:
        self.ended += 1

    def _print_line(self, run: PlannedRun, text: str, ahead: int = 0) -> None:
        position = f"[dim]{escape(f'[{self.ended + ahead}/{self.total}]')}[/] "
        self.console.print(f"{position}{escape(run.label)}  {text}", soft_wrap=True, highlight=False)

    def _seconds(self, run: PlannedRun) -> str:
        seconds = time.monotonic() - self._started.get(run.signature, time.monotonic())
        return f"{seconds:.1f} s"


class _Lines(Progress):
    """Says the stage of a run, at most every ten seconds."""

    def __init__(self, show: Show, run: PlannedRun):
        self._show, self._run = show, run
        self._last = time.monotonic()
        self._stage, self._total, self._done = "", 0, 0

    def stage(self, name: str, total: int | None = None) -> None:
        self._stage, self._total, self._done = name, total or 0, 0
        self._print_stage("")

    def advance(self, units: int = 1, note: str = "") -> None:
        self._done += units
        self._print_stage(note)

    def _print_stage(self, note: str) -> None:
        if time.monotonic() - self._last < _QUIET_SECONDS:
            return
        self._last = time.monotonic()
        count = f" {self._done}/{self._total}" if self._total else f" {self._done}" if self._done else ""
        self._show._print_line(self._run, f"[dim]{escape(f'{self._stage}{count} {note}'.rstrip())}[/]", ahead=1)


class LiveShow(Show):
    """One line per running run (stage, block, bar, time left) above a bar for the sweep; ended runs scroll up."""

    def __init__(self, console: Console, name: str, total: int):
        super().__init__(console, name, total)
        text = "{task.description}"
        self._runs = Bars(
            SpinnerColumn(),
            TextColumn(text, markup=False),
            TextColumn("{task.fields[stage]}", style="cyan", markup=False),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        sweep = (TextColumn(text, markup=False), BarColumn(40), MofNCompleteColumn(), TextColumn("runs"))
        self._sweep = Bars(*sweep, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=console)
        self._all = self._sweep.add_task(name, total=total)
        self._tasks: dict[str, TaskID] = {}
        self._live = Live(Group(self._runs, self._sweep), console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was, also after Ctrl-C."""
        self._live.stop()

    def running(self, run: PlannedRun) -> Progress:
        self._started[run.signature] = time.monotonic()
        self._tasks[run.signature] = self._runs.add_task(run.label, total=None, stage="starting", note="")
        return _Bar(self._runs, self._tasks[run.signature])

    def _end(self, run: PlannedRun) -> None:
        super()._end(run)
        self._sweep.advance(self._all)
        if run.signature in self._tasks:
            self._runs.remove_task(self._tasks.pop(run.signature))


class _Bar(Progress):
    def __init__(self, bars: Bars, task: TaskID):
        self._bars, self._task = bars, task

    def stage(self, name: str, total: int | None = None) -> None:
        """The bar and the time left start anew."""
        self._bars.reset(self._task, total=total, stage=name, note="")

    def advance(self, units: int = 1, note: str = "") -> None:
        self._bars.update(self._task, advance=units, note=note)


def make(console: Console, name: str, total: int) -> Show:
    """The display that suits a console."""
    return (LiveShow if console.is_terminal else Show)(console, name, total)


def _scores(run: PlannedRun, result: Result) -> str:
    scores, kl = figures(result.metrics.model_dump()), result.metrics.kl
    if run.config.data.held_out and kl is not None:  # what `vitq tune` chooses by
        scores = f"KL {kl:.4g} nats on held-out images, {scores}"
    # A job that waited in a queue runs the code of the moment when it starts; its result notes both.
    other = any(key.startswith("planned_") for key in result.provenance.code)
    return scores + ("; the code has changed since it was planned" if other else "")
