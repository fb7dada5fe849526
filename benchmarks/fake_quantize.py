"""A learned quantizer's forward and backward pass: torch's fused kernel, ours, and ours compiled, side by side.

    python benchmarks/fake_quantize.py            --json prints seconds

Activations of a DeiT-tiny block's MLP (16 images, 197 tokens, 768 channels), a scale and zero point for the tensor or
for each channel, all with gradients; in turns, medians over --rounds. Reconstruction runs ours compiled.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from common import options, show
from torch import Tensor

from vitq.quant.affine import lsq_factor, lsq_round_trip

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
_SHAPE, _CODES = (16, 197, 768), 16


def ours(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The kernel of `UniformQuantizer` with learned parameters."""
    return lsq_round_trip(x, scale, zero, _CODES, lsq_factor(x.numel() // (len(x) * len(scale)), _CODES))


def fused(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """torch's, without LSQ's factor of the gradients."""
    if len(scale) == 1:
        return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, 0, _CODES - 1, 1.0)
    return torch._fake_quantize_learnable_per_channel_affine(x, scale, zero, x.dim() - 1, 0, _CODES - 1, 1.0)


def seconds(operation: Operation, x: Tensor, scale: Tensor, zero: Tensor, gradient: Tensor) -> float:
    """Of one forward and backward pass."""
    begin = time.perf_counter()
    operation(x, scale, zero).backward(gradient)
    return time.perf_counter() - begin


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    operations: dict[str, Operation] = {"fused": fused, "ours": ours, "compiled": torch.compile(ours, dynamic=False)}
    medians: dict[str, dict[str, float]] = {}
    for granularity, groups in (("tensor", 1), ("channel", _SHAPE[-1])):
        x, gradient = torch.randn(_SHAPE), torch.randn(_SHAPE)
        taken: dict[str, list[float]] = {name: [] for name in operations}
        for turn in range(args.rounds + 2):
            for name, operation in operations.items():
                leaves = [
                    t.requires_grad_() for t in (x.clone(), torch.full((groups,), 0.4), torch.full((groups,), 7.0))
                ]
                spent = seconds(operation, leaves[0], leaves[1], leaves[2], gradient)
                if turn > 1:  # the first turns compile and warm up
                    taken[name].append(spent)
        medians[granularity] = {name: statistics.median(values) for name, values in taken.items()}
    if args.json:
        show(medians, as_json=True)
    else:
        for granularity, of_names in medians.items():
            for name, spent in of_names.items():
                print(f"{granularity:8} {name:9} {spent * 1e3:7.2f} ms  {spent / of_names['fused']:.2f} of torch's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
