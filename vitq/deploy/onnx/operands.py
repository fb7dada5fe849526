"""Operands of integer products: which quantizers int8 can hold, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitq.deploy.onnx.qdq import Above, Beyond, Round
from vitq.quant.integer import MIDDLE, IntegerPart, NotIntegerError
from vitq.quant.quantizer import Quantizer
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer


def uniform(site: Site) -> IntegerPart:
    """The codes of an activation site whose quantizer is uniform. Raises NotIntegerError."""
    codes = _parts(site)
    if len(codes) > 1:
        raise NotIntegerError(f"{site.name}: {_present(site).uneven}")
    return codes[0]


def parts(site: Site, real: bool = False) -> tuple[list[nn.Module], IntegerPart | None]:
    """Modules whose sum is the site's round trip, each through 8-bit integers. Raises NotIntegerError.

    A uniform site has one, which leaves its zero point in (x̂ + scale·zero), or with `real` takes it off; its codes are
    returned beside it. A site of several parts has no zero point.
    """
    all_parts = _parts(site)
    if len(all_parts) > 1:
        return [_rounded(part) for part in all_parts], None
    (part,) = all_parts
    if not 0 <= part.zero < 2 * MIDDLE:
        raise NotIntegerError(f"{site.name}: its zero point {part.zero} is no 8-bit code")
    kept = part.zero if real else 0
    return [Round(part.scale, part.low, part.high, torch.uint8, zero=part.zero, kept=kept)], part


def _rounded(part: IntegerPart) -> nn.Module:
    round_ = Round(part.scale, part.low, part.high, torch.int8 if part.low < 0 else torch.uint8)
    if part.start:
        return Beyond(part.start, round_)
    if part.above is not None:
        return Above(part.above, True, round_)
    return round_ if part.up_to is None else Above(part.up_to, False, round_)


def rounding(site: Site) -> Round:
    """The round trip of a uniform site with one scale through int8, to its real values. Raises NotIntegerError."""
    codes = uniform(site)
    try:
        return signed(codes, real=True)[0]
    except NotIntegerError as reason:
        raise NotIntegerError(f"{site.name}: {reason}") from reason


def signed(codes: IntegerPart, real: bool = False) -> tuple[Round, int]:
    """(rounding to int8, shift): value = scale·(integer − shift). The shift stays in, or with `real` is taken off.

    Raises NotIntegerError where int8 does not hold the zero point.
    """
    shift = 0 if codes.centred else codes.zero - MIDDLE
    if not -MIDDLE <= shift < MIDDLE:
        raise NotIntegerError(f"zero point {codes.zero} is no 8-bit code")
    return Round(codes.scale, codes.low, codes.high, torch.int8, zero=shift, kept=shift if real else 0), shift


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
    if not isinstance(quantizer, UniformQuantizer) or quantizer.uneven:
        raise NotIntegerError(f"{site.name}: {quantizer.uneven}")
    layout = quantizer.layout
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


def _present(site: Site) -> Quantizer:
    if not site.on or site.quantizer is None:
        raise NotIntegerError(f"{site.name} is not quantized")
    return site.quantizer


def _parts(site: Site) -> list[IntegerPart]:
    quantizer = _present(site)
    try:
        return quantizer.integer_parts()
    except NotIntegerError as reason:
        raise NotIntegerError(f"{site.name}: {reason}") from reason
