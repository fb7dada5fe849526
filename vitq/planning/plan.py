"""What is to be executed: runs, checked and signed, in a store."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from vitq.config import LauncherConfig, RunConfig
from vitq.config.sweep import SweepConfig
from vitq.job import provenance
from vitq.store import Store, SweepRecord
from vitq.store.records import Status


@dataclass(frozen=True)
class PlannedRun:
    """One run: its identity, its checked config, and how it is called where people look."""

    signature: str
    config: RunConfig
    label: str
    overrides: tuple[str, ...]
    done: bool


@dataclass(frozen=True)
class Plan:
    """Runs in order, no two alike. `sweep` is None for a run of its own; `cells`: size of the product before
    exclusions and before equal runs became one; `warnings`: what is likely a mistake and stops nothing."""

    runs: tuple[PlannedRun, ...]
    store: Store
    launcher: LauncherConfig
    cells: int
    sweep: SweepConfig | None = None
    axes: dict[str, list[str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """Name of the sweep; group of its runs in the tracker."""
        return self.sweep.name if self.sweep else None

    def commit(self, command: str = "") -> None:
        """Write the config of every unfinished run, and the sweep's record. Raises StoreError."""
        for run in self.runs:
            if run.done:
                continue
            run_dir = self.store.run(run.signature)
            run_dir.write_config(run.config.to_dict())
            known = run_dir.status_hint()
            # Planned again by other code, and never begun: it is this code that the run was planned with.
            if known is None or (known.state == "planned" and known.code != provenance.code()):
                run_dir.write_status(Status(state="planned", code=provenance.code()))
        if self.sweep:
            record = SweepRecord(
                name=self.sweep.name,
                description=self.sweep.description,
                signatures=[run.signature for run in self.runs],
                baseline=self.sweep.baseline,
                command=command,
                axes=self.axes,
                launcher=dataclasses.asdict(self.launcher),
                labels={run.signature: run.label for run in self.runs},
            )
            self.store.write_sweep(record)
