"""`vitq dashboard`: a saved view and a report at W&B."""

from __future__ import annotations

import argparse
import json

from vitq.cli import options

EXAMPLES = """\
  vitq dashboard --entity my-lab --sweep demo             after `vitq sync demo`
  vitq dashboard --entity my-lab --project vits           all sweeps of a project
  vitq dashboard --entity my-lab --sweep demo --dry-run   what would be created, in ten lines; no network, no account
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("dashboard", "Create a saved view and a report at W&B.", EXAMPLES)
    parser.add_argument("--entity", required=True, help="W&B user or team")
    parser.add_argument("--project", default="vitq", help="W&B project (default: vitq)")
    parser.add_argument("--sweep", help="show the runs of this sweep alone (its W&B group)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be created, and create nothing")
    return options.add(parser, json="the spec, and the addresses where both were created,")


def main(args: argparse.Namespace) -> int:
    """Create both and print their addresses. Raises VitqError without the extra, without a login, without a network."""
    from vitq.track import dashboard

    dashboard.need_workspaces()
    board = dashboard.Dashboard(args.entity, args.project, args.sweep)
    if args.dry_run:
        print(json.dumps(board.spec(), indent=2) if args.json else "\n".join(board.outline()))
        return 0
    dashboard.need_login()
    view, report = board.save()
    if args.json:
        print(json.dumps({**board.spec(), "urls": {"workspace": view, "report": report}}, indent=2))
    else:
        print(f"view    {view}\nreport  {report}")
    return 0
