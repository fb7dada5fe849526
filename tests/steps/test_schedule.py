"""Learning rates and β of reconstruction, iteration by iteration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.steps.reconstructions import CALIBRATE, UNIFORM, Make, reconstruct
from tests.tiny import run, tiny
from vitq.steps.reconstruction.schedule import anneal, rate


def test_schedules() -> None:
    assert [rate(i, 100, 0.1, "cosine") < rate(i + 1, 100, 0.1, "cosine") for i in range(9)] == [True] * 9
    assert rate(10, 100, 0.1, "cosine") == 1
    assert rate(100, 100, 0.1, "cosine") == pytest.approx(0)
    assert rate(77, 100, 0.0, "constant") == 1
    for along, half in (("cosine", 11), ("linear", 11)):
        assert anneal(0.1, along) is None
        assert anneal(0.2, along) == 20
        assert anneal(0.6, along) == pytest.approx(half)
        assert anneal(1.0, along) == pytest.approx(2)
    assert anneal(0.4, "linear") == pytest.approx(15.5) != anneal(0.4)


def test_rounding_is_learned_at_a_constant_rate(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in public BRECQ and QDrop code; the scales beside it follow the cosine."""
    rates: list[list[float]] = []

    class Adam(torch.optim.Adam):
        def step(self, *_: Any) -> None:  # type: ignore[override]
            rates.append([group["lr"] for group in self.param_groups])
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=4)
    run(work, CALIBRATE, reconstruct(learn=["rounding", "activation_scales"], lr_rounding=0.05, iterations=10))
    block = rates[10:20]  # patch embedding first
    assert [round_ for _, round_ in block] == [0.05] * 10
    assert [scale for scale, _ in block] == pytest.approx([1e-3 * rate(i, 10, 0.0, "cosine") for i in range(10)])
