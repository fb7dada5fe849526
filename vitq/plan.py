"""From cells to runs: every config parsed, checked and signed before anything starts or is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vitq import baseline, compose, host
from vitq.compose import Cell, Primary
from vitq.config import BitsConfig, CalibConfig, LauncherConfig, RunConfig, signature
from vitq.errors import ConfigError, DataError, ModelError, unknown
from vitq.problems import merge, with_valid_keys
from vitq.result import Status
from vitq.store import Store, SweepRecord
from vitq.sweep import SweepConfig
from vitq.unread import Unread

T = TypeVar("T")


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
            # Planned again by other code, and begun by nobody: this plan is the one that counts.
            if known is None or (known.state == "planned" and known.code != host.code()):
                run_dir.write_status(Status(state="planned", code=host.code()))
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


def make(primary: Primary, name: str | None = None, watch: Callable[[int], None] = lambda cells: None) -> Plan:
    """Expand a primary config and check every run. Raises ConfigError with all problems of all runs.

    name: sweep name where the config has no `sweep` section; None for a single run. watch: called with the number of
    cells looked at so far.
    """
    sweep, found = (SweepConfig.parse(primary.sweep, name or primary.file.stem)) if primary.multirun else (None, [])
    if sweep:
        groups = primary.roots
        # Several probes are chosen together, under no one's name.
        found = sweep.unmatched(lambda key: groups.files(key) if groups.is_group(key) and key != "probe" else ())
    problems = [("", problem) for problem in found]
    facts = _Facts()
    unread = Unread()
    methods: dict[str, set[str]] = {}
    runs: dict[str, PlannedRun] = {}
    stores: dict[str, Store] = {}
    launchers: list[LauncherConfig] = []
    cells = 0
    for cells, cell in enumerate(compose.expand(primary), 1):
        watch(cells)
        label = _label(cell, primary)
        try:
            if sweep and cell.problem is None and sweep.excludes(cell.choices, cell.raw):
                continue
        except KeyError as error:
            valid = [*cell.choices, *cell.raw]
            problems.append(("", f"sweep.exclude: {unknown('key', error.args[0], valid, 'Dotted keys work too.')}"))
        config, found = _parse(cell)
        if config is not None:
            methods.setdefault(config.method.name, set()).add(cell.choices.get("method", ""))
            label = _label(cell, primary, config)
            store = stores.setdefault(config.runs_dir, Store(config.runs_dir))
            launchers = [*launchers, config.launcher] if config.launcher not in launchers else launchers
            config, unfit = facts.fill(config)
            found += unfit
            sign = signature(config)
            if sign not in runs:
                done = not found and store.run(sign).is_done()
                found += [] if done else [line for line in facts.check(config) if line not in found]
                if not found:
                    runs[sign] = PlannedRun(sign, config, label, cell.overrides, done)
                unread.look(cell.overrides, config, done)
        problems += [(label, with_valid_keys(problem)) for problem in found]
    for key, several in (("runs_dir", list(stores)), ("launcher", [launcher.name for launcher in launchers])):
        if len(several) > 1:
            problems.append(
                ("", f"{key}: one sweep uses one, found {', '.join(several)}; start them as separate sweeps")
            )
    problems += [("", line) for line in unread.problems()]
    warnings: tuple[str, ...] = ()
    if sweep and sweep.baseline and methods:
        known = baseline.find(sweep.baseline, methods, primary.roots.files("method"))
        problems += [("", known.problem)] if known.problem else []
        warnings = (known.warning,) if known.warning else ()
        sweep = dataclasses.replace(sweep, baseline=known.name)
    if not problems and not runs:
        problems.append(("", "the sweep has no runs: `sweep.exclude` leaves out every cell"))
    if problems:
        raise ConfigError(merge(problems, cells))
    return Plan(tuple(runs.values()), next(iter(stores.values())), launchers[0], cells, sweep, primary.swept, warnings)


def _parse(cell: Cell) -> tuple[RunConfig | None, list[str]]:
    if cell.problem is not None:
        return None, [cell.problem]
    config, found = RunConfig.parse(cell.raw)
    if config is None:
        return None, found
    from vitq.launchers import CHECKS, LAUNCHERS

    name = config.launcher.name
    found = [] if name in LAUNCHERS else [unknown("launcher", name, LAUNCHERS)]
    found += CHECKS[name](config.launcher.options) if name in CHECKS else []
    if not config.method.quantizes:
        # One full-precision run, whichever cell of bits x calibration x seeds it was found in.
        fp = BitsConfig(weight="fp", activation="fp")
        config = dataclasses.replace(config, bits=fp, calib=CalibConfig(), seed=0)
    if config.method.iterations is not None and not _iterates(config):
        # One run, whatever a sweep over learning methods asks of these.
        config = dataclasses.replace(config, method=dataclasses.replace(config.method, iterations=None))
    return _absolute(config), found


def _iterates(config: RunConfig) -> bool:
    """Whether an enabled step of the recipe heeds `method.iterations`."""
    if not config.method.steps:
        return False
    from vitq import methods
    from vitq.steps.known import earlier

    methods.load()
    return any(step.iterates for step in earlier(config))


def _absolute(config: RunConfig) -> RunConfig:
    """Paths that exist here become absolute: the job may start in another folder. Others (URLs, `hfds/…`) stay."""

    def found(path: str | None) -> str | None:
        place = Path(path).expanduser() if path else None
        return str(place.absolute()) if place and place.exists() else path

    data = dataclasses.replace(config.data, root=found(config.data.root), class_map=found(config.data.class_map))
    model = dataclasses.replace(config.model, checkpoint=found(config.model.checkpoint))
    runs_dir = str(Path(config.runs_dir).expanduser().absolute())
    return dataclasses.replace(config, data=data, model=model, runs_dir=runs_dir)


class _Facts:
    """What the plan asks of disks and of the engine, each question once per sweep."""

    def __init__(self) -> None:
        self._answers: dict[str, Any] = {}

    def fill(self, config: RunConfig) -> tuple[RunConfig, list[str]]:
        """The config with `model.weights` and `data.fingerprint` as far as they can be known, and what is wrong."""
        from vitq.data import describe, problems
        from vitq.models.load import identify

        found: list[str] = []
        try:
            model = self._once("model", config.model, lambda: identify(config.model))
            config = dataclasses.replace(config, model=model)
        except ModelError as error:
            found.append(str(error))
        asked = (config.model, config.data, config.calib, config.seed, config.method.quantizes)
        found += self._once("fit", asked, lambda: problems(config))
        try:
            facts = self._once("data", config.data, lambda: describe(config))
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, fingerprint=facts.fingerprint))
        except DataError as error:
            found += [str(error)] if str(error) not in found else []
        return config, found

    def check(self, config: RunConfig) -> list[str]:
        """Problems that only the engine sees (method, steps, quantizers, the network's shapes); imports torch."""
        from vitq.blueprint import misfits, network_problems
        from vitq.validate import problems

        asked = (config.model, config.method, config.bits, config.calib, config.data, config.device, config.probe)
        found: list[str] = self._once("engine", asked, lambda: problems(config))
        network = (config.model, config.data.num_classes)
        found = found + self._once("network", network, lambda: network_problems(config))
        return found or self._once("blueprint", asked, lambda: misfits(config))

    def _once(self, what: str, asked: Any, answer: Callable[[], T]) -> T:
        """The answer to a question already put, or the same error again."""
        key = what + json.dumps(asked, default=dataclasses.asdict, sort_keys=True)
        if key not in self._answers:
            try:
                self._answers[key] = answer()
            except (ModelError, DataError) as error:
                self._answers[key] = error
        known = self._answers[key]
        if isinstance(known, Exception):
            raise known
        return known  # type: ignore[no-any-return]


def _label(cell: Cell, primary: Primary, config: RunConfig | None = None) -> str:
    """Model, method, bits, then whatever else is swept: `vit_digits repq_vit w4a4 seed=1`, `vit_digits fp32`.

    Bits are those of the config where one could be made: `bits.weight=3` beats the group's file.
    """
    if not cell.choices:
        return " ".join(cell.overrides)
    quantizes = config is None or config.method.quantizes
    main = ("model", "method", "bits") if quantizes else ("model", "method")
    known = dict(cell.choices)
    if config is not None:
        known["bits"] = config.bits.label.lower()
        if "(" in config.method.name:  # on a base
            known["method"] = config.method.name
    words = [known[group] for group in main if group in cell.choices]
    for override in cell.overrides:
        key, _, value = override.lstrip("+").partition("=")
        matters = quantizes or key.partition(".")[0] not in ("bits", "calib", "seed")
        if key in primary.swept and key not in main and matters:
            words.append(value if key in cell.choices else f"{key}={value}")
    return " ".join(words)
