"""What waits between two segments of the model: one activation of every calibration image.

A segment's outputs become the next one's inputs, so the work is one evaluation of each segment and the memory one
activation of the whole set, whatever the depth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from vitq.config import canonical
from vitq.steps.step import Workspace
from vitq.steps.storage import room
from vitq.steps.value_stream import ValueStream


class Stream(Protocol):
    """Inputs of one segment, for all calibration images in their order."""

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[Any]:
        """All of them, in batches of `calib.batch_size`, on the compute device."""

    def select(self, indices: Tensor) -> Any:
        """Those at some positions, int64 (B,), on the compute device."""


class ImageStream:
    """The inputs of the first segment: normalized images, read from the memory map when they are asked for."""

    def __init__(self, work: Workspace, images: int | None = None):
        self._work = work
        self._count = len(work.calib) if images is None else min(images, len(work.calib))

    def __len__(self) -> int:
        return self._count

    def batches(self) -> Iterator[Tensor]:
        return self._work.batches(self._count)

    def select(self, indices: Tensor) -> Any:
        chosen = self._work.calib.take(indices.tolist())
        return next(iter(chosen.batches(len(chosen), self._work.device)))[0]


class TensorStream:
    """The inputs of a later segment, (N, …) float32, kept where `calib.cache` says: device, host or disk."""

    def __init__(self, work: Workspace, count: int):
        self._work, self._count = work, count
        self._values: Tensor | None = None
        self._filled = 0

    def __len__(self) -> int:
        return self._count

    @classmethod
    def of(cls, work: Workspace, values: Tensor) -> TensorStream:
        """A stream of values that are there already, and are only read."""
        stream = cls(work, len(values))
        stream._values, stream._filled = values, len(values)
        return stream

    def append(self, batch: Tensor) -> None:
        if self._values is None:
            self._values = room(self._work, (self._count, *batch.shape[1:]))
        self._values[self._filled : self._filled + len(batch)] = batch
        self._filled += len(batch)

    def batches(self) -> Iterator[Tensor]:
        for batch in self._tensor().split(self._work.config.calib.batch_size):
            yield batch.to(self._work.device)

    def elements(self) -> int:
        return self._tensor().numel()

    def scale(self, factor: float) -> None:
        self._tensor().mul_(factor)

    def select(self, indices: Tensor) -> Tensor:
        values = self._tensor()
        return values[indices.to(values.device)].to(self._work.device)

    def _tensor(self) -> Tensor:
        if self._values is None or self._filled != self._count:
            raise RuntimeError(f"{self._filled} of {self._count} calibration images arrived between two segments")
        return self._values


@torch.no_grad()
def through(forward: Callable[[Any], Any], inputs: Stream, work: Workspace) -> Stream:
    """The outputs of `forward` for all inputs."""
    outputs: TensorStream | ValueStream = TensorStream(work, len(inputs))
    for number, batch in enumerate(inputs.batches()):
        value = forward(batch)
        if number == 0 and not isinstance(value, Tensor):
            outputs = ValueStream(work, len(inputs))
        outputs.append(value)
    return outputs


def taught(work: Workspace, index: int, inputs: Stream) -> Stream:
    """The outputs of segment `index` of the untouched full-precision model, for all calibration images.

    inputs: those of that segment in the same model. What an earlier step or run of this process computed is read.
    """
    forward = work.teacher.segments[index].forward
    if work.memory is None or work.config.calib.cache == "disk":
        return through(forward, inputs, work)
    group = _teacher(work)
    kept = work.memory.tensor(group, index)
    if kept is not None:
        return TensorStream.of(work, kept)
    outputs = through(forward, inputs, work)
    if isinstance(outputs, TensorStream):
        work.memory.put(group, index, outputs._tensor())
    return outputs


def _teacher(work: Workspace) -> Hashable:
    """Everything that the bits of the full-precision network's activations depend on."""
    config, calib = work.config, work.calib
    model = json.dumps(canonical(config)["model"], sort_keys=True)
    images = calib.fingerprint, len(calib), calib.mean, calib.std, config.calib.batch_size
    return "teacher", model, config.data.num_classes, images, str(work.device), config.calib.cache, work.coordinates
