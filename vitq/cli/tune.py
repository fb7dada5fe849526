"""`vitq tune`: options of a method chosen on calibration images held out of calibration."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vitq.cli import options
from vitq.cli.output import print_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table

    from vitq.store.studies import StudyRecord
    from vitq.tuning.tune import Tuning

EXAMPLES = """\
  vitq tune qdrop model=vit_digits bits=w3a3 method.iterations=200 --trials 20
  vitq tune ias_vit bits=w4a4 --seconds 1200 launcher=local      until the trials' runs took 20 minutes together
  vitq tune ias_vit bits=w4a4 --trials 40                        goes on with the same study
  vitq tune qdrop bits=w3a3 --seconds 3600 launcher=slurm --detach     in the background; vitq cancel STUDY ends it
  vitq tune erq --dry-run                                        ranges and the recipe's own options
  vitq run --config-dir runs/conf method=qdrop_tuned_vit_digits_w3a3 bits=w3a3
"""
# Where neither --trials nor --seconds is given.
TRIALS = 20
HELD_OUT = 256


def parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "tune",
        "Choose the options that a method's recipe declares (`tune:`) by KL to full precision on calibration images "
        "that calibrate no trial. The evaluation split is never opened. Trials are ordinary runs, computed once; the "
        "same command goes on with its study, and several at a time share it. The outcome is a recipe.",
        EXAMPLES,
    )
    parser.add_argument("method", metavar="METHOD", help="a method of `vitq list methods`")
    parser.add_argument("--trials", type=_positive, metavar="N", help=f"end at N trials (default: {TRIALS})")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="ask for no trial once their runs took S seconds")
    parser.add_argument(
        "--held-out", type=_positive, metavar="N", default=HELD_OUT, help=f"images held out (default: {HELD_OUT})"
    )
    text = "trials asked for at a time (default: as many as the launcher executes at a time)"
    parser.add_argument("--parallel", type=_positive, metavar="N", help=text)
    parser.add_argument("--name", metavar="STUDY", help="name of the study (default: tune_METHOD_MODEL_BITS)")
    parser.add_argument(
        "--as", dest="recipe", metavar="RECIPE", help="name of the recipe (default: METHOD_tuned_MODEL_BITS)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="config folder for it (default: RUNS_DIR/conf)")
    return options.add(parser, "overrides", "--config-dir", "--dry-run", "--detach", json="the study")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}; a whole number of at least 1 is needed")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}; a number of seconds above 0 is needed")
    return number


def main(args: argparse.Namespace) -> int:
    """Tune. Raises VitqError for whatever is wrong before the start, and where no trial has a result."""
    from vitq.cli.output import console

    out = sys.stdout
    if not args.json:
        return _tune(args, console())
    with redirect_stdout(sys.stderr):
        return _tune(args, console(stderr=True), out.write)


def _tune(args: argparse.Namespace, console: Console, write: Callable[[str], object] | None = None) -> int:
    from vitq.errors import VitqError
    from vitq.planning import compose, display
    from vitq.tuning.tune import Tuning, TuningBudget

    file, search_path = compose.root_config(args.config_dir)
    primary = compose.load(file, search_path, [f"method={args.method}", *args.overrides])
    tuning = Tuning.of(primary, args.held_out, args.name, args.recipe, args.parallel)
    if args.dry_run:
        _print_ranges(tuning, console)
        return 0
    if find_spec("optuna") is None:
        raise VitqError("vitq tune needs optuna, which is not installed; pip install 'vitq[tune]'", "package", "optuna")
    for line in tuning.first.warnings:
        print(f"vitq: {line}", file=sys.stderr)
    if args.detach:
        return _detach(tuning, args, write or console.file.write)
    trials = args.trials if args.trials or args.seconds else TRIALS
    record = tuning.run(
        TuningBudget(trials, args.seconds),
        shlex.join(["vitq", *args.argv]),
        lambda runs: display.make(console, tuning.name, runs),
        args.out,
    )
    if write is not None:
        write(record.to_json())
    else:
        _print_study(record, tuning, console)
    return 1 if tuning.problems else 0


def _detach(tuning: Tuning, args: argparse.Namespace, write: Callable[[str], object]) -> int:
    """The same command in the background; one driver of the study like any other."""
    from vitq.planning.background import start_detached

    log = tuning.store.sweep_folder(tuning.name) / "driver.log"
    message = start_detached([word for word in args.argv if word != "--detach"], log)
    root = str(tuning.store.root)
    if args.json:
        write(json.dumps({"study": tuning.name, "runs_dir": root, "detached": message}, indent=2) + "\n")
    else:
        where = f"--runs-dir {shlex.quote(root)}"
        write(f"{message}\nvitq status {tuning.name} --watch {where}\nvitq cancel {tuning.name} {where}\n")
    return 0


def _print_ranges(tuning: Tuning, console: Console) -> None:
    from rich.table import Table

    table = Table(
        "option", "own", "from", "to", "", title=f"{tuning.name}: trial 0 is {tuning.first.runs[0].signature}"
    )
    for key, allowed in tuning.config.method.tune.items():
        ends = ("", "") if allowed.choices else (f"{allowed.low:g}", f"{allowed.high:g}")
        kind = f"one of {list(allowed.choices)}" if allowed.choices else "log" if allowed.log else ""
        table.add_row(key, str(tuning.own[key]), *ends, kind)
    console.print(table)
    at_once = f"{tuning.parallel} trial{'s' if tuning.parallel > 1 else ''} at a time"
    console.print(f"{tuning.held_out} images held out, {at_once}; nothing was started or written", highlight=False)


def _print_study(record: StudyRecord, tuning: Tuning, console: Console) -> None:
    console.print(_table(record))
    best = record.best
    assert best is not None
    for number, problem in tuning.problems.items():
        print_line(console, f"trial {number}: {problem}", style="red")
    if record.gain is not None:
        console.print(f"trial {best.number}: {record.gain.line()}", highlight=False, soft_wrap=True)
    if record.importances:
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in record.importances.items())
        console.print(
            f"what KL depends on, by {len(record.finished)} trials: {shares}", highlight=False, soft_wrap=True
        )
    folder = shlex.quote(str(Path(str(record.recipe)).parent.parent))
    print_line(console, f"recipe   {record.recipe}")
    use = f"vitq run --config-dir {folder} method={tuning.recipe_name}"
    print_line(console, f"         use: {use}")


def _table(record: StudyRecord) -> Table:
    """The best ten trials and the recipe's own."""
    from rich.table import Table

    title = f"{record.name}: {len(record.finished)} of {len(record.trials)} trials have a result"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
    for head in ("trial", "KL, nats", "s", *record.ranges):
        # Names of options differ at their ends: they are broken, never cut.
        table.add_column(head, justify="left" if head in record.ranges else "right", overflow="fold")
    ranked = sorted(record.finished, key=lambda trial: (trial.kl, trial.number))
    own = [trial for trial in ranked[10:] if trial.options == record.own]
    for trial in [*ranked[:10], *own]:
        name = f"{trial.number} (own)" if trial.options == record.own else str(trial.number)
        values = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial.options.values())
        table.add_row(name, f"{trial.kl:.4g}", f"{trial.seconds or 0:.1f}", *values)
    return table
