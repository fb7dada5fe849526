"""Options and arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

SHARED: dict[str, dict[str, Any]] = {
    "sweep": {"metavar": "SWEEP", "help": "name of a sweep that was started (`multirun` for `vitq run -m`)"},
    "signature": {"metavar": "SIGNATURE", "help": "of `vitq status SWEEP`; its beginning is enough"},
    "overrides": {
        "nargs": "*",
        "metavar": "OVERRIDE",
        "help": "GROUP=OPTION (method=repq_vit) or KEY=VALUE (calib.size=64, bits.kinds.probs=8), in Hydra's grammar",
    },
    "paths": {
        "nargs": "*",
        "metavar": "KEY=PATH",
        "help": "where its images or weights lie now: data.root=DIR, data.class_map=FILE, model.checkpoint=FILE",
    },
    "--config-dir": {"metavar": "DIR", "help": "your own config groups, e.g. DIR/method/NAME.yaml"},
    "--dry-run": {"action": "store_true", "help": "check every run and list them; start and write nothing"},
    "--again": {
        "action": "store_true",
        "help": "compute finished runs once more; their old records are kept under runs/SIGNATURE/history",
    },
    "--detach": {
        "action": "store_true",
        "help": "return at once: the scheduler has the jobs, or a process in the background executes the runs",
    },
    "--runs-dir": {"metavar": "DIR", "default": "runs", "help": "the run store (default: runs)"},
}


def parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    """An argument parser without abbreviations, the examples below its options."""
    return argparse.ArgumentParser(
        prog=f"vitq {command}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add(parser: argparse.ArgumentParser, *names: str, json: str = "") -> argparse.ArgumentParser:
    """Add arguments of SHARED, and with `json`, which says what is printed, `--json`. Returns the parser."""
    for name in names:
        parser.add_argument(name, **SHARED[name])
    if json:
        text = f"print {json} as JSON to stdout, and nothing else there"
        parser.add_argument("--json", action="store_true", help=text)
    return parser
