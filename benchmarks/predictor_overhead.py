"""Inference time of per-image ranges against static ones, side by side: predicted, per-image min-max, percentile.

    python benchmarks/predictor_overhead.py            --json prints seconds, ratios, parameters and operations

A W4A4 DeiT-tiny with random weights, batch 32, the recipe minmax; variants are timed in turns, every other round in the
reverse order, and compared within a round: medians over --rounds.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from common import config, options, show
from reconstruction import workspace

from vitq.methods.scale_predictor import PredictScales
from vitq.quant.predictor import Predictor
from vitq.steps import Workspace


def minmax() -> Workspace:
    """DeiT-tiny, all quantizers fitted and on."""
    recipe = config("method=minmax", "bits=w4a4", "calib.size=16")
    return workspace(recipe, recipe.method.steps, torch.device("cpu"))


@torch.no_grad()
def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    works = {}
    for ranges in ("static", "predicted", "minmax", "percentile"):
        works[ranges] = minmax()
        PredictScales(do="predict_scales", ranges=ranges).run(works[ranges])
    x = torch.randn(args.batch, 3, 224, 224)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(args.rounds + 1):
        for name, work in list(works.items())[:: 1 if turn % 2 else -1]:
            begin = time.perf_counter()
            work.model(x)
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        name: statistics.median(one / static for one, static in zip(values, seconds["static"], strict=True))
        for name, values in seconds.items()
    }
    predictor = works["predicted"].model.predictor
    assert isinstance(predictor, Predictor)
    out = {
        "seconds": medians,
        "ratio": ratios,
        "parameters": predictor.scales.numel(),
        "operations_per_image": predictor.flops(197, 192),
    }
    if args.json:
        show(out, as_json=True)
    else:
        for name, value in medians.items():
            print(f"{name:<11} {value:.3f} s a batch of {args.batch}, {ratios[name]:.3f} of static")
        print(f"{out['parameters']} parameters, {out['operations_per_image']} operations for each image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
