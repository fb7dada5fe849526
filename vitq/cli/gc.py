"""`vitq gc`: what a store can do without."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq gc                         what could go; nothing is removed
  vitq gc --yes                   remove it: leftovers of dead processes, resume state of finished runs
  vitq gc --orphans               runs that belong to no sweep as well
  vitq gc --orphans --yes         of these, the ones without a result
  vitq gc --orphans --yes 3f09 77ab      these two as well, with their results
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("gc", "Remove what a store can do without, never a run under way.", EXAMPLES)
    parser.add_argument("--orphans", action="store_true", help="runs that no sweep lists, or ever listed, too")
    parser.add_argument("--yes", action="store_true", help="remove; without it, only list")
    parser.add_argument(
        "signatures",
        metavar="SIGNATURE",
        nargs="*",
        help="with --orphans --yes: runs of no sweep that go with their results; without their names, results stay",
    )
    return options.add(parser, "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """List, and with --yes remove. Raises StoreError when the disk refuses, and for a run that is in a sweep."""
    from vitq.errors import StoreError
    from vitq.store import Store
    from vitq.store.cleanup import garbage

    store = Store(args.runs_dir)
    named = {store.find(beginning).signature for beginning in args.signatures}
    items = list(garbage(store, args.orphans))
    for signature in named - {item.run for item in items}:
        text = f"{signature} is no finished run of no sweep; `vitq gc --orphans` lists those"
        raise StoreError(text, "signature", signature, [item.run for item in items if item.run])
    kept = [item for item in items if item.run and item.run not in named]
    going = [item for item in items if item not in kept]
    for item in going:
        if args.yes:
            item.remove()
        print(f"{item.path}  {item.size / 1e6:.2f} MB, {item.reason}")
    total = sum(item.size for item in going) / 1e6
    done = "removed" if args.yes else "could go; `vitq gc --yes` removes"
    print(f"{len(going)} items, {total:.2f} MB; {done}" if going else "nothing to remove")
    if kept:
        print(f"kept, since they have results: {len(kept)} runs of no sweep; one goes when it is named, e.g.")
        print(f"  vitq gc --orphans --yes {kept[0].run}    {kept[0].size / 1e6:.2f} MB, {kept[0].reason}")
    return 0
