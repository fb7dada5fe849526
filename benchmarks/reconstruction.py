"""Seconds of one iteration of block reconstruction against the plain block's forward and backward, side by side.

    python benchmarks/reconstruction.py            --json prints {"float32": {...}, "bf16": {...}}

A DeiT-tiny block at batch 64 with random weights. `plain` is timm's own block: forward, backward to weights and
biases. `ours` is an iteration of I&S-ViT's third stage as the engine runs it: batch drawn from the streams, W4A4 block
forward and backward, loss, Adam. The two are timed in turns, `--rounds` times `--iterations`; medians.
ratio = ours ÷ plain.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import timm
import torch
from common import config, options, show
from torch import Tensor

from vitq.config import RunConfig
from vitq.engine.recipe import equipped
from vitq.models.structure import structure_of
from vitq.progress import Progress
from vitq.steps import Workspace
from vitq.steps.reconstruction.reconstruct import Reconstruct, SegmentTask, learn_segment
from vitq.steps.step import parse_step
from vitq.steps.stream import TensorStream

MODEL = "deit_tiny_patch16_224"
BLOCK = 6  # segment: patch embedding, then the blocks


class Noise:
    """Calibration images that hold nothing."""

    def __init__(self, count: int):
        self.x = torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """As ImageSet."""
        for batch in self.x.split(size):
            yield batch.to(device), torch.zeros(len(batch), dtype=torch.int64)


def workspace(config: RunConfig, steps: Iterable[str], device: torch.device) -> Workspace:
    """DeiT-tiny with random weights after these steps of the recipe."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL, pretrained=False).to(device).eval()
    teacher = structure_of(copy.deepcopy(model))
    work = Workspace(equipped(config, model), Noise(16), config, device, Progress(), teacher)  # type: ignore[arg-type]
    for name in steps:
        step, problems = parse_step(name, config.method.steps[name])
        assert step is not None, problems
        step.run(work)
    return work


def plain_iteration(segment: Any, x: Tensor, target: Tensor, context: Any) -> None:
    """Forward and backward of timm's block."""
    with context():
        output = segment.forward(x)
    (output.float() - target).square().sum(dim=1).mean().backward()


def measure(autocast: str, args: argparse.Namespace, work: Workspace) -> dict[str, float]:
    """Median seconds of an iteration, plain and ours, and their ratio."""
    device = work.device
    segment, teacher = work.model.structure.segments[BLOCK], work.teacher.segments[BLOCK]
    inputs = torch.randn(64, 197, 192, device=device)
    streams = []
    for _ in range(3):
        stream = TensorStream(work, 64)
        stream.append(inputs)
        streams.append(stream)
    options = {"iterations": args.iterations, "batch_size": 64, "compile": args.compile}
    raw = {**work.config.method.steps["stage3"], "autocast": autocast, **options}
    step, problems = parse_step("stage3", raw)
    assert isinstance(step, Reconstruct), problems
    sites = [site for site in work.model.quantized() if segment.holds(site.owner)]
    block = copy.deepcopy(dict(structure_of(work.teacher.model).model.named_modules())[teacher.name])
    for name, parameter in block.named_parameters():
        parameter.requires_grad_("norm" not in name)

    def context() -> Any:
        return torch.autocast(device.type, dtype=torch.bfloat16) if autocast == "bf16" else nullcontext()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    plain, ours = [], []
    for turn in range(args.rounds + 1):
        wait()
        begin = time.perf_counter()
        for _ in range(args.iterations):
            plain_iteration(block, inputs, inputs, context)
        wait()
        middle = time.perf_counter()
        learn_segment(step, work, SegmentTask(BLOCK, segment, sites, *streams))
        wait()
        if turn:  # the first turn warms up
            plain.append((middle - begin) / args.iterations)
            ours.append((time.perf_counter() - middle) / args.iterations)
    seconds = {"plain": statistics.median(plain), "ours": statistics.median(ours)}
    return seconds | {"ratio": seconds["ours"] / seconds["plain"]}


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", choices=("on", "off"), default="on")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    recipe = config("method=ias_vit", f"bits.weight={args.bits}", f"bits.activation={args.bits}", "calib.size=64")
    work = workspace(recipe, ("ranges", "stage2", "weights"), torch.device(args.device))
    results = {name: measure("none" if name == "float32" else "bf16", args, work) for name in ("float32", "bf16")}
    if args.json:
        show(results, as_json=True)
    else:
        for name, r in results.items():
            print(f"{name}: plain {r['plain']:.3f} s, ours {r['ours']:.3f} s an iteration, ratio {r['ratio']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
