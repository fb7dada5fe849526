"""What layers read and gave in the full-precision network, and the task's gradient there: for PTQ4ViT's search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitq.device import exact_attention
from vitq.quant.layers import QuantLinear
from vitq.steps.reconstruction.fisher import likelihood
from vitq.steps.reconstruction.object_curvature import Suffix, images_of
from vitq.steps.step import Workspace
from vitq.steps.stream import Stream, TensorStream
from vitq.steps.value_stream import ValueStream, leaves


class Record(ABC):
    """What one layer received and gave in the full-precision network, and g at its output, for all images."""

    transpose = False

    @abstractmethod
    def append(self, tensors: Sequence[Tensor]) -> None:
        """operands…, output, g of a batch."""

    @abstractmethod
    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """(operands…, output, g) batch by batch."""


class _OfBatches(Record):
    def __init__(self, work: Workspace, count: int) -> None:
        self._work, self._count = work, count
        self._streams: list[TensorStream] = []

    def append(self, tensors: Sequence[Tensor]) -> None:
        if not self._streams:
            self._streams = [TensorStream(self._work, self._count) for _ in tensors]
        for stream, tensor in zip(self._streams, tensors, strict=True):
            # Windows of Swin stand in front; an image's rows are kept together.
            stream.append(tensor.detach())

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(stream.batches() for stream in self._streams), strict=True)


class _OfCalls(Record):
    """Of a detector's layer: each of its calls, whose tensors have their own sizes."""

    def __init__(self, work: Workspace) -> None:
        self._calls = ValueStream(work, None)

    def append(self, tensors: Sequence[Tensor]) -> None:
        if tensors[0].numel():  # an image without objects gives the heads nothing
            self._calls.append([tuple(tensor.detach() for tensor in tensors)])

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        return self._calls.batches()


def collect(
    work: Workspace, index: int, layers: Sequence[nn.Module], inputs: Stream, generator: torch.Generator
) -> list[Record]:
    """Run the segment and what follows it in the full-precision network, forward and backward."""
    if work.teacher.comparison is not None:
        return _of_objects(work, index, layers, inputs, generator)
    behind = work.teacher.segments[index + 1 :]
    segment = work.model.structure.segments[index]
    records: list[Record] = [_OfBatches(work, len(inputs)) for _ in layers]
    for batch in inputs.batches():
        with torch.enable_grad(), exact_attention(work.device), _recorded(layers, records) as calls:
            x = segment.forward(batch.detach().requires_grad_(True))
            for following in behind:
                x = following.forward(x)
            gradients = torch.autograd.grad(likelihood(x, generator), [call.output for call in calls])
        for call, gradient in zip(calls, gradients, strict=True):
            tensors = (*call.operands, call.output, gradient)
            # (B·windows, …) → (B, windows, …) where windows were cut out.
            call.record.append([t if len(t) == len(batch) else t.unflatten(0, (len(batch), -1)) for t in tensors])
    return records


def _of_objects(
    work: Workspace, index: int, layers: Sequence[nn.Module], inputs: Stream, generator: torch.Generator
) -> list[Record]:
    """The same of a detector, image by image. Heads are run at their own boxes instead of forward."""
    segment, last = work.model.structure.segments[index], index == len(work.teacher.segments) - 1
    comparison = work.model.structure.comparison if last else work.teacher.comparison
    assert comparison is not None
    records: list[Record] = [_OfCalls(work) for _ in layers]
    for (value,) in images_of(inputs):
        boxes = comparison.fixed(value) if last else None
        with torch.enable_grad(), exact_attention(work.device), _recorded(layers, records) as calls:
            x = leaves(value)
            if not last:
                x = Suffix(work, index).last(segment.forward(x))
                boxes = comparison.fixed(x)
            drawn = comparison.likelihood(comparison.dense(x, boxes), generator)
            calls = [call for call in calls if call.output.requires_grad]  # masks of no object do not
            gradients = torch.autograd.grad(drawn, [call.output for call in calls], materialize_grads=True)
        for call, gradient in zip(calls, gradients, strict=True):
            call.record.append((*call.operands, call.output, gradient))
    return records


class _Call(NamedTuple):
    """One call of a layer: record: of the layer. operands: as its sites see them."""

    record: Record
    operands: tuple[Tensor, ...]
    output: Tensor


@contextmanager
def _recorded(layers: Sequence[nn.Module], records: Sequence[Record]) -> Iterator[list[_Call]]:
    """The list fills with all calls of the layers, in the order in which they end."""
    calls: list[_Call] = []

    def keep(
        record: Record, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, bool], out: Tensor
    ) -> Tensor:
        record.transpose = kwargs.get("transpose", False)
        balance = layer.balance if isinstance(layer, QuantLinear) else None
        # What the site sees, balanced.
        seen = tuple(a.detach() if balance is None else a.detach() * balance for a in args)
        calls.append(_Call(record, seen, out))
        return out.clone()  # a detector's ReLU writes into what it reads

    with ExitStack() as stack:
        for layer, record in zip(layers, records, strict=True):
            stack.enter_context(layer.register_forward_hook(partial(keep, record), with_kwargs=True))
        yield calls
