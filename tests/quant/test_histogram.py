"""The streaming histogram against the exact distribution."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.errors import refuses
from vitq.quant.distribution import Distribution
from vitq.quant.histogram import Histogram
from vitq.quant.layout import Axes, Layout

AXES = Axes(channel=-1, token=True)


def filled(batches: list[torch.Tensor], granularity: str, **bins: int) -> Histogram:
    histogram = Histogram(**bins)
    for batch in batches:
        histogram.update(batch, Layout.of(granularity, AXES, tuple(batch.shape)))
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    return (
        torch.equal(a.counts, b.counts)
        and torch.equal(a.exponent, b.exponent)
        and torch.equal(a.low, b.low)
        and torch.equal(a.high, b.high)
    )


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:2", "token"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0, 12))
def test_neither_order_nor_batch_size_changes_a_count(granularity: str, seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 5, 4, generator=generator) * torch.exp2(spread * torch.rand(6, 1, 4, generator=generator))
    whole = filled([x], granularity)
    assert same(whole, filled(list(x.split(1)), granularity))
    assert same(whole, filled(list(x.flip(0).split(2)), granularity))
    assert int(whole.counts.sum()) == x.numel()


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_values_and_quantiles_are_those_of_the_data(granularity: str) -> None:
    x = torch.randn(8, 100, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 0.1, 3.0])
    histogram = filled(list(x.split(2)), granularity)
    layout = Layout.of(granularity, AXES, tuple(x.shape))
    exact, streamed = Distribution.from_rows(layout.rows(x)), histogram.distribution()
    assert torch.equal(exact.low, streamed.low)
    assert torch.equal(exact.high, streamed.high)
    width = torch.exp2(histogram.exponent.float())
    for p in (0.0, 0.01, 0.5, 0.999, 1.0):
        assert bool(((exact.quantile(p) - streamed.quantile(p)).abs() <= width).all()), p
    assert streamed.counts is not None
    assert streamed.counts.sum(dim=1).tolist() == [exact.values.shape[1]] * layout.groups


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 400),
    tail=st.floats(1, 1000),
    p=st.one_of(st.sampled_from([0.97, 0.999, 0.9999, 0.99999]), st.floats(0, 1)),
)
def test_quantiles_are_torchs_at_both_ends_to_a_bin(seed: int, count: int, tail: float, p: float) -> None:
    """Few samples, far apart: what lies between the last two of them counts, at the low end as at the high one."""
    x = torch.randn(count, 1, 1, generator=torch.Generator().manual_seed(seed))
    x[0], x[-1] = -tail, 2 * tail
    streamed, mirrored = filled([x], "tensor"), filled([-x], "tensor")
    width = float(torch.exp2(streamed.exponent.float()))
    found = streamed.distribution().quantile(p)
    assert float(found) == pytest.approx(float(x.double().flatten().quantile(p)), abs=width * 1.001)
    assert float(found) == pytest.approx(-float(mirrored.distribution().quantile(1 - p)), abs=width * 1.001)


def test_a_group_that_saw_only_zeros_is_constant() -> None:
    x = torch.rand(2, 3, 4)
    x[..., 1] = 0
    x[..., 2] = 5
    distribution = filled([x], "channel").distribution()
    assert distribution.constant.tolist() == [False, True, True, False]
    assert distribution.low[2] == 5


def test_memory_does_not_depend_on_the_number_of_images() -> None:
    few, many = filled([torch.rand(2, 3, 4)], "channel"), filled([torch.rand(2, 3, 4)] * 50, "channel")
    assert few.counts.shape == many.counts.shape == (4, 2048)


def test_nan_and_infinity_are_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with refuses(ValueError, key="activations"):
            filled([torch.tensor([[[1.0, bad]]])], "tensor")


def test_a_changing_number_of_groups_is_refused() -> None:
    with refuses(ValueError, key="groups", value=4, valid=[3]):
        filled([torch.rand(2, 3, 4), torch.rand(2, 4, 4)], "token")


def test_an_empty_histogram_has_no_distribution() -> None:
    with refuses(ValueError, key="histogram"):
        Histogram().distribution()


def test_quantile_outside_zero_to_one_is_refused() -> None:
    with refuses(ValueError, key="quantile", value=1.5):
        Distribution.from_rows(torch.rand(1, 3)).quantile(1.5)
