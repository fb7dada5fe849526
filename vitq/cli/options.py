"""Options and arguments that several commands share."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

# Commands whose store is a key of the config that they compose.
COMPOSING = ("run", "sweep", "fetch", "tune", "reproduce")


def default_store() -> str:
    """Where the runs lie when nobody says it."""
    return os.environ.get("VITQ_RUNS_DIR") or "runs"


def padded_size(text: str) -> tuple[int, int]:
    """`800x1216` as height and width. Raises ArgumentTypeError."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, e.g. 800x1216")
    return int(height), int(width)


SHARED: dict[str, dict[str, Any]] = {
    "sweep": {"metavar": "SWEEP", "help": "name of a sweep that was started (`multirun` for `vitq run -m`)"},
    "signature": {"metavar": "SIGNATURE", "help": "of `vitq list runs`; its beginning is enough"},
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
    "--config-dir": {
        "metavar": "DIR",
        "help": "your own config groups, e.g. DIR/method/NAME.yaml; searched before VITQ_CONFIG_DIR and ./conf",
    },
    "--dry-run": {"action": "store_true", "help": "check every run and list them; start and write nothing"},
    "--again": {
        "action": "store_true",
        "help": "compute finished runs once more; their old records are kept under runs/SIGNATURE/history",
    },
    "--detach": {
        "action": "store_true",
        "help": "return at once: the scheduler has the jobs, or a process in the background executes the runs",
    },
    "--size": {
        "type": padded_size,
        "metavar": "HEIGHTxWIDTH",
        "help": "of a detector's padded images, e.g. 800x1216 (default: model.input_size)",
    },
    "--runs-dir": {"metavar": "DIR", "help": "the run store (default: VITQ_RUNS_DIR, else runs)"},
    "--cfg -c": {"choices": ("job",), "help": "print the resolved config, of each run after another, and end"},
    "--info": {
        "action": "store_true",
        "help": "print which folders are searched and from which file each option comes, and end",
    },
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with exit code 2; an override that was written as an option is shown as one."""
        meant = re.search(r"unrecognized arguments: --?([\w.]+=\S*)", message)
        super().error(f"{message}; an override has no dashes: {meant[1]}" if meant else message)


def parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    """An argument parser without abbreviations, the examples below its options."""
    return _Parser(
        prog=f"vitq {command}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add(parser: argparse.ArgumentParser, *names: str, json: str = "") -> argparse.ArgumentParser:
    """Add arguments of SHARED, and with `json`, which says what is printed, `--json`. Returns the parser."""
    for name in names:
        parser.add_argument(*name.split(), **SHARED[name])
    if "--runs-dir" in names:
        parser.set_defaults(runs_dir=default_store())
    if json:
        text = f"print {json} as JSON to stdout, and nothing else there"
        parser.add_argument("--json", action="store_true", help=text)
    return parser


def one_store(command: str, words: Sequence[str]) -> list[str]:
    """The words of a command with its store in the spelling that it takes: `--runs-dir DIR`, or the config's key
    `runs_dir=DIR` where a config is composed."""
    composes = command in COMPOSING
    spelled: list[str] = []
    left = iter(words)
    for word in left:
        key, equals, value = word.partition("=")
        if composes and key == "--runs-dir":
            folder = value if equals else next(left, "")
            spelled.append(f"runs_dir='{folder}'" if "'" not in folder else f'runs_dir="{folder}"')
        elif not composes and key.lstrip("+") == "runs_dir" and equals:
            spelled += ["--runs-dir", value.strip("'\"")]
        else:
            spelled.append(word)
    return spelled
