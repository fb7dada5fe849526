"""How much waits between two segments while a run calibrates and learns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vitq.config import RunConfig
from vitq.engine.network_checks import network_of
from vitq.quant.site_table import blank
from vitq.steps.step import enabled_steps


@torch.no_grad()
def stream_bytes(config: RunConfig) -> int:
    """Most bytes that steps keep at once of all calibration images, each as large as `model.input_size`.

    A segment's inputs and outputs wait together, twice where a step compares with the full-precision network. Of the
    network shapes alone are asked (`meta` device).
    """
    network = network_of(config).model
    value: Any = blank(config, torch.device("meta"))
    sizes = [0]  # images are read from their own cache
    for segment in network.structure.segments:
        value = segment.forward(value)
        sizes.append(sum(4 * tensor.numel() for tensor in _floating(value)))
    networks = 2 if any(step.needs_teacher for step in enabled_steps(config)) else 1
    return networks * config.calib.size * max(before + behind for before, behind in pairwise(sizes))


def _floating(value: Any) -> Iterator[Tensor]:
    """The tensors of floating-point numbers in a segment's value."""
    if isinstance(value, Tensor):
        yield from (value,) if value.is_floating_point() else ()
    else:
        for part in value:
            yield from _floating(part)
