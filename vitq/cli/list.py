"""`vitq list`: what exists."""

from __future__ import annotations

import argparse
import json
import sys

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
    text = "Models, methods, sweeps and runs that exist; the sites of one configuration."
    parser = options.parser("list", text, EXAMPLES)
    parser.add_argument("what", choices=WHAT)
    return options.add(parser, "overrides", "--config-dir", "--runs-dir", json="the list")


def main(args: argparse.Namespace) -> int:
    """Print one list. Raises ConfigError for an invalid configuration (sites)."""
    if args.what == "sites":
        return _sites(args)
    if args.what == "runs":
        from vitq.cli.list_runs import list_runs
        from vitq.store import Store

        return list_runs(Store(args.runs_dir), args.overrides, args.json)
    from vitq.config.search_path import ConfigPath, headline, sweep_files
    from vitq.errors import VitqError

    if args.overrides:
        text = f"`vitq list {args.what}` takes no overrides, not {' '.join(args.overrides)}; `vitq list sites` does"
        raise VitqError(text, "overrides", args.overrides)
    search_path = ConfigPath.of(args.config_dir)
    for line in search_path.notes:
        print(f"vitq: {line}", file=sys.stderr)
    files = sweep_files() if args.what == "sweeps" else search_path.files(args.what.removesuffix("s"))
    if args.json:
        items = [{"name": name, "about": headline(path), "file": str(path)} for name, path in files.items()]
        print(json.dumps(items, indent=2))
        return 0
    width = max(map(len, files), default=0)
    for name, path in files.items():
        print(f"{name:<{width}}  {headline(path)}")
    use = {"models": "model=NAME", "methods": "method=NAME", "sweeps": "vitq sweep NAME"}[args.what]
    print(f"\nuse: {use}")
    return 0


def _sites(args: argparse.Namespace) -> int:
    from vitq.errors import ConfigError
    from vitq.planning import compose
    from vitq.planning.engine import engine

    config = compose.single_config(args.config_dir, args.overrides)
    if problems := engine().recipe_problems(config):
        raise ConfigError(problems)
    from vitq.engine.network_checks import network_of

    sites = network_of(config).sites()
    print(sites.to_json(orient="records", indent=2) if args.json else sites.to_string(index=False))
    return 0
