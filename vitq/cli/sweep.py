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
    """Arguments of `vitq sweep`."""
    parser = options.parser(
        "sweep",
        "Execute every run of a sweep that has no result yet, then print the table and write the report.",
        EXAMPLES,
        "NAME|PATH [--dry-run] [--cfg job] [--info] [--again] [--detach] [--json] [OVERRIDE ...]",
    )
    parser.add_argument(
        "sweep", metavar="NAME|PATH", help="a sweep of `vitq list sweeps`, or the path of its YAML file"
    )
    parser.add_argument("--name", help="record it under this name, in place of the sweep's own")
    options.overrides(parser)
    composed.add_options(parser)
    options.dry_run(parser)
    options.again(parser)
    options.detach(parser)
    options.as_json(parser, "the table, one row per run,")
    return parser


def main(args: argparse.Namespace) -> int:
    """Execute. Raises VitqError for whatever is wrong before the start."""
    from vitq.cli import execute
    from vitq.config.search_path import ConfigPath, sweep_file
    from vitq.planning import compose

    file = sweep_file(args.sweep)
    search_path = ConfigPath.of(*([args.config_dir] if args.config_dir else []))
    primary = compose.load(file, search_path, args.overrides, multirun=True)
    if args.name is not None:
        primary = dataclasses.replace(primary, sweep={**primary.sweep, "name": args.name})
    if composed.wanted(args):
        return composed.print_composed(primary, args)
    return execute.execute(primary, args)
