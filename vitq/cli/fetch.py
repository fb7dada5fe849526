"""`vitq fetch`: pretrained weights of a sweep into the hub's cache, for nodes without network."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.config import RunConfig

EXAMPLES = """\
  vitq fetch imagenet                       on a login node; then `vitq sweep imagenet launcher=slurm`
  vitq fetch my/sweeps/eva.yaml model=timm model.name=eva02_tiny_patch14_336.mim_in22k_ft_in1k
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of `vitq fetch`."""
    text = "Download the pretrained weights of a sweep's models that the hub's local cache does not have yet."
    parser = options.parser("fetch", text, EXAMPLES)
    parser.add_argument(
        "sweep", metavar="NAME|PATH", help="a sweep of `vitq list sweeps`, or the path of its YAML file"
    )
    return options.add(parser, "overrides", "--config-dir")


def main(args: argparse.Namespace) -> int:
    """Download. Raises VitqError for a sweep with problems, and for weights that cannot be downloaded."""
    from vitq.config.search_path import ConfigPath, sweep_file
    from vitq.models import hub_cache
    from vitq.models.load import load_model
    from vitq.planning import compose
    from vitq.progress import Progress

    search_path = ConfigPath.of(args.config_dir)
    wanted: dict[str, RunConfig] = {}
    for config in compose.configs(compose.load(sweep_file(args.sweep), search_path, args.overrides, multirun=True)):
        if hub_cache.repository(config.model) is not None:
            wanted.setdefault(json.dumps(config.to_dict()["model"], sort_keys=True), config)
    if not wanted:
        print("no model of this sweep takes weights from the hub")
    for config in wanted.values():
        there = hub_cache.missing(config.model) is None
        if not there:
            load_model(config.model, config.data, config.cache_dir, Progress())
        print(f"{config.model.name}  {'in the cache' if there else 'downloaded'}")
    return 0
