"""What an allocation of bit-widths costs: mean bits, bytes, bit operations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitq.errors import VitqError
from vitq.quant.model import QuantizedModel
from vitq.quant.site import Site
from vitq.quant.site_table import FP_BITS, model_bytes, quantized_bytes

# Site name → bit-width.
Bits = dict[str, int]


@dataclass(frozen=True)
class Meter:
    """One cost of an allocation: a constant, a cost for each site and width, and products of two sites' widths.

    costs: site → width → cost. pairs: (left, right, factor), costing factor · bits(left) · bits(right).
    """

    name: str
    constant: float = 0.0
    costs: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str, float]] = ()

    def measure(self, bits: Mapping[str, int]) -> float:
        """The cost of a complete allocation."""
        single = sum(self.costs[site][bits[site]] for site in self.costs)
        return self.constant + single + sum(factor * bits[a] * bits[b] for a, b, factor in self.pairs)


@dataclass(frozen=True)
class Budget:
    """Meters and the limits on some of them."""

    meters: Mapping[str, Meter]
    limits: Mapping[str, float]

    def measures(self, bits: Mapping[str, int]) -> dict[str, float]:
        """Every meter's reading, limited or not."""
        return {name: meter.measure(bits) for name, meter in self.meters.items()}

    def excess(self, bits: Mapping[str, int]) -> dict[str, float]:
        """By how much each exceeded limit is exceeded; empty where the allocation is within the budget."""
        over = {name: self.meters[name].measure(bits) - limit for name, limit in self.limits.items()}
        # Sums of products of floats: equality is equality up to rounding.
        return {name: value for name, value in over.items() if value > 1e-9 * abs(self.limits[name])}

    def check(self, sites: Sequence[str], widths: Sequence[int]) -> None:
        """Raise VitqError, saying what is feasible, where even the narrowest widths exceed a limit."""
        least, most = dict.fromkeys(sites, min(widths)), dict.fromkeys(sites, max(widths))
        for name in self.excess(least):
            low, high = (self.meters[name].measure(bits) for bits in (least, most))
            text = (
                f"allocate: {name}={self.limits[name]:.6g} is impossible with widths {min(widths)} to {max(widths)}: "
                f"from {low:.6g} (all at {min(widths)} bits) to {high:.6g} (all at {max(widths)} bits) is feasible; "
                "raise the budget, or allow narrower widths"
            )
            raise VitqError(text, name, self.limits[name], [low, high])


@torch.no_grad()
def meters(
    model: QuantizedModel,
    shapes: Mapping[str, torch.Size],
    free: Sequence[Site],
    widths: Sequence[int],
    elements: Mapping[str, int] | None = None,
) -> dict[str, Meter]:
    """Meters by name, for the sites whose bits are free; all others keep what they have.

    shapes: of every site's tensor for one image (`shapes_of`). elements: how many there are for one image
    (`elements_of`) where layers run several times for it; there bit operations are not counted. Means weigh the
    elements of the free sites. size_mb: megabytes (10^6 bytes) of the packed checkpoint. bops: Σ multiply–accumulates ·
    bits · bits of the operands over all layers and matmuls, for one image; an operand in floating point counts 32 bits.
    """
    names = {site.name for site in free}
    sizes = {site.name: shapes[site.name].numel() for site in free} if elements is None else elements

    def mean(name: str, chosen: list[Site]) -> Meter:
        total = sum(sizes[site.name] for site in chosen)
        return Meter(name, costs={s.name: {b: sizes[s.name] * b / total for b in widths} for s in chosen})

    size = {s.name: {b: -(-shapes[s.name].numel() * b // 8) / 1e6 for b in widths} for s in free if s.is_weight}
    now = {s.name: site_width(s) for s in free if s.is_weight}
    other_bytes = quantized_bytes(model, model_bytes(model.model)) / 1e6
    other_bytes -= sum(-(-shapes[name].numel() * bits // 8) for name, bits in now.items()) / 1e6
    made = (
        mean("mean_weight_bits", [site for site in free if site.is_weight]),
        mean("mean_activation_bits", [site for site in free if not site.is_weight]),
        Meter("size_mb", other_bytes, size),
        *([] if elements is not None else [_operations(model, shapes, names, widths)]),
    )
    return {meter.name: meter for meter in made}


def _operations(
    model: QuantizedModel, shapes: Mapping[str, torch.Size], names: Collection[str], widths: Sequence[int]
) -> Meter:
    """Bit operations of one image, for the sites of these names."""
    fixed, single, pairs = 0.0, {name: dict.fromkeys(widths, 0.0) for name in names}, []
    for left, right, count in multiplications(model, shapes):
        if left.name in names and right.name in names:
            pairs.append((left.name, right.name, count))
        elif left.name in names or right.name in names:
            one, other = (left, right) if left.name in names else (right, left)
            for b in widths:
                single[one.name][b] += count * b * site_width(other)
        else:
            fixed += count * site_width(left) * site_width(right)
    return Meter("bops", fixed, single, pairs)


def site_width(site: Site) -> int:
    """Bits of a site as it stands; 32 in floating point."""
    return site.quantizer.bits if site.on and site.quantizer is not None else FP_BITS


def multiplications(model: QuantizedModel, shapes: Mapping[str, torch.Size]) -> list[tuple[Site, Site, float]]:
    """(operand, operand, multiply–accumulates for one image) of every layer and every matmul of attention."""
    owners: dict[str, list[Site]] = {}
    for site in model.sites.values():
        owners.setdefault(site.owner, []).append(site)
    products = []
    for operands in owners.values():
        if len(operands) == 1:  # in front of LayerNorm or softmax: nothing is multiplied there
            continue
        left, right = operands
        first, second = shapes[left.name], shapes[right.name]
        if left.is_weight or right.is_weight:
            weight, inputs = (left, second) if left.is_weight else (right, first)
            count = shapes[weight.name].numel() * _positions(model, weight, inputs)
        else:
            # (B, h, N, M) times (B, h, M, K), or times the transpose of (B, h, K, M).
            count = first.numel() * second[-2 if right.kind == "key" else -1]
        products.append((left, right, float(count)))
    return products


def _positions(model: QuantizedModel, weight: Site, inputs: torch.Size) -> int:
    """How often a layer's weight is applied to one image."""
    layer = model.layer(weight)
    if isinstance(layer, torch.nn.Linear):
        return inputs.numel() // layer.in_features
    with torch.no_grad():
        # Around its sites, which may be on and not fitted yet.
        out: Tensor = layer._conv_forward(torch.zeros(inputs, device=layer.weight.device), layer.weight, None)
    return out[0, 0].numel()
