"""`vitq status`: where the runs of a sweep stand, read from the store alone."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.store import RunDir

EXAMPLES = """\
  vitq status demo
  vitq status demo --json
  watch vitq status demo                    while it runs in another terminal
"""

_STYLE = {"done": "green", "failed": "red", "running": "cyan", "interrupted": "yellow"}


def parser() -> argparse.ArgumentParser:
    """Arguments of `vitq status`."""
    parser = options.parser("status", "Where the runs of a sweep stand.", EXAMPLES, "SWEEP [--runs-dir DIR] [--json]")
    parser.add_argument(
        "sweep", metavar="SWEEP", help="name of a sweep that was started (`multirun` for `vitq run -m`)"
    )
    options.runs_dir(parser)
    options.as_json(parser, "states")
    return parser


def main(args: argparse.Namespace) -> int:
    """Print the states. Raises StoreError when there is no such sweep."""
    from vitq.store import Store

    store = Store(args.runs_dir)
    record = store.read_sweep(args.sweep)
    rows = [_row(store.run(signature)) for signature in record.signatures]
    counts = {
        state: sum(row["state"] == state for row in rows) for state in dict.fromkeys(row["state"] for row in rows)
    }
    if args.json:
        print(json.dumps({"sweep": record.name, "command": record.command, "counts": counts, "runs": rows}, indent=2))
        return 0
    _print(record.name, rows, counts)
    return 0


def _row(run_dir: RunDir) -> dict[str, Any]:
    from vitq.errors import StoreError
    from vitq.mirror import run_label

    row: dict[str, Any] = {
        "signature": run_dir.signature,
        "run": "",
        "state": "planned",
        "stage": "",
        "updated_at": None,
        "error": None,
    }
    try:
        from vitq.config import RunConfig

        config, _ = RunConfig.parse(run_dir.read_config())
        row["run"] = run_label(config) if config else ""
        status = run_dir.read_status()
    except StoreError as error:
        return {**row, "state": "unreadable", "error": str(error)}
    if status is not None:
        count = f" {status.done}/{status.total}" if status.total else ""
        stage = f"{status.stage}{count} {status.note}".strip() if status.state != "done" else ""
        state = "interrupted" if status.state == "running" and _is_gone(status.pid, status.host) else status.state
        row |= {"state": state, "stage": stage, "updated_at": status.updated_at, "error": status.error}
    # Only the result says that a run is done; a status of `done` without one is not.
    if run_dir.is_done():
        row |= {"state": "done", "error": None, "stage": ""}
    elif row["state"] == "done":
        row |= {"state": "failed", "error": f"{run_dir.result_path} is missing or invalid; start the sweep again"}
    return row


def _is_gone(pid: int | None, host: str | None) -> bool:
    """True when the process of a run was on this machine and no longer exists; on others nobody can tell from here."""
    import socket

    import psutil

    return pid is not None and host == socket.gethostname() and not psutil.pid_exists(pid)


def _print(name: str, rows: list[dict[str, Any]], counts: dict[str, int]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "state", "stage", "signature", title=f"sweep {name}", title_justify="left")
    for row in rows:
        state = f"[{_STYLE.get(row['state'], 'default')}]{row['state']}[/]"
        table.add_row(escape(row["run"]), state, escape(row["stage"]), row["signature"])
    console = Console()
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"{row['signature']}  {row['error']}", highlight=False, markup=False, soft_wrap=True)
    total = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(f"{total} of {len(rows)} runs", highlight=False)
