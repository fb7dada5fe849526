"""The rules of balance and the pooled distribution, against plain numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vitq.quant.histogram import Histogram
from vitq.quant.layout import Axes, Layout
from vitq.steps.equalize_rules import BALANCES, pooled

LOW = torch.tensor([-1.0, -6.0, 0.0, -0.25])
HIGH = torch.tensor([2.0, 3.0, 0.0, 0.75])
COLUMNS = torch.tensor([0.5, 0.1, 2.0, 0.3])


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_channel_that_is_zero_takes_the_geometric_mean_of_the_other_ratios(strength: float) -> None:
    reach, columns = np.array([2.0, 6.0, 0.75]), np.array([0.5, 0.1, 0.3])
    others = reach**strength / columns ** (1 - strength)
    found = BALANCES["sq_b"](LOW, HIGH, COLUMNS, strength).double().numpy()
    assert np.allclose(found[[0, 1, 3]], others, rtol=1e-5)
    assert found[2] == pytest.approx(np.prod(others) ** (1 / 3), rel=1e-5)
    assert found[2] != pytest.approx(others.mean(), rel=1e-2), "the means differ, or nothing is proved"


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_mean_range_is_that_of_the_channels_that_have_one(strength: float) -> None:
    extent = np.array([3.0, 9.0, 1.0])
    found = BALANCES["aocq"](LOW, HIGH, COLUMNS, strength).double().numpy()
    assert np.allclose(found[[0, 1, 3]], (extent / extent.mean()) ** strength, rtol=1e-5)
    assert found[2] == 1, "a constant channel stays as it is"


def skewed() -> tuple[Tensor, Tensor, Tensor]:
    """(N, C) values most of which lie near their channel's low end, with ratio and shift."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 3, generator=generator) ** 6 * torch.tensor([1.0, 20.0, 4.0]) - torch.tensor([0.0, 7.0, 1.0])
    return x, torch.tensor([0.5, 4.0, 1.3]), torch.tensor([0.2, -3.0, 0.0])


def test_the_pooled_distribution_is_that_of_all_values() -> None:
    """Its extrema and count exactly, its quantiles and squared errors up to the two bins a value went through."""
    x, ratio, shift = skewed()
    histogram = Histogram()
    for batch in x.split(1000):
        histogram.update(batch, Layout.of("channel", Axes(-1), tuple(batch.shape)))
    found = pooled(histogram.distribution(), ratio, shift)
    exact = ((x.double() + shift) / ratio).numpy().ravel()
    bin_ = (exact.max() - exact.min()) / 8192 + max(2.0**-9 / 0.5, 2.0**-5 / 4.0, 2.0**-8 / 1.3)
    assert found.counts is not None
    assert float(found.counts.sum()) == exact.size
    assert (float(found.low), float(found.high)) == pytest.approx((exact.min(), exact.max()), rel=1e-6)
    for p in (0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999):
        assert float(found.quantile(p)) == pytest.approx(np.quantile(exact, p), abs=bin_), p
    step = (exact.max() - exact.min()) / 15
    coarse = np.sum((np.round(exact / step) * step - exact) ** 2)
    assert float(found.error(torch.round(found.values / step) * step)) == pytest.approx(coarse, rel=0.02)
