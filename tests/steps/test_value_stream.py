"""Streams of single images, whose sizes may differ, are the rectangular ones where all sizes are equal: bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import run, tiny
from vitq.steps import Workspace
from vitq.steps.reconstruction.reconstruct import Reconstruct, learn_segment
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import parse_step
from vitq.steps.stream import ImageStream, Stream, TensorStream, through
from vitq.steps.value_stream import ValueStream

Make = Callable[..., Workspace]
KINDS = {"default": {"quantizer": "uniform"}, "weight": {"quantizer": "uniform", "granularity": "channel"}}
CALIBRATE = {"do": "calibrate"}


@pytest.fixture
def work(workspace: Make) -> Workspace:
    """Images go through one at a time, as a detector's do."""
    made = workspace(tiny("vit"), {"kinds": KINDS, "steps": {}}, images=6, weight=4, activation=4)
    calib = dataclasses.replace(made.config.calib, batch_size=1)
    made.config = dataclasses.replace(made.config, calib=calib)
    return made


def alone(forward: Callable[[Any], Tensor]) -> Callable[[Any], tuple[Tensor]]:
    """The segment for images of their own sizes: it reads and gives tuples."""
    return lambda value: (forward(value[0] if isinstance(value, tuple) else value),)


@pytest.mark.parametrize("cache", ["host", "disk"])
def test_what_waits_is_the_same(work: Workspace, cache: Any) -> None:
    work.config = dataclasses.replace(work.config, calib=dataclasses.replace(work.config.calib, cache=cache))
    whole: Stream = ImageStream(work)
    single: Stream = whole
    with work.model.switched_off():
        for segment in work.model.structure.segments[:-1]:
            whole, single = through(segment.forward, whole, work), through(alone(segment.forward), single, work)
            assert isinstance(whole, TensorStream)
            assert isinstance(single, ValueStream)
            pairs = zip(whole.batches(), single.batches(), strict=True)
            assert all(torch.equal(tensor, value[0]) for tensor, value in pairs)
            chosen = torch.tensor([4, 0, 5])
            assert torch.equal(whole.select(chosen), single.select(chosen)[0])
            assert whole.elements() == single.elements()
    assert isinstance(whole, TensorStream)
    assert isinstance(single, ValueStream)
    whole.scale(0.3)
    single.scale(0.3)
    assert torch.equal(whole.select(torch.arange(6)), single.select(torch.arange(6))[0])


@pytest.mark.parametrize("source", ["fp", "quantized", "qdrop"])
def test_the_same_is_learned_from_both(workspace: Make, source: str) -> None:
    """One image an iteration, so that no sum over images is rounded in another order."""
    learned = []
    for ragged in (False, True):
        work = workspace(tiny("vit"), {"kinds": KINDS, "steps": {}}, images=6, weight=4, activation=4)
        calib = dataclasses.replace(work.config.calib, batch_size=1)
        work.config = dataclasses.replace(work.config, calib=calib)
        run(work, CALIBRATE)
        raw = {"do": "reconstruct", "iterations": 4, "batch_size": 1, "lr": 1e-3, "input": source}
        step, wrong = parse_step("learn", raw)
        assert isinstance(step, Reconstruct), wrong
        segment = work.model.structure.segments[1]
        exact = through(work.model.structure.segments[0].forward, ImageStream(work), work)
        work.model.switch(work.model.sites.values(), on=False)
        before = through(work.model.structure.segments[0].forward, ImageStream(work), work)
        target = through(segment.forward, before, work)
        if ragged:
            exact, before, target = (_single(work, stream) for stream in (exact, before, target))
            segment = dataclasses.replace(segment, forward=alone(segment.forward))
        here = [site for site in work.model.quantized() if segment.holds(site.owner)]
        work.model.switch(here, on=True)
        noisy = before if source == "fp" else exact
        curve = learn_segment(step, work, SegmentTask(1, segment, here, before, noisy, target, None))
        learned.append((curve, work.model.model.state_dict()))
    (one, first), (other, second) = learned
    assert len(one) == 4
    assert torch.equal(one, other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def _single(work: Workspace, stream: Stream) -> ValueStream:
    """The same, image by image."""
    made = ValueStream(work, len(stream))
    for tensor in stream.batches():
        made.append((tensor,))
    return made
