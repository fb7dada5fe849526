"""Each calibration image's best factor of every scale, and the features that it is predicted from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitq.quant.predictor import Predictor
from vitq.quant.site import Site, watching
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.step import Workspace

# Factors that an image's best one is searched among, beside 1: evenly spaced in the logarithm over the clamp.
_TRIED = 24


class _BestFactors:
    """Observes sites and finds each image's factor of least squared error, among candidates."""

    def __init__(self, candidates: Tensor, images: int):
        self.candidates, self.images = candidates, images
        self.factors: dict[str, Tensor] = {}

    def observe(self, site: Site, x: Tensor) -> None:
        uniform = site.quantizer
        assert isinstance(uniform, UniformQuantizer)
        layout = uniform.layout
        wide = layout.expand(x).float()
        scale, zero = uniform.views()
        errors = []
        for factor in self.candidates.tolist():
            s = scale * factor
            rounded = (wide * s.reciprocal()).round_().add_(zero).clamp_(0, uniform.codes - 1).sub_(zero).mul_(s)
            # Windows of one image lie side by side, so that an image is a run of rows.
            errors.append(rounded.sub_(wide).square_().reshape(self.images, -1).sum(dim=1))
        self.factors[site.name] = self.candidates[torch.stack(errors).argmin(dim=0)]


@torch.no_grad()
def features_of(work: Workspace, predictor: Predictor, tap: nn.Module, images: int | None) -> Tensor:
    """(images, F) features of the first so many calibration images (None: all), of the network as it stands."""
    seen: list[Tensor] = []
    with tap.register_forward_hook(lambda _module, _inputs, output: seen.append(predictor.features(output))):
        for batch in _batches(work, images):
            work.model(batch)
    return torch.cat(seen)


def _batches(work: Workspace, images: int | None) -> Iterator[Any]:
    """Batches of calibration images; of a detector one image is a batch."""
    for batch in work.batches(images):
        if work.model.structure.comparison is None:
            yield batch
        else:
            yield from (batch[index : index + 1] for index in range(len(batch)))


@torch.no_grad()
def search(
    work: Workspace,
    predictor: Predictor,
    tap: nn.Module,
    sites: list[tuple[Site, UniformQuantizer]],
    clamp: tuple[float, float],
    count: int | None,
) -> tuple[Tensor, Tensor]:
    """(images, F) features and (images, Q) best factors, of the network as it stands, for the first `count` calibration
    images (None: all). clamp: least and largest factor."""
    low, high = (math.log(c) for c in clamp)
    candidates = torch.cat([torch.linspace(low, high, _TRIED).exp(), torch.ones(1)]).unique().to(work.device)
    seen: list[Tensor] = []
    features, best = [], []
    images = count or len(work.calib)
    work.progress.stage("predict_scales", images)
    with tap.register_forward_hook(lambda _module, _inputs, output: seen.append(predictor.features(output))):
        for batch in _batches(work, images):
            observer = _BestFactors(candidates, len(batch))
            with watching((site for site, _ in sites), observer):
                work.model(batch)
            features.append(seen.pop())
            best.append(torch.stack([observer.factors[site.name] for site, _ in sites], dim=1))
            work.progress.advance(len(batch))
    return torch.cat(features), torch.cat(best)
