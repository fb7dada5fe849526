"""Derivatives of a detector's divergence at a segment's outputs, against differences in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.job.test_detectors import Detectors
from vitq.models.structure import structure_of
from vitq.steps import Workspace
from vitq.steps.reconstruction import object_curvature as objects
from vitq.steps.reconstruction.curvature import signs_of
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.stream import ImageStream, Stream, through
from vitq.steps.value_stream import made

CALIBRATED: dict[str, Any] = {
    "name": "calibrated",
    "kinds": {"default": {"quantizer": "uniform"}, "weight": {"quantizer": "uniform", "granularity": "channel"}},
    # The second step is there for the teacher that it needs.
    "steps": {"ranges": {"do": "calibrate"}, "bias": {"do": "bias_correction"}},
}
PYRAMID = 12


def one_segment(folder: Path, index: int) -> tuple[Workspace, SegmentTask]:
    """A calibrated detector whose segment `index` alone quantizes, and the task of learning it."""
    detectors = Detectors(folder)
    work = detectors.workspace(detectors.config(CALIBRATED, bits={"weight": 3, "activation": 3}))
    segment = work.model.structure.segments[index]
    sites = [site for site in work.model.quantized() if segment.holds(site.owner)]
    exact: Stream = ImageStream(work)
    noisy: Stream = ImageStream(work)
    for before, own in zip(work.teacher.segments[:index], work.model.structure.segments[:index], strict=True):
        exact, noisy = through(before.forward, exact, work), through(own.forward, noisy, work)
    target = through(work.teacher.segments[index].forward, exact, work)
    work.model.switch(work.model.sites.values(), on=False)
    work.model.switch(sites, on=True)
    work.teacher.model.requires_grad_(False)
    return work, SegmentTask(index, segment, sites, exact, noisy, target)


class Double:
    """The full-precision network in float64, of one image: the divergence as a function of a segment's output."""

    def __init__(self, work: Workspace, task: SegmentTask, image: int):
        self._structure = structure_of(copy.deepcopy(work.teacher.model).double())
        self._index = task.index
        at = torch.tensor([image])
        given, target = task.exact.select(at), task.target.select(at)
        own = made(given, work.teacher.segments[task.index].forward(given))
        value = work.teacher.segments[task.index].forward(given)
        self.places = [i for i, t in enumerate(value) if any(t.shape == o.shape and torch.equal(t, o) for o in own)]
        self.target = [t.double() if t.is_floating_point() else t for t in target]
        self.z = [self.target[i] for i in self.places]
        comparison = self._structure.comparison
        assert comparison is not None
        self._comparison = comparison
        with torch.no_grad():
            last = self._last(self.target)
            self._boxes = comparison.fixed(last)
            self._exact = comparison.dense(last, self._boxes)

    def _last(self, value: Any) -> Any:
        for segment in self._structure.segments[self._index + 1 : -1]:
            value = segment.forward(tuple(value))
        return tuple(value)

    def divergence(self, z: list[Tensor], temperature: float) -> Tensor:
        value = list(self.target)
        for place, tensor in zip(self.places, z, strict=True):
            value[place] = tensor
        found: Tensor = self._comparison.divergence(
            self._exact, self._comparison.dense(self._last(value), self._boxes), temperature
        )
        return found

    def gradient(self, z: list[Tensor], temperature: float) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_(True) for tensor in z]
        return list(torch.autograd.grad(self.divergence(leaves, temperature), leaves))


@pytest.mark.parametrize("index", [2, PYRAMID])
def test_gradients_are_those_of_the_divergence_at_the_quantized_output(tmp_path: Path, index: int) -> None:
    work, task = one_segment(tmp_path, index)
    for image, found in enumerate(objects.moments(work, task, 4.0)):
        double = Double(work, task, image)
        assert len(found) == len(double.z) == (5 if index == PYRAMID else 1)
        moved = [z + error.double() for z, (error, _) in zip(double.z, found, strict=True)]
        assert all(bool(error.any()) for error, _ in found)
        for own, (_, slope) in zip(double.gradient(moved, 4.0), found, strict=True):
            assert float(cosine_similarity(own.flatten(), slope.double().flatten(), dim=0)) > 0.999
            assert float(slope.norm()) == pytest.approx(float(own.norm()), rel=1e-2)


@pytest.mark.parametrize("index", [2, PYRAMID])
def test_products_are_differences_of_gradients(tmp_path: Path, index: int) -> None:
    """H·v of the Hessian at the full-precision output, where D·J·v is what is left of it."""
    work, task = one_segment(tmp_path, index)
    generator = torch.Generator().manual_seed(work.config.seed * 1_000_003 + index)
    found = list(objects.products(work, index, task.exact, task.target, 1.0))
    assert len(found) == len(task.target) == 2
    for image, product in enumerate(found):
        double = Double(work, task, image)
        v = [signs_of(z, generator).double() for z in double.z]
        step = 1e-4
        plus, minus = (
            double.gradient([z + sign * step * w for z, w in zip(double.z, v, strict=True)], 1.0) for sign in (1, -1)
        )
        wanted = torch.cat([((a - b) / (2 * step)).flatten() for a, b in zip(plus, minus, strict=True)])
        given = torch.cat([part.flatten() for part in product]).double()
        assert float(cosine_similarity(wanted, given, dim=0)) > 0.97
        assert float(given.norm()) == pytest.approx(float(wanted.norm()), rel=0.1)


def test_importance_is_each_image_s_own_and_one_in_the_mean(tmp_path: Path) -> None:
    work, task = one_segment(tmp_path, PYRAMID)
    weights = objects.importance(work, PYRAMID, task.exact, task.target, 1.0, "signs")
    images = list(weights.batches())
    assert [len(image) for image in images] == [5, 5]
    total = sum(float(part.double().sum()) for image in images for part in image)
    assert total / weights.elements() == pytest.approx(1, rel=1e-5)
    assert all(bool((part >= 0).all()) for image in images for part in image)


def test_what_is_handed_on_comes_from_full_precision(tmp_path: Path) -> None:
    """The end of a stage travels on; a segment that only hands it on cannot mend it."""
    _, task = one_segment(tmp_path, 4)
    at = torch.tensor([0])
    given, target = task.noisy.select(at), task.target.select(at)
    output = task.segment.forward(given)
    assert not torch.equal(output[-1], target[-1])
    value = objects.onto(given, output, target)
    assert value[-1] is target[-1]
    assert value[0] is output[0]
    assert [pair[1] is target[0] for pair in objects.pairs(value, target)] == [True]
