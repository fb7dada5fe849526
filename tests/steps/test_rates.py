"""Learning rates of reconstruction: each part's own, and how they rise and fall."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from tests.tiny import part, run, tiny
from vitq.steps import Workspace
from vitq.steps.reconstruction.schedule import rate

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}


def test_the_rate_rises_along_a_line_and_falls_along_a_cosine() -> None:
    """Ten of a hundred iterations of warmup, then half a cosine over the ninety that are left."""
    rising = [(i + 1) / 11 for i in range(10)]
    falling = [0.5 * (1 + math.cos(math.pi * i / 90)) for i in range(90)]
    assert [rate(i, 100, 0.1, "cosine") for i in range(100)] == pytest.approx(rising + falling)


def test_each_part_has_its_rate(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
    layer = part(work.model.model, "blocks.0.mlp.fc1")
    found: list[list[float | None]] = []

    class Adam(torch.optim.Adam):
        def step(self, *_: Any) -> None:  # type: ignore[override]
            rates = {id(p): group["lr"] for group in self.param_groups for p in group["params"]}
            quantizer, rounding = layer.input_site.quantizer, layer.weight_site.stand_in
            if rounding is not None:
                parts = layer.bias, quantizer.scale, quantizer.zero_point, rounding.logits
                found.append([rates.get(id(p)) for p in parts])

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    learn = ["bias", "activation_scales", "zero_points", "rounding"]
    rates = {"lr": 0.001, "lr_scales": 0.002, "lr_zero_points": 0.003, "lr_rounding": 0.004}
    run(work, {"do": "calibrate"}, {"do": "reconstruct", "learn": learn, "iterations": 1, **rates})
    assert found == [[0.001, 0.002, 0.003, 0.004]]


@pytest.mark.parametrize(("rates", "factor"), [("paper", 1.0), ("sqrt", 10.0), ("linear", 100.0)])
def test_rates_follow_a_shorter_course(
    workspace: Make, monkeypatch: pytest.MonkeyPatch, rates: Literal["paper", "sqrt", "linear"], factor: float
) -> None:
    """A recipe of 1000 iterations that gets 10."""
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
    method = dataclasses.replace(work.config.method, iterations=10, rates=rates)
    work.config = dataclasses.replace(work.config, method=method)
    found: list[float] = []

    class Adam(torch.optim.Adam):
        def __init__(self, groups: list[dict[str, Any]], **options: Any):
            found.extend(group["lr"] for group in groups)
            super().__init__(groups, **options)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    step = {"iterations": 1000, "lr": 1e-6, "lr_scales": 2e-6}
    run(work, {"do": "calibrate"}, {"do": "reconstruct", "learn": ["weights", "activation_scales"], **step})
    assert sorted(set(found)) == pytest.approx([1e-6 * factor, 2e-6 * factor])
    found.clear()
    run(work, {"do": "distill", "learn": ["weights", "activation_scales"], "hold_out": 0.0, **step})
    assert found == pytest.approx([1e-6 * factor, 2e-6 * factor])
