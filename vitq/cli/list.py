"""`vitq list`: what exists."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vitq.cli import options

EXAMPLES = """\
  vitq list models
  vitq list methods --config-dir my_conf
  vitq list sweeps
  vitq list runs method=repq_vit,mse bits=w4a4 state=done       every run of the store, of sweeps and single ones
  vitq list sites model=swin_digits method=repq_vit bits=w4a4
"""

WHAT = ("models", "methods", "sweeps", "sites", "runs")


def parser() -> argparse.ArgumentParser:
    """Arguments of `vitq list`."""
    usage = "{models,methods,sweeps,sites,runs} [--json] [--runs-dir DIR] [OVERRIDE|FILTER ...]"
    text = "Models, methods, sweeps and runs that exist; the sites of one configuration."
    parser = options.parser("list", text, EXAMPLES, usage)
    parser.add_argument("what", choices=WHAT)
    options.overrides(parser)
    options.runs_dir(parser)
    options.as_json(parser, "the list")
    return parser


def main(args: argparse.Namespace) -> int:
    """Print one list. Raises ConfigError for an invalid configuration (sites)."""
    if args.what == "sites":
        return _sites(args)
    if args.what == "runs":
        from vitq.cli.list_runs import list_runs
        from vitq.store import Store

        return list_runs(Store(args.runs_dir), args.overrides, args.json)
    from vitq.config.search_path import ConfigPath, headline, sweep_files

    if args.overrides:
        from vitq.errors import VitqError

        raise VitqError(
            f"`vitq list {args.what}` takes no overrides, found {' '.join(args.overrides)}; `vitq list sites` does"
        )
    search_path = ConfigPath.of(*([args.config_dir] if args.config_dir else []))
    for line in search_path.notes:
        print(f"vitq: {line}", file=sys.stderr)
    files = sweep_files() if args.what == "sweeps" else search_path.files(args.what.removesuffix("s"))
    if args.json:
        print(
            json.dumps(
                [{"name": name, "about": headline(path), "file": str(path)} for name, path in files.items()], indent=2
            )
        )
    else:
        _print(files, args.what)
    return 0


def _print(files: dict[str, Path], what: str) -> None:
    from vitq.config.search_path import headline

    width = max(map(len, files), default=0)
    for name, path in files.items():
        print(f"{name:<{width}}  {headline(path)}")
    use = {"models": "model=NAME", "methods": "method=NAME", "sweeps": "vitq sweep NAME"}[what]
    print(f"\nuse: {use}")


def _sites(args: argparse.Namespace) -> int:
    from vitq.errors import ConfigError
    from vitq.planning import compose
    from vitq.planning.engine import engine

    file, search_path = compose.root_config(args.config_dir)
    cell = next(compose.expand(compose.load(file, search_path, args.overrides)))
    from vitq.config import RunConfig

    config, problems = RunConfig.parse(cell.raw) if cell.problem is None else (None, [cell.problem])
    if config is not None:
        problems = engine().recipe_problems(config)
    if config is None or problems:
        raise ConfigError(problems)
    from vitq.engine.network_checks import network_of

    sites = network_of(config).sites()
    if args.json:
        print(sites.to_json(orient="records", indent=2))
        return 0
    print(sites.to_string(index=False))
    return 0
