"""Options and arguments that several commands share."""

from __future__ import annotations

import argparse


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
    parser.add_argument("--config-dir", metavar="DIR", help="your own config groups, e.g. DIR/method/mine.yaml")


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
    parser.add_argument("--runs-dir", metavar="DIR", default="runs", help="the run store (default: runs)")
