"""`vitq sweep`: a sweep file, with overrides on top."""

from __future__ import annotations

import argparse
import dataclasses

from vitq.cli import composed, options

EXAMPLES = """\
  vitq sweep demo
  vitq sweep demo --dry-run                             what would run, and what has its result already
  vitq sweep demo method=repq_vit 'seed=range(3)'       an override of an axis replaces it, another one is added
  vitq sweep my/sweeps/ablation.yaml tracker=none
  vitq sweep demo --json > table.json
  vitq sweep demo launcher=slurm --detach               submit and return; `vitq status demo` goes on from there
"""


def parser() -> argparse.ArgumentParser:
    text = "Execute every run of a sweep that has no result yet, then print the table and write the report."
    parser = options.parser("sweep", text, EXAMPLES)
    file = "a sweep of `vitq list sweeps`, or the path of its YAML file"
    parser.add_argument("sweep", metavar="NAME|PATH", help=file)
    parser.add_argument("--name", help="record it under this name, in place of the sweep's own")
    names = ("overrides", "--config-dir", "--cfg -c", "--info", "--dry-run", "--again", "--detach")
    return options.add(parser, *names, json="the table, one row per run,")


def main(args: argparse.Namespace) -> int:
    """Execute. Raises VitqError for whatever is wrong before the start."""
    from vitq.cli import execute
    from vitq.config.search_path import ConfigPath, sweep_file
    from vitq.planning import compose

    file = sweep_file(args.sweep)
    primary = compose.load(file, ConfigPath.of(args.config_dir), args.overrides, multirun=True)
    if args.name is not None:
        primary = dataclasses.replace(primary, sweep={**primary.sweep, "name": args.name})
    if composed.wanted(args):
        return composed.print_composed(primary, args)
    return execute.execute(primary, args)
