"""Hessian: eigenvalues and traces of the loss's second derivative by the weights, per block and for the whole model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.models.structure import Segment
from vitq.probes.budget import PartialResults
from vitq.probes.curvature import LossHessian, mean_and_error, no_gradients, rademacher, top_eigenvalues
from vitq.probes.directions import MovedParameters
from vitq.probes.landscape import dequantized
from vitq.probes.probe import Probe, register_probe
from vitq.probes.probed_model import Subject, spread, switched
from vitq.quant.model import QuantizedModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A product costs a backward pass through a graph that is a forward and a backward pass long; measured: about 6.
_PASSES = 6
# Products that ARPACK typically asks for until a few eigenvalues stand to 1 %.
_PRODUCTS = 25
WHOLE = "model"
# Of the layers of each block.
Weights = dict[str, list[nn.Parameter]]
# Inputs and labels.
Batches = list[tuple[Tensor, Tensor]]


@register_probe("hessian")
class Hessian(Probe):
    """Of the mean cross-entropy by the weights of the linear and convolution layers, in the segments of the model.

    at: `quantized`, at the run's quantized weights, in the run's own (folded) coordinates; `fp`, at the untouched
        full-precision weights. Activations stay in floating point in both: rounding has no second derivative.
    images: how many of the probe images. batch_size: of them at a time; where all fit into one, the graph is kept.
    Trace (Hutchinson): E[vᵀHv] over random signs v on all weights at once; the part vᵦᵀ(Hv)ᵦ of a block is an unbiased
        estimate of its own trace, so one product serves all blocks. Sampling stops when every standard error is at most
        `tolerance` of its mean, not before min_samples, at max_samples at the latest.
    Eigenvalues (Lanczos): the `top` ones of largest magnitude, to the relative tolerance eigen_tolerance, for each
        block by itself (`eigen` = blocks), for the model too (all), or none. A budget ends between two of these.

    Arrays, B blocks: `block`, `parameters`, `trace`, `trace_se` (B,), `eigenvalues` (B, top), and of the whole model
    `model.trace`, `model.trace_se`, `model.eigenvalues`, `model.parameters`; `samples` (N, B + 1), the last column the
    whole model; `products`: Hessian-vector products of the eigenvalues, (B + 1,).
    """

    at: Literal["quantized", "fp"] = "quantized"
    images: int = 16
    batch_size: int = 16
    tolerance: float = 0.1
    min_samples: int = 8
    max_samples: int = 64
    eigen: Literal["none", "blocks", "all"] = "all"
    top: int = 3
    eigen_tolerance: float = 0.01
    seed: int = 0

    def check(self, config: RunConfig) -> list[Problem]:
        problems = [
            bad(name, getattr(self, name), f"at least {least} is needed")
            for name, least in (("images", 1), ("batch_size", 1), ("min_samples", 2), ("top", 1))
            if getattr(self, name) < least
        ]
        if self.max_samples < self.min_samples:
            text = f"max_samples={self.max_samples} is below min_samples={self.min_samples}"
            problems.append(Problem(text, "max_samples", self.max_samples))
        problems += [
            Problem(f"{name}={getattr(self, name):g}; a share above 0 is needed", name, getattr(self, name))
            for name in ("tolerance", "eigen_tolerance")
            if getattr(self, name) <= 0
        ]
        return problems

    def passes(self, config: RunConfig) -> float:
        blocks = {"none": 0.0, "blocks": 7.0, "all": 8.0}[self.eigen]  # 14 segments, half the model on average
        share = min(1.0, self.images / config.probe.images)
        return share * _PASSES * (self.max_samples + _PRODUCTS * blocks)

    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        images = subject.images.take(spread(len(subject.images), self.images))
        batches = list(images.batches(self.batch_size, subject.device))
        with self._network(subject) as (model, segments), no_gradients(model.model):
            weights = {segment.name: weights_of(model, segment) for segment in segments}
            weights = {name: parameters for name, parameters in weights.items() if parameters}
            samples = self._samples(segments, weights, batches, partial)
            eigen = self._eigenvalues(segments, weights, batches, partial)
        mean, error = mean_and_error(samples)
        sizes = np.array([sum(weight.numel() for weight in parameters) for parameters in weights.values()])
        return {
            "block": np.array(list(weights)),
            "parameters": sizes,
            "trace": mean[:-1],
            "trace_se": error[:-1],
            "samples": samples,
            "eigenvalues": eigen[:-1, :-1],
            "products": eigen[:, -1],
            f"{WHOLE}.parameters": sizes.sum(),
            f"{WHOLE}.trace": mean[-1],
            f"{WHOLE}.trace_se": error[-1],
            f"{WHOLE}.eigenvalues": eigen[-1, :-1],
        }

    @contextmanager
    def _network(self, subject: Subject) -> Iterator[tuple[QuantizedModel, list[Segment]]]:
        """The model at the point that is looked at, with all sites off."""
        if self.at == "fp":
            # The engine's attention instead of timm's: fused kernels have no second derivative.
            plain = QuantizedModel(copy.deepcopy(subject.reference.model or nn.Identity()))
            yield plain, plain.structure.segments
            return
        with (
            MovedParameters(subject.model.model, dequantized(subject), ()),
            switched(subject.model, weights=False, activations=False),
        ):
            yield subject.model, subject.model.structure.segments

    def _samples(
        self, segments: list[Segment], weights: Weights, batches: Batches, partial: PartialResults
    ) -> np.ndarray:
        """(N, B + 1): vᵀHv of each block and of the model, one row for each v."""
        kept = partial.array("samples", (self.max_samples, len(weights) + 1))
        flat = [weight for parameters in weights.values() for weight in parameters]
        with LossHessian(segments, flat, batches) as hessian:
            for index in range(self.max_samples):
                if self._settled(kept[:index]):
                    return kept[:index].copy()
                if np.isnan(kept[index]).any():
                    vector = rademacher(flat, self.seed * 1_000_003 + index)
                    forms = [float((v * p).sum()) for v, p in zip(vector, hessian.product(vector), strict=True)]
                    sizes = np.cumsum([0, *(len(parameters) for parameters in weights.values())])
                    parts = [sum(forms[a:b]) for a, b in pairwise(sizes)]
                    kept[index] = [*parts, sum(parts)]
                    partial.tick("trace")
        return kept.copy()

    def _settled(self, samples: np.ndarray) -> bool:
        if len(samples) < self.min_samples:
            return False
        mean, error = mean_and_error(samples)
        return bool((error <= self.tolerance * np.abs(mean)).all())

    def _eigenvalues(
        self, segments: list[Segment], weights: Weights, batches: Batches, partial: PartialResults
    ) -> np.ndarray:
        """(B + 1, top + 1): eigenvalues of each block and of the model, and the number of products."""
        kept = partial.array("eigenvalues", (len(weights) + 1, self.top + 1))
        flat = [weight for parameters in weights.values() for weight in parameters]
        asked = [*weights.items(), (WHOLE, flat)]
        names = [segment.name for segment in segments]
        for row, (name, parameters) in enumerate(asked):
            wanted = self.eigen == "all" or (self.eigen == "blocks" and name != WHOLE)
            if not wanted or not np.isnan(kept[row, -1]):
                continue
            first = names.index(name) if name != WHOLE else 0
            with LossHessian(segments[first:], parameters, _arriving(segments[:first], batches)) as hessian:
                count = min(self.top, hessian.size - 1)
                values, products = top_eigenvalues(hessian, count, self.eigen_tolerance, self.seed)
            kept[row, : len(values)], kept[row, -1] = values, products
            partial.tick(f"eigenvalues, {name}")
        return kept.copy()

    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        from vitq.plots.hessian import draw

        return draw(arrays, title)


def weights_of(model: QuantizedModel, segment: Segment) -> list[nn.Parameter]:
    """Weights of the layers of one segment, in the order of the model."""
    return [model.model.get_parameter(f"{name}.weight") for name in model.layers(segment)]


@torch.no_grad()
def _arriving(segments: list[Segment], batches: Batches) -> Batches:
    out = []
    for batch, labels in batches:
        for segment in segments:
            batch = segment.forward(batch)
        out.append((batch, labels))
    return out
