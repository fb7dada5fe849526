"""How much waits between two segments while a run calibrates and learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.engine.network_checks import network_of
from vitq.models.structure import Structure
from vitq.quant.site_table import blank
from vitq.steps.step import enabled_steps
from vitq.steps.value_stream import made
from vitq.steps.waiting import Waiting


def stream_bytes(config: RunConfig) -> int:
    """Most bytes that a step keeps at once of all calibration images, each as large as `model.input_size`.

    Of the network shapes alone are asked (`meta` device).
    """
    network = network_of(config)
    waiting = _waiting(network.model.structure, blank(config, torch.device("meta")), config.calib.size)
    return max((step.waiting(network, waiting) for step in enabled_steps(config)), default=0)


@torch.no_grad()
def _waiting(structure: Structure, image: Tensor, images: int) -> Waiting:
    read, given = Counter[str](), Counter[str]()
    sizes: list[tuple[int, int, int]] = []
    value: Any = image
    last, comparison = len(structure.segments) - 1, structure.comparison

    def count(name: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        read[name] += _bytes(args)
        given[name] += _bytes(output)

    for index, segment in enumerate(structure.segments):
        fixed = comparison if index == last else None
        boxes = None if fixed is None else fixed.fixed(value)
        with ExitStack() as stack:
            for name, module in structure.model.named_modules():
                if segment.holds(name):
                    stack.enter_context(module.register_forward_hook(partial(count, name)))
            if fixed is not None:
                fixed.dense(value, boxes)
            else:
                before, value = value, segment.forward(value)
        if fixed is not None:
            before, value = value, segment.forward(value)
        own = made(before, value) if isinstance(value, tuple) and isinstance(before, tuple) else value
        sizes.append((_bytes(before) if index else 0, _bytes(value), _bytes(own)))
    inputs, outputs, own_bytes = zip(*sizes, strict=True)
    return Waiting(images, inputs, outputs, own_bytes, read, given)


def _bytes(value: Any) -> int:
    return sum(4 * tensor.numel() for tensor in _floating(value))


def _floating(value: Any) -> Iterator[Tensor]:
    """The tensors of floating-point numbers in what a module reads or gives."""
    if isinstance(value, Tensor):
        yield from (value,) if value.is_floating_point() else ()
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _floating(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _floating(part)
