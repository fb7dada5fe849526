"""From cells to runs: every config parsed, checked and signed before anything starts or is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from vitq.config import BitsConfig, CalibConfig, LauncherConfig, RunConfig, signature
from vitq.config.problems import merge
from vitq.config.signature import VOLATILE
from vitq.config.sweep import CellProbes, SweepConfig, matches
from vitq.errors import ConfigError, Problem, under, unknown
from vitq.job import provenance
from vitq.planning import baseline, budget, compose, folders, paths
from vitq.planning.compose import ConfigCell, Primary
from vitq.planning.engine import Engine, engine
from vitq.planning.facts import Facts
from vitq.planning.hints import located
from vitq.planning.launcher import launcher_problems
from vitq.planning.newer_images import NewerImages
from vitq.planning.plan import Plan, PlannedRun, options_of
from vitq.planning.sweep_name import sweep_name
from vitq.planning.unread import Unread
from vitq.store import RunDir, Store
from vitq.track.naming import refused


def make(
    primary: Primary,
    name: str | None = None,
    watch: Callable[[int], None] = lambda cells: None,
    again: bool = False,
    command: str = "",
) -> Plan:
    """Expand a primary config and check every run. Raises ConfigError with all problems of all runs.

    name: sweep name where the config has no `sweep` section; None for a single run. watch: called with the number of
    cells looked at so far. again: finished runs are executed once more. command: what was typed; see `sweep_name`.
    """
    planner = Planner(primary, name, again, command)
    for number, cell in enumerate(compose.expand(primary), 1):
        watch(number)
        planner.add(cell)
    return planner.plan()


class Planner:
    """Collects the runs of a sweep cell by cell, and everything that is wrong with them.

    A cell is parsed into a config, the config is completed by what disks know, signed, and checked unless an equal run
    is there already or has its result.
    """

    def __init__(self, primary: Primary, name: str | None = None, again: bool = False, command: str = ""):
        self._primary, self._command = primary, command
        self._facts = Facts(engine())
        self._unread = Unread()
        self._newer = NewerImages(self._facts)
        self._cells = 0
        self._problems: list[tuple[str, Problem]] = []  # with the label of a run, '' for the sweep itself
        self._runs: dict[str, PlannedRun] = {}
        self._refused: list[tuple[str, str]] = []
        self._pilots: dict[str, PlannedRun] = {}
        self._again = again
        self._hits: set[int] = set()  # entries of sweep.exclude and sweep.probes that match a cell
        self._stores: dict[str, Store] = {}
        self._launchers: list[LauncherConfig] = []
        # Name of each recipe → options of the group `method` that chose it.
        self._methods: dict[str, set[str]] = {}
        self._options_of_cells: set[tuple[str, str]] = set()  # (group, option)
        self._sweep: SweepConfig | None = None
        if primary.multirun:
            self._sweep, problems = SweepConfig.parse(primary.sweep, name or primary.file.stem)
            problems += self._sweep.unmatched(self._options) if self._sweep else []
            self._reject("", problems)

    def add(self, cell: ConfigCell) -> str | None:
        """Look at the next cell; the signature of its run, None where it is excluded or has no config."""
        self._cells += 1
        chosen = self._choosing(cell)
        if "exclude" in (section for section, _ in chosen):
            return None
        config, problems = _parse(cell, self._facts.engine)
        if config is not None and self._sweep is not None:
            config = _with_probes(config, [self._sweep.probes[index] for _, index in chosen])
        label = _label(cell, self._primary, config)
        if config is not None:
            self._note_sweep_wide(cell, config)
            config, more = self._facts.complete(config)
            problems += more
            config, more = self._within_budget(config, label, problems)
            problems += more
            if config is not None:
                problems += self._take(cell, config, label, problems)
        self._reject(label, [located(problem, cell, self._primary) for problem in problems])
        return None if config is None else signature(config)

    def _within_budget(
        self, config: RunConfig, label: str, problems: list[Problem]
    ) -> tuple[RunConfig | None, list[Problem]]:
        """The config with the iterations that the sweep's budget allows; None where a pilot must say what they cost."""
        seconds = self._sweep.budget_seconds if self._sweep else None
        if seconds is None or problems or not self._facts.engine.iterates(config):
            return config, []
        if wrong := budget.given(config):
            return config, [wrong]
        pilots = budget.pilots_of(config, seconds)
        for pilot in pilots:
            result = self._stores[config.runs_dir].run(signature(pilot)).read_result()
            if result is not None and not result.timings.resumed:
                count = budget.iterations(pilot, result, self._facts.engine.learning(config), seconds)
                return (config, [count]) if isinstance(count, Problem) else (budget.with_iterations(config, count), [])
        sign = signature(pilots[0])
        learning = budget.with_iterations(config, budget.FEWEST)  # how many there will be is not known yet
        wanted = [*self._facts.check(learning), *self._facts.check(pilots[0])]
        self._pilots.setdefault(sign, PlannedRun(sign, pilots[0], f"{label} pilot", (), False))
        return None, list(dict.fromkeys(wanted))

    def plan(self) -> Plan:
        """The plan of all cells. Raises ConfigError with all problems."""
        self._check_one("runs_dir", list(self._stores))
        self._check_one("launcher", [launcher.name for launcher in self._launchers])
        self._reject("", self._unread.problems())
        warnings = (*self._primary.warnings, *self._hidden(), *self._resolve_baseline(), *self._idle_entries())
        warnings += (*self._unread.warnings(), *self._newer.warnings())
        if not self._problems and not self._runs and not self._pilots:
            text = "the sweep has no runs: `sweep.exclude` leaves out every cell"
            self._reject("", [Problem(text, "sweep.exclude", self._primary.sweep.get("exclude"))])
        if self._problems:
            raise ConfigError(merge(self._problems, self._cells), self._refused)
        warnings += tuple(dict.fromkeys(line for run in self._runs.values() for line in run.warnings))
        store = next(iter(self._stores.values()))
        runs = tuple(self._runs.values())
        part = False
        if self._sweep:
            known = sweep_name(store, self._sweep.name, self._runs, self._command)
            self._sweep, part = dataclasses.replace(self._sweep, name=known.name), known.part
            warnings += (known.note,) if known.note else ()
        swept = self._primary.swept
        return Plan(
            runs,
            store,
            self._launchers[0],
            self._cells,
            self._sweep,
            swept,
            warnings,
            self._again,
            tuple(self._pilots.values()),
            part,
        )

    def _reject(self, label: str, problems: list[Problem]) -> None:
        self._problems += [(label, problem) for problem in problems]

    def _options(self, group: str) -> Any:
        """Names that a pattern in the sweep's section may match; several probes are chosen together, under no name."""
        groups = self._primary.search_path
        return groups.files(group) if groups.is_group(group) and group != "probe" else ()

    def _choosing(self, cell: ConfigCell) -> list[tuple[str, int]]:
        """Entries of `sweep.exclude` and `sweep.probes` that match a cell: section and index in it."""
        chosen: list[tuple[str, int]] = []
        if self._sweep is None or cell.problem is not None:
            return chosen
        for position, (section, entry) in enumerate(self._sweep.chosen):
            try:
                hit = matches(entry, cell.choices, cell.raw)
            except KeyError as error:
                valid = [*cell.choices, *cell.raw]
                wrong = unknown("key", error.args[0], valid, "Dotted keys work too.")
                self._reject("", [under(f"sweep.{section}", wrong)])
                continue
            if hit:
                self._hits.add(position)
                chosen.append((section, position - (len(self._sweep.exclude) if section == "probes" else 0)))
        return chosen

    def _note_sweep_wide(self, cell: ConfigCell, config: RunConfig) -> None:
        """What a sweep has one of (store, launcher), and what its baseline is chosen from."""
        self._methods.setdefault(config.method.name, set()).add(cell.choices.get("method", ""))
        self._options_of_cells.update((group.partition("@")[0], option) for group, option in cell.choices.items())
        self._stores.setdefault(config.runs_dir, Store(config.runs_dir))
        if config.launcher not in self._launchers:
            self._launchers.append(config.launcher)

    def _take(self, cell: ConfigCell, config: RunConfig, label: str, problems: list[Problem]) -> list[Problem]:
        """Add the run of a config unless an equal one is there; further problems of it."""
        sign = signature(config)
        if sign in self._runs:
            return []
        done = not problems and not self._again and self._stores[config.runs_dir].run(sign).is_done()
        checks = () if done else (*self._facts.check(config), *self._facts.device_problems(config))
        more = [line for line in checks if line not in problems]
        if not problems and not more:
            warnings = () if done else self._facts.warnings(config)
            other = _other_code(self._stores[config.runs_dir].run(sign)) if done else ""
            if done:
                self._newer.look(config, self._stores[config.runs_dir].run(sign))
            options = options_of(config, cell.overrides, self._sweep)
            room = None if done else self._facts.room(config)
            scored = self._facts.scored_images(config)
            self._runs[sign] = PlannedRun(
                sign, config, label, cell.overrides, done, warnings, other, options, room, scored
            )
        else:
            self._refused.append((sign, label))
        self._unread.look(cell.overrides, config, done)
        return more

    def _check_one(self, key: str, several: list[str]) -> None:
        if len(several) > 1:
            text = f"one sweep uses one, not {', '.join(several)}; start them as separate sweeps"
            self._reject("", [under(key, Problem(text, value=several))])

    def _idle_entries(self) -> list[str]:
        entries = enumerate(self._sweep.chosen if self._sweep else ())
        idle = [(section, json.dumps(entry)) for position, (section, entry) in entries if position not in self._hits]
        what = {"exclude": "leaves out none", "probes": "probes none"}
        return [f"sweep.{name}: {entry} matches no cell of this sweep, and {what[name]}" for name, entry in idle]

    def _hidden(self) -> list[str]:
        """A line for each option that a folder of the user takes from those behind it."""
        hidden = self._primary.search_path.hidden
        files = ((f"{group}={option}", hidden(group, option)) for group, option in sorted(self._options_of_cells))
        return [f"{word} is {pair[0]}, not {pair[1]}" for word, pair in files if pair]

    def _resolve_baseline(self) -> tuple[str, ...]:
        """The sweep's baseline as results name it; warnings."""
        if not (self._sweep and self._sweep.baseline and self._methods):
            return ()
        chosen = baseline.find(self._sweep.baseline, self._methods, self._primary.search_path.files("method"))
        self._reject("", [chosen.problem] if chosen.problem else [])
        self._sweep = dataclasses.replace(self._sweep, baseline=chosen.name)
        return (chosen.warning,) if chosen.warning else ()


def _other_code(run_dir: RunDir) -> str:
    result = run_dir.read_result()
    return provenance.other_code(result.provenance.code) if result else ""


def _with_probes(config: RunConfig, more: list[CellProbes]) -> RunConfig:
    """The config with the probes that the sweep wants of this cell, beside those of all cells."""
    options = dict(config.probe.options)
    for entry in more:
        options |= {name: {**options.get(name, {}), **wanted} for name, wanted in entry.options.items()}
    return dataclasses.replace(config, probe=dataclasses.replace(config.probe, options=options))


def _parse(cell: ConfigCell, engine: Engine) -> tuple[RunConfig | None, list[Problem]]:
    """A cell's config, normalized so that equal runs are equal; its problems."""
    if cell.problem is not None:
        return None, [cell.problem]
    config, problems = RunConfig.parse(cell.raw)
    if config is None:
        return None, problems
    problems += launcher_problems(config.launcher)
    if not config.method.quantizes:
        # One full-precision run, whichever cell of bits x calibration x seeds it comes from.
        fp = BitsConfig(weight="fp", activation="fp")
        config = dataclasses.replace(config, bits=fp, calib=CalibConfig(), seed=0)
    if (config.method.iterations is not None or config.method.rates != "paper") and not engine.iterates(config):
        # One run, whatever a sweep over learning methods asks of these.
        config = dataclasses.replace(config, method=dataclasses.replace(config.method, iterations=None, rates="paper"))
    data = config.data
    if data.held_out is not None:
        data = dataclasses.replace(data, eval_split=data.scored_split, eval_limit=None)
    # Which images are scored has a meaning where not all are.
    choice = None if data.eval_limit is None else data.eval_choice or "spread"
    config = dataclasses.replace(config, data=dataclasses.replace(data, eval_choice=choice))
    problems += refused(config.tracker)
    settled, wrong = folders.settle(config)
    return (None if wrong else paths.absolute(settled)), problems + wrong


def _label(cell: ConfigCell, primary: Primary, config: RunConfig | None = None) -> str:
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
        matters = key not in VOLATILE and (quantizes or key.partition(".")[0] not in ("bits", "calib", "seed"))
        if key in primary.swept and key not in main and matters:
            words.append(cell.choices.get(key) or f"{key}={value}")
    return " ".join(words)
