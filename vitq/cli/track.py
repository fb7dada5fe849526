"""`vitq track rebuild`: the W&B mirror of runs, made again from the store alone."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.store import Store
    from vitq.store.studies import StudyDir

EXAMPLES = """\
  vitq track rebuild demo                     every finished or failed run of a sweep
  vitq track rebuild 3f2c9d1e4b5a6978         one run
  vitq track rebuild --runs-dir ~/runs        every run of the store; `vitq sync` uploads them
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("track", "Make the offline W&B runs again, from runs/ alone.", EXAMPLES)
    parser.add_argument("action", choices=("rebuild",), help="what to do")
    parser.add_argument("names", nargs="*", metavar="SWEEP|SIGNATURE", help="which runs (default: all of the store)")
    return options.add(parser, "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """Rebuild and print the folders; exit code 1 when one could not be rebuilt."""
    from vitq.errors import StoreError
    from vitq.store import Store
    from vitq.track.base import need_wandb
    from vitq.track.rebuild import rebuild

    need_wandb("vitq track")
    store, failed = Store(args.runs_dir), 0
    runs = [(store.run(signature), group) for signature, group in chosen(store, args.names)]
    for run_dir, group in [*runs, *((folder, None) for folder in studies(store, args.names))]:
        try:
            print(rebuild(run_dir, group))
        except StoreError as error:
            print(f"vitq track: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


def studies(store: Store, names: list[str]) -> list[StudyDir]:
    """Those that are meant: of the named sweeps, or of all. Raises StoreError for broken records."""
    from vitq.store.studies import StudyDir, read_study

    meant = [name for name in store.sweeps() if not names or name in names]
    return [StudyDir(store, name) for name in meant if read_study(store, name) is not None]


def chosen(store: Store, names: list[str]) -> list[tuple[str, str | None]]:
    """(signature, sweep that named it) of the runs that are meant; all planned ones where nothing is named.

    Raises StoreError for a name that is neither a sweep nor a planned run.
    """
    if not names:
        return [(signature, None) for signature in store.signatures()]
    planned, sweeps = set(store.signatures()), set(store.sweeps())
    chosen_runs: dict[str, str | None] = {}
    for name in names:
        if name in planned and name not in sweeps:
            chosen_runs.setdefault(name, None)
        else:
            chosen_runs |= dict.fromkeys(store.read_sweep(name).signatures, name)
    return list(chosen_runs.items())
