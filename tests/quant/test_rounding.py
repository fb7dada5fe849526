"""Learned rounding: where it starts, where it ends, and what draws it there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitq.quant.layout import Axes
from vitq.quant.model import build
from vitq.quant.rounding import LearnedRounding
from vitq.quant.uniform import UniformQuantizer


def rounding(weight: Tensor) -> LearnedRounding:
    plain = build("uniform", 3, Axes(0, weight=True), "channel", "minmax", False, {})
    assert isinstance(plain, UniformQuantizer)
    plain.fit_tensor(weight)
    return LearnedRounding(plain, weight)


def test_rounding_starts_at_the_weight_itself() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    learned = rounding(weight)
    with torch.no_grad():
        soft = learned(weight)
    levels = learned.uniform.levels()
    inside = weight.clamp(levels[:, :1], levels[:, -1:])
    assert ((soft - inside).abs() <= 0.011 * learned.uniform.scale.view(-1, 1) + 1e-6).all()


def test_hard_rounding_goes_up_or_down_by_the_sign_and_stays_on_the_grid() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    learned = rounding(weight)
    with torch.no_grad():
        learned.logits.copy_(torch.where(torch.arange(8) % 2 == 0, 3.0, -3.0).expand(6, 8))
    hard = learned.harden(weight)
    scale, zero = learned.uniform.scale.view(-1, 1), learned.uniform.zero_point.view(-1, 1)
    expected = (torch.floor(weight / scale) + (torch.arange(8) % 2 == 0) + zero).clamp(0, 7)
    assert torch.equal(torch.round(hard / scale) + zero, expected)
    assert torch.equal(learned.uniform(hard), hard), "the plain quantizer maps the rounded weight onto itself"


def test_the_regularizer_vanishes_at_hard_choices_only() -> None:
    learned = rounding(torch.randn(4, 4))
    with torch.no_grad():
        learned.logits.fill_(50.0)
    assert float(learned.regularizer(2.0).detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        learned.logits.fill_(0.0)
    assert float(learned.regularizer(2.0).detach()) == pytest.approx(16, abs=1e-3)
