"""Bias correction: the mean error of each output channel is taken out of the layer's bias."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitq.quant.layers import QuantConv2d
from vitq.steps.layer_walk import NetworkWalk, layers, quantized_walk, teacher_walk
from vitq.steps.step import Step, Workspace, register_step
from vitq.steps.weight_grid import add_bias


@register_step("bias_correction")
class BiasCorrection(Step):
    """b ← b − E[y_q − y], the mean over all calibration images and positions (Nagel et al. 2019, arXiv 1906.04721).

    y_q is what a linear or convolution layer of the quantized network gives, y what the same layer of the untouched
    full-precision network gives. Layers are corrected in the order they run, each one on the network whose earlier
    layers are corrected already, so that afterwards the mean error of every layer's output is zero. Closed form; it can
    follow any recipe. A layer without a bias gets one where it needs it.

    input: what the full-precision side reads. `fp`: its own activations, so that the error that earlier layers have
        left is corrected too. `quantized`: each segment of it reads what the quantized network's segment reads, so that
        only the error made inside the segment is.

    What `centre` took out of a layer's output stays out of it.
    A detector's heads are left as they are: which boxes reach them depends on what is quantized.
    """

    input: Literal["fp", "quantized"] = "fp"
    needs_teacher: ClassVar[bool] = True
    depends_on_bits: ClassVar[bool] = True
    tunes_weights: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def run(self, work: Workspace) -> None:
        quantized, exact = quantized_walk(work), teacher_walk(work)
        for name, layer in layers(work, [quantized, exact], "bias_correction"):
            if not quantized.segment.learned:
                continue
            if self.input == "quantized":
                exact.inputs = quantized.inputs
            add_bias(layer, work.moved.get(name, 0) - mean_error(quantized, exact, name))


@torch.no_grad()
def mean_error(quantized: NetworkWalk, exact: NetworkWalk, name: str) -> Tensor:
    """(channels,) float64: mean of the quantized layer's output less the full-precision layer's."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    layer, target = quantized.module(name), exact.module(name)
    channel = 1 if isinstance(layer, QuantConv2d) else -1
    for x_quantized, x_exact in zip(quantized.arriving(name), exact.arriving(name), strict=True):
        error = (layer(x_quantized) - target(x_exact)).movedim(channel, -1).flatten(0, -2)
        total = total.to(error.device) + error.sum(dim=0, dtype=torch.float64)
        count += len(error)
    return total / count
