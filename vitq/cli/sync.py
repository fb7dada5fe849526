"""`vitq sync`: upload to W&B what was tracked offline."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from vitq.cli import options

EXAMPLES = """\
  vitq sync                                 everything that is not there yet
  vitq sync demo --dry-run                  what of a sweep would be uploaded
  vitq sync demo --entity my-lab --project vits --jobs 8
"""

_WORDS = {
    "upload": "to upload",
    "rebuild": "to rebuild and upload",
    "uploaded": "uploaded before",
    "unfinished": "not finished",
    "unreadable": "unreadable",
}


def parser() -> argparse.ArgumentParser:
    parser = options.parser("sync", "Upload finished and failed runs that W&B does not have yet.", EXAMPLES)
    parser.add_argument("names", nargs="*", metavar="SWEEP|SIGNATURE", help="which runs (default: all of the store)")
    parser.add_argument("--entity", help="instead of the one in the runs' configs")
    parser.add_argument("--project", help="instead of the one in the runs' configs")
    parser.add_argument("--jobs", "-n", type=int, default=4, metavar="N", help="uploads at a time (default: 4)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be uploaded; no network")
    return options.add(parser, "--runs-dir", json="signatures by state")


def main(args: argparse.Namespace) -> int:
    """Upload; exit code 1 when a run did not arrive. The same command goes on from there."""
    from vitq.cli.track import chosen, studies
    from vitq.errors import VitqError, bad
    from vitq.store import Store
    from vitq.track.base import need_wandb
    from vitq.track.upload import Sync
    from vitq.track.upload_plan import Destination, look

    need_wandb("vitq sync")
    if args.jobs < 1:
        raise VitqError(bad("--jobs", args.jobs, "a number from 1 is needed"))
    store = Store(args.runs_dir)
    run_dirs = [*(store.run(signature) for signature, _ in chosen(store, args.names)), *studies(store, args.names)]
    out = sys.stderr if args.json else sys.stdout
    destination = Destination(args.entity, args.project)
    sync = Sync(store, destination, args.jobs, lambda line: print(line, file=out, flush=True))
    items = look(run_dirs, destination, args.jobs)
    counts: Counter[str] = Counter(item.state for item in items)
    wanted = [item for item in items if item.state in ("upload", "rebuild")]
    failed = [] if args.dry_run else sync.upload(wanted)
    if args.json:
        states = {state: [i.run_dir.signature for i in items if i.state == state] for state in _WORDS}
        print(json.dumps({"dry_run": args.dry_run, "runs": states, "failed": failed}, indent=2))
    for item in items:
        if item.state == "unreadable":
            print(f"vitq sync: {item.why}", file=sys.stderr)
    summary = ", ".join(f"{counts[state]} {words}" for state, words in _WORDS.items() if counts[state]) or "none"
    again = f"; {len(failed)} failed, the same command tries again" if failed else ""
    print(f"{len(items)} runs: {summary}{again}", file=out)
    return 1 if failed or counts["unreadable"] else 0
