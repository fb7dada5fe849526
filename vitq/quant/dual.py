"""Dual uniform quantizer: the input channels in which outliers gather have scales of their own (ERQ, TPAMI 2025)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitq.errors import Problem
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Axes, Layout
from vitq.quant.quantizer import register_quantizer
from vitq.quant.uniform import UniformQuantizer

# An entry outside these quantiles of its row's negative and positive entries is an outlier.
_TAIL = 0.01


@dataclass(frozen=True)
class DualLayout(Layout):
    """Two groups for each output channel. second: bool (I,), input channels of the second group."""

    second: Tensor = field(kw_only=True)

    @staticmethod
    def of_columns(axes: Axes, rows: int, inputs: int, columns: Iterable[int]) -> DualLayout:
        """Layout of a weight (rows, inputs) whose second group has the given input channels."""
        second = torch.zeros(inputs, dtype=torch.bool)
        second[list(columns)] = True
        return DualLayout("channel", axes, 2 * rows, (rows, 2), second=second)

    def columns(self) -> list[int]:
        """Input channels of the second group."""
        return [int(column) for column in self.second.nonzero().flatten()]

    def view(self, parameter: Tensor) -> Tensor:
        pairs = parameter.view(-1, 2)
        return torch.where(self.second.to(parameter.device), pairs[:, 1:], pairs[:, :1])


@register_quantizer("dual_uniform")
class DualUniformQuantizer(UniformQuantizer):
    """Uniform weights (O, I) with two scales and zero points for each output channel.

    After a norm's scales were folded into a weight, some input channels are far wider than the others and take the
    range of every row. The `share`·O input channels in which most rows have an outlier become a group of their own;
    each group has 2^b codes.

    scale, zero_point: (2·O,), the groups of a row beside each other. Weights of linear layers only.
    """

    options: ClassVar[dict[str, Any]] = {**UniformQuantizer.options, "share": 0.05}
    kinds = ("weight",)

    def fit(self, distribution: Distribution, layout: Layout) -> None:
        text = "dual_uniform quantizes weights; use quantizer uniform for activations"
        raise ValueError(Problem(text, "quantizer", "dual_uniform", ["uniform"]))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if not self.axes.weight or len(shape) != 2:
            text = f"dual_uniform quantizes weights of linear layers, not a tensor of shape {shape}"
            raise ValueError(Problem(text, "quantizer", shape))

    @torch.no_grad()
    def fit_tensor(self, x: Tensor) -> None:
        self.check_shape(tuple(x.shape))
        second = outlier_channels(x, self.settings["share"])
        settings = {name: value for name, value in self.settings.items() if name != "share"}
        parts = []
        for columns in (~second, second):
            part = UniformQuantizer(self.bits, "channel", self.axes, self.range_search, self.symmetric, **settings)
            # Without outliers the second group is never read.
            part.fit_tensor(x[:, columns] if bool(columns.any()) else x)
            parts.append(part)
        layout = DualLayout.of_columns(self.axes, len(x), x.shape[1], second.nonzero().flatten().tolist())
        scale, zero = (torch.stack([getattr(part, name) for part in parts], dim=1) for name in self.parameter_names)
        self.assign(layout, scale.flatten(), zero.flatten())
        self.constants = torch.stack([part.constants for part in parts], dim=1).flatten()

    def parameter_bytes(self) -> int:
        layout = self.layout
        assert isinstance(layout, DualLayout)
        return super().parameter_bytes() + -(-layout.second.numel() // 8)


def outlier_channels(weight: Tensor, share: float) -> Tensor:
    """Bool (I,): the share·O columns of a weight (O, I) in which most rows have an outlier, at most half of all."""
    high = torch.where(weight > 0, weight, torch.nan).nanquantile(1 - _TAIL, dim=1, keepdim=True)
    low = torch.where(weight < 0, weight, torch.nan).nanquantile(_TAIL, dim=1, keepdim=True)
    votes = ((weight > high) | (weight < low)).sum(dim=0)
    count = min(int(share * len(weight)), weight.shape[1] // 2)
    second = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
    # A stable order: of equal columns the first ones, on every device.
    second[votes.argsort(descending=True, stable=True)[:count]] = True
    return second & (votes > 0)
