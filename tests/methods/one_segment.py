"""One segment of a tiny quantized network, and the full-precision network behind it in float64: for tests of losses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.tiny import images, run, tiny
from vitq.models.structure import Segment, structure_of
from vitq.steps import Workspace
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.stream import TensorStream

Make = Callable[..., Workspace]
METHOD = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}


@torch.no_grad()
def made(workspace: Make, index: int, family: str = "vit", count: int = 6) -> tuple[Workspace, SegmentTask]:
    """A calibrated network whose segment `index` alone quantizes, and the task of learning it."""
    work = workspace(tiny(family), METHOD, images=count, weight=3, activation=3)
    run(work, {"do": "calibrate"})
    work.model.switch(work.model.sites.values(), on=True)
    exact = noisy = images(work)
    for segment, own in zip(work.teacher.segments[:index], work.model.structure.segments[:index], strict=True):
        exact, noisy = segment.forward(exact), own.forward(noisy)
    target = work.teacher.segments[index].forward(exact)
    segment = work.model.structure.segments[index]
    sites = [site for site in work.model.quantized() if segment.holds(site.owner)]
    work.model.switch(work.model.sites.values(), on=False)
    work.model.switch(sites, on=True)
    streams = [TensorStream.of(work, x) for x in (exact, noisy, target)]
    return work, SegmentTask(index, segment, sites, *streams)


def values(stream: object) -> Tensor:
    """All that a stream holds."""
    assert isinstance(stream, TensorStream)
    return torch.cat(list(stream.batches()))


def double(work: Workspace) -> list[Segment]:
    """The segments of the full-precision network in float64."""
    return structure_of(copy.deepcopy(work.teacher.model).double()).segments


def logits(segments: list[Segment], index: int, z: Tensor) -> Tensor:
    """What float64 segments behind one give for its outputs."""
    with sdpa_kernel(SDPBackend.MATH):
        for segment in segments[index + 1 :]:
            z = segment.forward(z)
    return z


def kl(wanted: Tensor, given: Tensor, temperature: float) -> Tensor:
    """Σ over images of KL between softmaxes, by its definition."""
    p, q = (wanted / temperature).softmax(-1), (given / temperature).softmax(-1)
    return (p * (p.log() - q.log())).sum()


def slopes(work: Workspace, task: SegmentTask, output: Tensor, temperature: float) -> Tensor:
    """∂KL/∂ẑ of each image in float64, for outputs ẑ (B, …)."""
    segments = double(work)
    with torch.no_grad():
        wanted = logits(segments, task.index, values(task.target).double())
    z = output.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(kl(wanted, logits(segments, task.index, z), temperature), z)
    return gradient
