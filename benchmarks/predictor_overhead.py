"""Inference time of per-image ranges against static ones, side by side: predicted, per-image min-max, percentile.

    python benchmarks/predictor_overhead.py            --json prints seconds, ratios, parameters and operations

A W4A4 DeiT-tiny with random weights, batch 32, the recipe minmax; variants are timed in turns, every other round in the
reverse order, and compared within a round: medians over --rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time

import timm
import torch
from reconstruction import MODEL, Noise

from vitq.methods.scale_predictor import PredictScales
from vitq.models.structure import structure_of
from vitq.planning import compose
from vitq.planning.planner import make
from vitq.progress import Progress
from vitq.quant.model import QuantizedModel
from vitq.quant.predictor import Predictor
from vitq.steps import Workspace
from vitq.steps.step import parse_step


def workspace() -> Workspace:
    """DeiT-tiny, all quantizers fitted and on."""

    file, roots = compose.root_config(None, None)
    words = ["method=minmax", "bits=w4a4", "calib.size=16", "tracker=none"]
    config = make(compose.load(file, roots, words, multirun=False)).runs[0].config
    torch.manual_seed(0)
    model = timm.create_model(MODEL, pretrained=False).eval()
    teacher = structure_of(copy.deepcopy(model))
    quantized = QuantizedModel(model)
    quantized.equip(config.method, config.bits)
    work = Workspace(quantized, Noise(16), config, torch.device("cpu"), Progress(), teacher)  # type: ignore[arg-type]
    for name, raw in config.method.steps.items():
        step, problems = parse_step(name, raw)
        assert step is not None, problems
        step.run(work)
    return work


@torch.no_grad()
def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    works = {}
    for ranges in ("static", "predicted", "minmax", "percentile"):
        works[ranges] = workspace()
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
        print(json.dumps(out))
    else:
        for name, value in medians.items():
            print(f"{name:<11} {value:.3f} s a batch of {args.batch}, {ratios[name]:.3f} of static")
        print(f"{out['parameters']} parameters, {out['operations_per_image']} operations for each image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
