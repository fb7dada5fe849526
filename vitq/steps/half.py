"""What has no codes, in half precision: biases, norms, embeddings and scales become float16 numbers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vitq.steps.step import Step, Workspace, register_step

_FLOAT16 = torch.finfo(torch.float16)


@register_step("half")
class Half(Step):
    """Rounds everything that stays in floating point to numbers that float16 holds; arithmetic remains float32.

    That is: parameters and buffers without codes (biases, norms, embeddings, weights of sites in floating point) and
    the quantizers' parameters. The simulated model is then what a packed checkpoint stores in float16, bit for bit.
    Weights are coded with the rounded scales. A number above float16's range stays as it is, and a scale below its
    normal numbers, which would lose more than 2^-11 of itself; the file keeps such a tensor in float32. Has to be the
    last step.

    No paper: float16 beside integer weights is common practice.
    """

    last: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    @torch.no_grad()
    def run(self, work: Workspace) -> None:
        quantized = [site for site in work.model.quantized() if site.on]
        coded = {site.name for site in quantized if site.is_weight}
        for name, values in work.model.plain_state().items():
            if values.is_floating_point() and name not in coded:
                round_(values)
        for site in quantized:
            if site.quantizer is not None:
                for name in site.quantizer.parameter_names:
                    round_(getattr(site.quantizer, name), least=_FLOAT16.tiny)
                site.quantizer.refresh()
        work.model.halved = True


def round_(values: Tensor, least: float = 0.0) -> None:
    """Round to float16's numbers in place. What is smaller than `least`, or larger than all of them, stays as it is."""
    size = values.abs()
    inside = ((size >= least) & (size <= _FLOAT16.max)) | (size == 0)
    values.copy_(torch.where(inside, values.half().to(values.dtype), values))
