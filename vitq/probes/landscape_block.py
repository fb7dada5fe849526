"""I&S-ViT's landscape: one block's reconstruction loss over its post-LayerNorm scales and its weights.

Zhong et al. (arXiv 2311.10126, section 4.2) call the landscape of tensor-wise post-LayerNorm quantization "rugged and
magnified" beside that of channel-wise quantization. Their figure does not give its axes and spans; ours: one axis
multiplies the scales of the block's post-LayerNorm quantizers by 1 + x, the other adds y times a filter-normalized
random direction to the block's weights. As in the first stage of I&S-ViT the weights are in full precision, the block
reads the full-precision network's activations, and its activations are quantized; both granularities are fitted to the
same activations by the recipe's own range search, and everything else is equal.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from vitq.errors import VitqError, unknown
from vitq.models.structure import Segment
from vitq.probes.budget import PartialResults
from vitq.probes.directions import MovedParameters, filter_normalized
from vitq.probes.probed_model import Subject
from vitq.quant.model import QuantizedModel
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.calibrate import observed

GRANULARITIES = ("channel", "tensor")


class Block:
    """One block whose activations are quantized, with the inputs and the outputs that full precision gives it."""

    def __init__(self, subject: Subject, name: str | None, granularity: str, seed: int):
        segments = subject.reference.segments
        self.name = name or middle(segments)
        names = [segment.name for segment in segments]
        if self.name not in names:
            raise VitqError(unknown("block", self.name, names, key="probe.options.landscape.block"))
        index = names.index(self.name)
        self._inputs, self._targets = _through(subject, index)
        self._model = QuantizedModel(copy.deepcopy(subject.reference.model))
        self._model.equip(subject.config.method, subject.config.bits)
        self._segment = self._model.structure.segments[index]
        sites = [s for s in self._model.quantized() if not s.is_weight and self._segment.holds(s.owner)]
        self._norms = [site for site in sites if site.kind == "post_norm"]
        if not self._norms:
            raise VitqError(
                f"block {self.name} quantizes no post-LayerNorm activation in this run; "
                "probe.options.landscape.block=NAME chooses another one",
                "probe.options.landscape.block",
                self.name,
            )
        quantizers = [_uniform(site, granularity) for site in self._norms]
        for site, quantizer in zip(self._norms, quantizers, strict=True):
            site.quantizer = quantizer
        with torch.no_grad(), observed(sites):
            for batch in self._inputs:
                self._segment.forward(batch)
        self._model.switch(sites, on=True)
        self._fitted = [(q, q.scale.clone(), q.zero_point.clone()) for q in quantizers]
        weights = {f"{n}.weight": layer.weight for n, layer in self._model.layers(self._segment).items()}
        self._moved = MovedParameters(self._model.model, weights, [filter_normalized(weights, seed)])

    @torch.no_grad()
    def loss(self, scale: float, weight: float) -> float:
        """Mean squared error of the block's output at one point (I&S-ViT eq. 12, averaged over the elements)."""
        for quantizer, fitted, zero in self._fitted:
            quantizer.assign(quantizer.layout, fitted * (1 + scale), zero)
        total, count = 0.0, 0
        with self._moved as moved:
            moved.to(weight)
            for batch, target in zip(self._inputs, self._targets, strict=True):
                total += float((self._segment.forward(batch) - target).double().square().sum())
                count += target.numel()
        return total / count


def landscapes(
    subject: Subject, name: str | None, x: np.ndarray, y: np.ndarray, seed: int, partial: PartialResults
) -> tuple[str, dict[str, np.ndarray]]:
    """The block's name, and granularity → (len(y), len(x)) losses; x multiplies scales by 1 + x, y moves weights."""
    losses = {}
    for granularity in GRANULARITIES:
        values = partial.array(f"block.{granularity}", (len(y), len(x)))
        block: Block | None = None
        for j, i in np.argwhere(np.isnan(values)).tolist():
            block = block or Block(subject, name, granularity, seed)
            values[j, i] = block.loss(float(x[i]), float(y[j]))
            partial.tick(f"block, {granularity}-wise")
        losses[granularity] = values
    return name or middle(subject.model.structure.segments), losses


def middle(segments: list[Segment]) -> str:
    """Name of the segment in the middle of the chain, between stem and head."""
    return segments[len(segments) // 2].name


@torch.no_grad()
def _through(subject: Subject, index: int) -> tuple[list[Tensor], list[Tensor]]:
    inputs = [batch for batch, _ in subject.batches]
    for segment in subject.reference.segments[:index]:
        inputs = [segment.forward(batch) for batch in inputs]
    return inputs, [subject.reference.segments[index].forward(batch) for batch in inputs]


def _uniform(site: Site, granularity: str) -> UniformQuantizer:
    """A quantizer with the recipe's range search and this granularity."""
    old = site.quantizer
    if old is None:
        raise RuntimeError(f"site {site.name} has no quantizer")
    settings = old.settings if type(old) is UniformQuantizer else {}
    return UniformQuantizer(old.bits, granularity, site.axes, old.range_search, old.symmetric, **settings)
