"""What is to be executed: runs, checked and signed, in a store."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

from vitq.config import LauncherConfig, RunConfig
from vitq.config.sweep import SweepConfig
from vitq.job import provenance
from vitq.models.pretrained import treatment
from vitq.planning import paths
from vitq.store import Store, SweepRecord
from vitq.store.history import set_aside
from vitq.store.status import Status

# Where activations wait, by `calib.cache`.
_WHERE = {"disk": "in {} (TMPDIR)", "host": "of memory (calib.cache=disk: on disk)", "device": "of the device's memory"}


@dataclass(frozen=True)
class PlannedRun:
    """One run: its identity, its checked config, and how it is called where people look.

    warnings: what is done to its images and weights that its config does not ask for. other_code: how the code that
    made the result of a finished run differs from today's. options: whose the options of its recipe are: the paper's,
    tuned … room: bytes that it keeps between two segments at once, and where (`calib.cache`), where that is known.
    images: how many it scores.
    """

    signature: str
    config: RunConfig
    label: str
    overrides: tuple[str, ...]
    done: bool
    warnings: tuple[str, ...] = ()
    other_code: str = ""
    options: str = ""
    room: tuple[int, str] | None = None
    images: int | None = None


@dataclass(frozen=True)
class Plan:
    """Runs in order, no two alike. `sweep` is None for a run of its own; `cells`: size of the product before
    exclusions and before equal runs became one; `warnings`: what is likely a mistake and stops nothing; `again`:
    results that are there are set aside and computed anew; `pilots`: runs that a budget needs first, without which the
    plan is not whole; `part`: the sweep's record has other runs too, and stays."""

    runs: tuple[PlannedRun, ...]
    store: Store
    launcher: LauncherConfig
    cells: int
    sweep: SweepConfig | None = None
    axes: dict[str, list[str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    again: bool = False
    pilots: tuple[PlannedRun, ...] = ()
    part: bool = False

    @property
    def name(self) -> str | None:
        """Name of the sweep; group of its runs in the tracker."""
        return self.sweep.name if self.sweep else None

    @property
    def notes(self) -> list[str]:
        """What the runs to do need beside their results, and how images reach weights of pretrained tags, in lines."""
        most: dict[str, int] = {}
        for run in self.runs:
            if run.room is not None and not run.done:
                most[run.room[1]] = max(most.get(run.room[1], 0), run.room[0])
        treated = {treatment(run.config.model, run.config.data): None for run in self.runs if not run.done}
        return [line for line in treated if line] + [
            f"calib.cache={where}: activations of the calibration images take up to {size / 1e9:.2g} GB "
            f"{_WHERE[where].format(tempfile.gettempdir())}, in each run that is under way"
            for where, size in most.items()
        ]

    def commit(self, command: str = "") -> None:
        """Write the config of every unfinished run, and the sweep's record. Raises StoreError.

        A finished run keeps its record; where its images and weights lie today is noted in its config.
        """
        for run in self.runs:
            run_dir = self.store.run(run.signature)
            if run.done:
                paths.renew(run_dir, run.config)
                continue
            if self.again:
                set_aside(run_dir)
            run_dir.write_config(run.config.to_dict())
            known, warnings = run_dir.status_hint(), list(run.warnings)
            # Planned again by other code, and never begun: it is this code that the run was planned with.
            if known is None or (known.state == "planned" and known.code != provenance.code()):
                run_dir.write_status(Status(state="planned", code=provenance.code(), warnings=warnings))
            elif known.warnings != warnings and known.state != "running":
                run_dir.write_status(known.model_copy(update={"warnings": warnings}))
        if self.sweep and not self.part:
            about = {key: getattr(self.sweep, key) for key in ("name", "description", "baseline", "budget_seconds")}
            labels = {run.signature: run.label for run in self.runs}
            record = SweepRecord(
                **about,
                signatures=list(labels),
                labels=labels,
                command=command,
                axes=self.axes,
                launcher=dataclasses.asdict(self.launcher),
                options={run.signature: run.options for run in self.runs},
            )
            self.store.write_sweep(record)


def options_of(config: RunConfig, overrides: Sequence[str], sweep: SweepConfig | None) -> str:
    """Whose the options of a run's recipe are: `paper's`, or what was tuned, scaled to a budget, or overridden."""
    if not config.method.quantizes:
        return ""
    tuned, seconds = config.method.tuned, sweep.budget_seconds if sweep else None
    texts = [f"tuned ({tuned.trials} trials, {tuned.seconds:.0f} s)"] if tuned else []
    # With a budget, iterations are what `scaled to` says.
    kept = ("method.iterations=null",) if seconds else ()
    words = [word.lstrip("+") for word in overrides]
    changed = [word for word in words if word.lstrip("~").startswith("method.") and word not in kept]
    if seconds and config.method.iterations:
        rates = "" if config.method.rates == "paper" else f", rates={config.method.rates}"
        texts.append(f"scaled to {seconds:g} s ({config.method.iterations} iterations{rates})")
    if changed:
        texts.append("changed: " + ", ".join(word.removeprefix("method.") for word in changed))
    return ", ".join(texts) or "paper's"
