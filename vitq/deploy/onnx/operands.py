"""Operands of integer products: which quantizers int8 can hold, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitq.deploy.onnx.qdq import Above, Beyond, Round
from vitq.methods.twin import TwinSoftmaxQuantizer, TwinUniformQuantizer
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer

MIDDLE = 128


class NotIntegerError(Exception):
    """An operand that int8 cannot hold exactly; the message says why."""


@dataclass(frozen=True)
class Uniform:
    """A uniform quantizer with one scale: codes in [0, codes), zero point, both whole numbers."""

    scale: float
    zero: int
    codes: int

    @property
    def low(self) -> int:
        """Least code relative to the zero point."""
        return -self.zero

    @property
    def high(self) -> int:
        """Greatest code relative to the zero point."""
        return self.codes - 1 - self.zero

    @property
    def centred(self) -> bool:
        """Whether int8 holds all codes with the zero point at 0."""
        return self.low >= -MIDDLE and self.high < MIDDLE


def uniform(site: Site) -> Uniform:
    """The quantizer of an activation site. Raises NotIntegerError."""
    quantizer = _present(site)
    if type(quantizer) is not UniformQuantizer:
        raise NotIntegerError(f"{site.name}: {_uneven(quantizer)}")
    _one_scale(site)
    zero = float(quantizer.zero_point[0])
    if not zero.is_integer():
        raise NotIntegerError(f"{site.name}: its zero point {zero} is not a whole number")
    return Uniform(float(quantizer.scale[0]), int(zero), quantizer.codes)


def parts(site: Site) -> tuple[list[nn.Module], Uniform | None]:
    """Modules whose sum is the site's round trip, each through 8-bit integers. Raises NotIntegerError.

    A uniform site has one, which leaves its zero point in (x̂ + scale·zero); the quantizer is returned beside it. A twin
    site has one for each region, and no zero point.
    """
    quantizer = _present(site)
    if isinstance(quantizer, TwinUniformQuantizer | TwinSoftmaxQuantizer):
        _one_scale(site)
        fine, exponent = float(quantizer.scale[0]), float(quantizer.exponent[0])
        coarse, last = fine * 2.0**exponent, quantizer.part - 1
        if isinstance(quantizer, TwinUniformQuantizer):
            # What is negative rounds to 0 in the coarse region, and what is positive in the fine one.
            return [Round(coarse, 0, last, torch.uint8), Round(fine, -quantizer.part, 0, torch.int8)], None
        # Where the fine region ends, as TwinSoftmaxQuantizer has it.
        following = min(last // 2**exponent + 1, last) * 2**exponent
        if following == last + 1:
            # The coarse steps go on where the fine ones end: x̂ is what lies below that place and what lies beyond it.
            rest = last - following / 2**exponent
            return [
                Round(fine, 0, last + 1, torch.uint8),
                Beyond(fine * following, Round(coarse, 0, int(rest), torch.uint8)),
            ], None
        threshold = float(torch.tensor(fine) * ((last + following) / 2))
        return [
            Above(threshold, False, Round(fine, 0, last, torch.uint8)),
            Above(threshold, True, Round(coarse, 0, last, torch.uint8)),
        ], None
    found = uniform(site)
    if not 0 <= found.zero < 256:
        raise NotIntegerError(f"{site.name}: its zero point {found.zero} is no 8-bit code")
    return [Round(found.scale, found.low, found.high, torch.uint8, zero=found.zero)], found


def rounding(site: Site) -> Round:
    """The round trip of a uniform site with one scale through int8, to its real values. Raises NotIntegerError."""
    found = uniform(site)
    shift = found.zero - (0 if found.centred else MIDDLE)
    if found.centred:
        return Round(found.scale, found.low, found.high, torch.int8)
    if not -MIDDLE <= shift < MIDDLE:
        raise NotIntegerError(f"{site.name}: its zero point {found.zero} is no 8-bit code")
    return Round(found.scale, found.low, found.high, torch.int8, zero=shift, kept=shift)


@dataclass(frozen=True)
class Weight:
    """Codes of a weight as int8, (out, …), value = scale·(codes + offset).

    scale: (out,). offset: (out,) whole numbers, None where all are 0.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor | None


def weight(site: Site, values: Tensor) -> Weight:
    """The int8 form of a weight at its quantized values (out, …). Raises NotIntegerError."""
    quantizer = _present(site)
    if type(quantizer) is not UniformQuantizer:
        raise NotIntegerError(f"{site.name}: {_uneven(quantizer)}")
    layout = quantizer._layout()
    if layout.granularity not in ("channel", "tensor"):
        raise NotIntegerError(
            f"{site.name}: granularity {layout.granularity}, int8 products have one scale for each output"
        )
    out = len(values)
    scale, zero = quantizer.scale.expand(out).clone(), quantizer.zero_point.expand(out).to(torch.int64)
    codes = quantizer.encode(values)
    centred = codes - zero.view(-1, *(1,) * (values.ndim - 1))
    if int(centred.min()) >= -MIDDLE and int(centred.max()) < MIDDLE:
        return Weight(centred, scale, None)
    return Weight(codes - MIDDLE, scale, MIDDLE - zero)


def _present(site: Site) -> nn.Module:
    if not site.on or site.quantizer is None:
        raise NotIntegerError(f"{site.name} is not quantized")
    return site.quantizer


def _one_scale(site: Site) -> None:
    layout = site.quantizer._layout() if site.quantizer is not None else None
    if layout is not None and layout.groups > 1:
        raise NotIntegerError(
            f"{site.name}: granularity {layout.granularity}, int8 products have one scale for an input"
        )


def _uneven(quantizer: nn.Module) -> str:
    name = type(quantizer).__name__.removesuffix("Quantizer")
    if isinstance(quantizer, UniformQuantizer):
        return f"{name} has no scale that is fixed for the whole tensor"
    return f"the codes of {name} are not evenly spaced"
