"""Options and arguments that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence


def parser(command: str, description: str, examples: str, usage: str) -> argparse.ArgumentParser:
    """An argument parser in the house style: examples below, no abbreviations."""
    return argparse.ArgumentParser(
        prog=f"vitq {command}",
        usage=f"vitq {command} {usage}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def overrides(parser: argparse.ArgumentParser) -> None:
    """Hydra overrides, `--config-dir`."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="GROUP=OPTION (method=repq_vit) or KEY=VALUE (calib.size=64, bits.kinds.probs=8), in Hydra's grammar",
    )
    text = "your own config groups, e.g. DIR/method/mine.yaml; searched before VITQ_CONFIG_DIR and ./conf"
    parser.add_argument("--config-dir", metavar="DIR", help=text)


def dry_run(parser: argparse.ArgumentParser) -> None:
    """`--dry-run`."""
    parser.add_argument("--dry-run", action="store_true", help="check every run and list them; start and write nothing")


def places(parser: argparse.ArgumentParser) -> None:
    """Overrides that say where images and weights of a stored run lie now."""
    text = "where its images or weights lie now: data.root=DIR, data.class_map=FILE, model.checkpoint=FILE"
    parser.add_argument("places", nargs="*", metavar="KEY=PATH", help=text)


def again(parser: argparse.ArgumentParser) -> None:
    """`--again`."""
    text = "compute finished runs once more; their old records are kept under runs/SIGNATURE/history"
    parser.add_argument("--again", action="store_true", help=text)


def detach(parser: argparse.ArgumentParser) -> None:
    """`--detach`."""
    text = "return at once: the scheduler has the jobs, or a process in the background executes the runs"
    parser.add_argument("--detach", action="store_true", help=text)


def as_json(parser: argparse.ArgumentParser, what: str) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON to stdout, and nothing else there")


def runs_dir(parser: argparse.ArgumentParser) -> None:
    """`--runs-dir` of the commands that read a store."""
    text = "the run store (default: VITQ_RUNS_DIR, else runs)"
    parser.add_argument("--runs-dir", metavar="DIR", default=default_store(), help=text)


def default_store() -> str:
    """Where the runs lie when nobody says it."""
    return os.environ.get("VITQ_RUNS_DIR") or "runs"


def one_store(command: str, words: Sequence[str]) -> list[str]:
    """The words of a command with its store in the spelling that it takes: `--runs-dir DIR`, or the config's key
    `runs_dir=DIR` where a config is composed."""
    composes = command in ("run", "sweep")
    found: list[str] = []
    left = iter(words)
    for word in left:
        key, equals, value = word.partition("=")
        if composes and key == "--runs-dir":
            folder = value if equals else next(left, "")
            found.append(f"runs_dir='{folder}'" if "'" not in folder else f'runs_dir="{folder}"')
        elif not composes and key.lstrip("+") == "runs_dir" and equals:
            found += ["--runs-dir", value.strip("'\"")]
        else:
            found.append(word)
    return found
