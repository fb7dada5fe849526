"""`vitq gc`: what a store can do without."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq gc                         what could go; nothing is removed
  vitq gc --yes                   remove it: leftovers of dead processes, resume state of finished runs
  vitq gc --orphans               runs that belong to no sweep as well
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("gc", "Remove what a store can do without, never a run under way.", EXAMPLES)
    parser.add_argument("--orphans", action="store_true", help="runs that no sweep lists too, even finished ones")
    parser.add_argument("--yes", action="store_true", help="remove; without it, only list")
    return options.add(parser, "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """List, and with --yes remove. Raises StoreError when the disk refuses."""
    from vitq.store import Store
    from vitq.store.cleanup import garbage

    items = list(garbage(Store(args.runs_dir), args.orphans))
    for item in items:
        if args.yes:
            item.remove()
        print(f"{item.path}  {item.size / 1e6:.2f} MB, {item.reason}")
    total = sum(item.size for item in items) / 1e6
    done = "removed" if args.yes else "could go; `vitq gc --yes` removes"
    print(f"{len(items)} items, {total:.2f} MB; {done}" if items else "nothing to remove")
    return 0
