"""Visit the layers of the model in the order they run, with what reaches each of them in two networks at once.

Streams are advanced segment by segment, and inside a segment a network runs only as far as the layer that is asked for:
L layers cost O(L) evaluations, and the memory is one activation of the calibration set for each network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitq.errors import Problem
from vitq.models.structure import Segment
from vitq.quant.layers import QuantConv2d, QuantLinear
from vitq.steps.step import Workspace
from vitq.steps.stream import ImageStream, Stream, taught, through

Layer = QuantLinear | QuantConv2d
# Weight and bias of layers by name.
Parameters = dict[str, tuple[Tensor, nn.Parameter | None]]


class NetworkWalk:
    """One network, segment by segment: the inputs of its current segment, and how that is evaluated.

    This one is the model as it stands: sites that are on quantize.
    """

    def __init__(self, work: Workspace, segments: Sequence[Segment], model: nn.Module, images: int | None = None):
        self._work, self._segments, self._model = work, segments, model
        self.inputs: Stream = ImageStream(work, images)
        self._index = 0
        # How often each layer of the current segment runs for a batch; one that is not listed runs once.
        self.calls: dict[str, int] = {}

    @property
    def segment(self) -> Segment:
        """The segment whose inputs wait."""
        return self._segments[self._index]

    def module(self, name: str) -> nn.Module:
        return self._model.get_submodule(name)

    def enter(self, index: int) -> None:
        self._index = index

    def evaluated(self) -> AbstractContextManager[object]:
        """Around each evaluation."""
        return nullcontext()

    @torch.no_grad()
    def arriving(self, name: str) -> Iterator[Tensor]:
        """What enters a module of the current segment, for all images, batch by batch: a layer by its name, or the
        operand of its weight, before it is quantized, by the name of its `input_site`. Of a layer that runs several
        times for a batch (a detector's, for the levels of the pyramid) each time.
        """
        calls = self.calls.get(name.removesuffix(".input_site"), 1)
        for batch in self.inputs.batches():
            with self.evaluated():
                arrived = reach(self.segment.forward, self.module(name), batch, calls)
            yield from arrived

    def advance(self) -> None:
        """The outputs of the current segment become the inputs of the next one."""
        with self.evaluated():
            self.inputs = through(self.segment.forward, self.inputs, self._work)


class _Teacher(NetworkWalk):
    """The untouched model, on its own activations as long as nobody gives it others."""

    def __init__(self, work: Workspace, segments: Sequence[Segment], model: nn.Module):
        super().__init__(work, segments, model)
        self._own: Stream = self.inputs

    def advance(self) -> None:
        if self.inputs is not self._own:
            super().advance()
            return
        self.inputs = self._own = taught(self._work, self._index, self.inputs)


class Unquantized(NetworkWalk):
    """The model with all sites off and, in the current segment, the parameters that its layers had on entering it.

    So a step that replaces weights (it must assign new tensors, not write into the old ones) sees beside the quantized
    network the one that it started from, in the same coordinates: whatever was folded before is folded in both.
    """

    def __init__(self, work: Workspace):
        super().__init__(work, work.model.structure.segments, work.model.model)
        self._kept: Parameters = {}

    def enter(self, index: int) -> None:
        super().enter(index)
        self._kept = self._now(self._work.model.layers(self.segment))

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Sites off, old parameters in."""
        present = self._now(self._kept)
        with self._work.model.switched_off():
            self._put(self._kept)
            try:
                yield
            finally:
                self._put(present)

    def _now(self, names: Iterable[str]) -> Parameters:
        named = ((name, self._work.model.layer(name)) for name in names)
        return {name: (layer.weight.data, cast(nn.Parameter | None, layer.bias)) for name, layer in named}

    def _put(self, parameters: Parameters) -> None:
        for name, (weight, bias) in parameters.items():
            layer = self._work.model.layer(name)
            layer.weight.data = weight
            layer.bias = bias


def quantized_walk(work: Workspace, images: int | None = None) -> NetworkWalk:
    """The model as it stands, on the first so many calibration images; None: on all."""
    return NetworkWalk(work, work.model.structure.segments, work.model.model, images)


def teacher_walk(work: Workspace) -> NetworkWalk:
    """The untouched full-precision model. For steps with `needs_teacher`."""
    return _Teacher(work, work.teacher.segments, work.teacher.model)


def layers(work: Workspace, walks: Sequence[NetworkWalk], title: str) -> Iterator[tuple[str, Layer]]:
    """Every linear and convolution layer (name, layer) of the model, in the order they run.

    While one is visited, the walks' `arriving` gives its inputs; what the visitor changes is seen by all later layers.
    walks: the first one is the model that is changed.
    """
    segments = work.model.structure.segments
    for index, _ in enumerate(work.progress.over(segments, title, len(segments))):
        for walk in walks:
            walk.enter(index)
        calls = _order(work, walks[0])
        for walk in walks:
            walk.calls = calls
        for name in calls:
            yield name, work.model.layer(name)
        for walk in walks:
            walk.advance()


class ReachedError(Exception):
    """Ends an evaluation at the layer that was asked for."""


def reach(forward: Callable[[Any], Any], layer: nn.Module, batch: Any, calls: int = 1) -> list[Tensor]:
    """The inputs of `layer` when `forward` runs on the batch, one for each call. What comes after is not computed.

    Raises RuntimeError where `forward` runs the layer less often.
    """
    inputs_of_layer: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs_of_layer.append(inputs[0])
        if len(inputs_of_layer) == calls:
            raise ReachedError

    with layer.register_forward_pre_hook(stop):
        try:
            forward(batch)
        except ReachedError:
            return inputs_of_layer
    raise RuntimeError(Problem("the segment does not run the layer whose input is asked for", "layer"))


@torch.no_grad()
def _order(work: Workspace, walk: NetworkWalk) -> dict[str, int]:
    """Names of the current segment's layers in the order they run first, and how often they run, seen on one image."""
    seen: list[str] = []
    with ExitStack() as stack:
        for name in filter(walk.segment.holds, work.model.structure.inputs):
            hook = walk.module(name).register_forward_pre_hook(lambda _m, _x, name=name: seen.append(name))
            stack.enter_context(hook)
        walk.segment.forward(walk.inputs.select(torch.zeros(1, dtype=torch.int64)))
    return dict(Counter(seen))
