"""Streams between segments: the work grows with the depth, and not with its square."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from tests.tiny import part, run, tiny
from vitq.steps import Workspace

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}


@pytest.mark.parametrize("depth", [2, 5])
def test_reconstruction_evaluates_each_block_as_often_whatever_the_depth(workspace: Make, depth: int) -> None:
    work = workspace(tiny("vit", depth=depth), UNIFORM, images=16, weight=4, activation=4)
    run(work, {"do": "calibrate"})
    models: list[nn.Module] = [work.model.model, work.teacher.model]
    blocks = [f"blocks.{index}" for index in range(depth)]
    evaluated: list[str] = []
    for model in models:
        for name in blocks:
            part(model, name).register_forward_hook(lambda *_, name=name: evaluated.append(name))
    options = {"iterations": 3, "batch_size": 8, "micro_batch": 8, "compile": "off"}
    run(work, {"do": "reconstruct", **options})
    # Two batches of the full-precision network, three iterations, two batches of the quantized one.
    assert {name: evaluated.count(name) for name in blocks} == dict.fromkeys(blocks, 7)
