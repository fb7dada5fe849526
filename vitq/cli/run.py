"""`vitq run`: one configuration, or with `-m` the product of several values."""

from __future__ import annotations

import argparse
import dataclasses

from vitq.cli import composed, options

EXAMPLES = """\
  vitq run                                                    the defaults of conf/config.yaml
  vitq run model=swin_digits method=repq_vit bits=w4a4 seed=1
  vitq run bits.weight=3 bits.activation=4 bits.kinds.probs=8
  vitq run -m method=minmax,mse,repq_vit bits=w4a4 'seed=range(3)'
  vitq run --config-dir my_conf method=ours                   with my_conf/method/ours.yaml
  vitq run --cfg job method=mse                               the resolved config; --info says from which files
  vitq run --json method=fp32 | python -m json.tool           the content of result.json
"""


def parser() -> argparse.ArgumentParser:
    text = "Execute one configuration. A run that has its result already is not repeated."
    parser = options.parser("run", text, EXAMPLES)
    parser.add_argument("-m", "--multirun", action="store_true", help="several values per key: run all combinations")
    parser.add_argument("--name", help="with -m: name of the sweep (default: multirun)")
    primary = "primary config in --config-dir or conf/ (default: config)"
    parser.add_argument("--config-name", metavar="NAME", help=primary)
    what = "the run's result.json (with -m: the results of all runs)"
    names = ("overrides", "--config-dir", "--cfg -c", "--info", "--dry-run", "--again")
    return options.add(parser, *names, json=what)


def main(args: argparse.Namespace) -> int:
    """Execute. Raises VitqError for whatever is wrong before the start."""
    from vitq.cli import execute
    from vitq.errors import VitqError
    from vitq.planning import compose

    if args.name is not None and not args.multirun:
        text = f"`vitq run` --name {args.name}: a single run has no name; add -m, or leave --name out"
        raise VitqError(text, "--name", args.name)
    file, search_path = compose.root_config(args.config_dir, args.config_name)
    primary = compose.load(file, search_path, args.overrides, multirun=args.multirun)
    if args.name is not None:
        primary = dataclasses.replace(primary, sweep={**primary.sweep, "name": args.name})
    if composed.wanted(args):
        return composed.print_composed(primary, args)
    return execute.execute(primary, args, name="multirun" if args.config_name is None else None)
