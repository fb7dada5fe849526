"""`vitq probe`: look at the quantized models of finished runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.config import ProbeConfig, RunConfig
    from vitq.planning.display import Show
    from vitq.probes.run_probes import Outcome
    from vitq.store import RunDir

EXAMPLES = """\
  vitq probe 3f2c 'probe=[landscape]'                             a signature, or its beginning
  vitq probe demo 'probe=[landscape]' probe.max_seconds=60        every finished run of a sweep
  vitq probe 3f2c 'probe=[landscape]' 'probe.options.landscape.views=[block]' --dry-run
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "probe",
        "Probe finished runs. The recipe is executed again, because a store keeps no models; what is there is kept.",
        EXAMPLES,
    )
    parser.add_argument("name", metavar="SIGNATURE|SWEEP", help="a run, or all finished runs of a sweep")
    options.add(parser, "overrides", "--config-dir")
    parser.add_argument("--again", action="store_true", help="measure anew what is stored already")
    parser.add_argument("--dry-run", action="store_true", help="say what it will cost; compute nothing")
    return options.add(parser, "--runs-dir", json="what became of each probe")


def main(args: argparse.Namespace) -> int:
    """Probe; exit code 1 when a probe failed. Raises VitqError for whatever is wrong before the start."""
    from vitq.cli.output import console
    from vitq.errors import ConfigError, Problem, unknown
    from vitq.planning import paths
    from vitq.planning.display import make
    from vitq.store import Store

    if args.name.startswith(("probe=", "probe.")):
        text = "name a run or a sweep first: vitq probe SIGNATURE 'probe=[landscape]'"
        raise ConfigError([Problem(text, "SIGNATURE", args.name)])
    moved = [word for word in args.overrides if paths.is_path(word)]
    wanted, changes = _wanted([word for word in args.overrides if word not in moved], args.config_dir)
    if not wanted.wanted:
        from vitq.probes.probe import PROBES

        unnamed = unknown("probe", "", PROBES, key="probe")
        raise ConfigError([unnamed.reworded(f"no probe is named; add e.g. 'probe=[landscape]'. {unnamed}")])
    store = Store(args.runs_dir)
    named = store.runs_of(args.name) if args.name in store.sweeps() else [store.find(args.name)]
    finished = [run for run in named if run.is_done]
    for run in finished:
        paths.move(run.dir, moved)
    runs = [(run.dir, dataclasses.replace(run.config, probe=wanted, **changes)) for run in finished]
    if not runs:
        text = f"{args.name} has no finished run; `vitq run … probe=[…]` probes a run as it is executed"
        raise ConfigError([Problem(text, "SIGNATURE", args.name)])
    _check(runs)
    if args.dry_run:
        return _preview(runs, args.json)
    by_run = {}
    with make(console(stderr=True), args.name, len(runs)) as show:
        for run_dir, config in runs:
            by_run[run_dir.signature] = _probe(run_dir, config, show, args)
    if not args.json:
        _print_end(by_run)
    else:
        print(json.dumps({s: [dataclasses.asdict(o) for o in outcomes] for s, outcomes in by_run.items()}, indent=2))
    return 1 if any(o.state == "failed" for outcomes in by_run.values() for o in outcomes) else 0


def _print_end(by_run: dict[str, list[Outcome]]) -> None:
    """What became of the probes, in a sentence."""
    from collections import Counter

    words = {"kept": "there before", "unfinished": "not finished within probe.max_seconds"}
    counts = Counter(outcome.state for outcomes in by_run.values() for outcome in outcomes)
    said = ", ".join(f"{count} {words.get(state, state)}" for state, count in counts.items())
    total = sum(counts.values())
    print(f"{total} probe{'s' if total != 1 else ''} of {len(by_run)} run{'s' if len(by_run) != 1 else ''}: {said}")


def _wanted(overrides: list[str], config_dir: str | None) -> tuple[ProbeConfig, dict[str, Any]]:
    """The probes that are asked for, and where to compute: device, cache_dir."""
    from vitq.errors import ConfigError, Problem
    from vitq.planning import compose

    allowed = ("probe=", "probe.", "device=", "cache_dir=")
    bad = [o for o in overrides if not o.lstrip("+").startswith(allowed)]
    if bad:
        valid = f"{', '.join(allowed)}…, and where its images and weights lie now: data.root=, model.checkpoint="
        why = f"a finished run stays what it is; valid: {valid}"
        raise ConfigError([Problem(f"{o}: {why}", o.partition("=")[0], o, allowed) for o in bad])
    config = compose.single_config(config_dir, overrides)
    named = {o.lstrip("+").partition("=")[0] for o in overrides}
    changes: dict[str, Any] = {key: getattr(config, key) for key in ("device", "cache_dir") if key in named}
    return config.probe, changes


def _check(runs: list[tuple[RunDir, RunConfig]]) -> None:
    from vitq.config.problems import merge
    from vitq.errors import ConfigError
    from vitq.probes.probe import problems

    wrong = [(run_dir.signature, line) for run_dir, config in runs for line in problems(config)]
    if wrong:
        raise ConfigError(merge(wrong, len(runs)))


def _preview(runs: list[tuple[RunDir, RunConfig]], as_json: bool) -> int:
    from vitq.config.labels import run_label
    from vitq.probes.probe import parse_probe
    from vitq.probes.run_probes import estimate

    rows = []
    for run_dir, config in runs:
        for name, chosen in config.probe.wanted.items():
            probe, _ = parse_probe(name, chosen)
            assert probe is not None  # checked before
            about: dict[str, Any] = {"run": run_label(config), "signature": run_dir.signature, "probe": name}
            cost = estimate(probe, run_dir, config)
            rows.append(about | {"passes": probe.passes(config), "seconds": cost})
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        seconds = "unknown time" if row["seconds"] is None else f"about {row['seconds']:.0f} s"
        print(f"{row['signature']}  {row['run']}  {row['probe']}: {row['passes']:.0f} forward passes, {seconds}")
    print("seconds: at the pace of each run's own evaluation; the recipe is executed before")
    limit = runs[0][1].probe.max_seconds
    if any((row["seconds"] or 0) > limit for row in rows):
        print(f"a probe stops after probe.max_seconds={limit:g} and goes on where it stopped when it is called again")
    return 0


def _probe(run_dir: RunDir, config: RunConfig, show: Show, args: argparse.Namespace) -> list[Outcome]:
    from vitq import device
    from vitq.config.labels import run_label
    from vitq.errors import StoreError
    from vitq.job.requantize import requantize
    from vitq.planning.plan import PlannedRun
    from vitq.probes.probed_model import Subject
    from vitq.probes.run_probes import perform
    from vitq.store.claim import Claim

    claim = Claim.take(run_dir)
    if claim is None:
        text = f"another process works on run {run_dir.signature}; try again when it is through"
        raise StoreError(text, "SIGNATURE", run_dir.signature)
    planned = PlannedRun(run_dir.signature, config, run_label(config), (), done=True)
    progress = show.running(planned)

    def subject() -> Subject:
        # A probe measures: that the sites are the recorded ones is enough, and saves an evaluation.
        model = requantize(run_dir, config, progress, compare_predictions=False)
        return Subject.of(config, model, device.resolve(config.device), progress)

    outcomes = []
    with claim:
        for outcome in perform(run_dir, subject, config.probe, args.again):
            outcomes.append(outcome)
            print(f"{run_label(config)}: {outcome.line()}", file=sys.stderr if args.json else sys.stdout)
            if outcome.state in ("done", "kept") and not args.json:
                print(f"  {run_dir.probe_picture_path(outcome.name)}")
        if all(outcome.state in ("done", "kept", "skipped") for outcome in outcomes):
            run_dir.clear_probe_state()
            run_dir.clear_state()
    show.ended_quietly(planned)
    return outcomes
