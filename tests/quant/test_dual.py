"""Two ranges for each row of a weight: codes, values and the choice of columns against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.errors import refuses
from vitq.quant.distribution import Distribution
from vitq.quant.dual import DualUniformQuantizer, outlier_channels
from vitq.quant.layout import Axes, Layout
from vitq.quant.uniform import UniformQuantizer

AXES = Axes(0, weight=True)


def weight(rows: int = 40, inputs: int = 24, wide: tuple[int, ...] = (3, 17), factor: float = 20.0) -> Tensor:
    made = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))
    made[:, list(wide)] *= factor
    return made


def fitted(x: Tensor, bits: int = 4, **options: object) -> DualUniformQuantizer:
    made = DualUniformQuantizer(bits, "channel", AXES, range_search="mse", **options)
    made.fit_tensor(x)
    return made


@settings(deadline=None)
@given(seed=st.integers(0, 999), bits=st.integers(2, 8), factor=st.sampled_from([0.0, 1e-6, 1.0, 1e6]))
def test_codes_and_round_trip(seed: int, bits: int, factor: float) -> None:
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed)) * factor
    quantizer = fitted(x, bits, share=0.25)
    codes = quantizer.encode(x)
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < 2**bits
    assert torch.equal(quantizer.decode(codes), quantizer(x))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_each_group_is_a_uniform_quantizer_of_its_columns() -> None:
    x = weight()
    quantizer = fitted(x)
    second = outlier_channels(x, 0.05)
    assert second.nonzero().flatten().tolist() == [3, 17]
    for columns in (second, ~second):
        alone = UniformQuantizer(4, "channel", AXES, range_search="mse")
        alone.fit_tensor(x[:, columns])
        assert torch.equal(quantizer(x)[:, columns], alone(x[:, columns]))


def test_two_ranges_are_better_than_one_where_columns_stand_out() -> None:
    x = weight()
    single = UniformQuantizer(4, "channel", AXES, range_search="mse")
    single.fit_tensor(x)
    usual = torch.ones(24, dtype=torch.bool)
    usual[[3, 17]] = False
    error = (fitted(x)(x) - x)[:, usual].square().mean()
    assert error < 0.2 * (single(x) - x)[:, usual].square().mean()


@pytest.mark.parametrize("inputs", [30, 1200])
def test_the_columns_are_those_that_most_rows_vote_for(inputs: int) -> None:
    """An outlier is in the outermost 1 % of its row's entries of one sign: of 600, where of 15 it is the last one."""
    x = weight(rows=60, inputs=inputs, wide=(), factor=1.0)
    votes = np.zeros(inputs, int)
    for row in x.double().numpy():
        high, low = np.quantile(row[row > 0], 0.99), np.quantile(row[row < 0], 0.01)
        votes += (row > high) | (row < low)
    chosen = outlier_channels(x, 0.1).numpy()
    assert chosen.sum() == 6
    assert votes[chosen].min() >= votes[~chosen].max()


def test_constant_weights_have_no_outliers() -> None:
    x = torch.full((4, 6), 0.5)
    assert not outlier_channels(x, 0.5).any()
    assert torch.allclose(fitted(x)(x), x)


def test_bytes_count_both_ranges_and_the_mask() -> None:
    assert fitted(weight()).parameter_bytes() == 2 * 40 * (4 + 1) + 24 // 8


def test_what_is_no_matrix_is_refused() -> None:
    with refuses(ValueError, key="quantizer", value=(2, 3, 4, 4)):
        fitted(torch.zeros(2, 3, 4, 4))
    layout = Layout.of("tensor", Axes(-1), (2, 3))
    with refuses(ValueError, key="quantizer", value="dual_uniform", valid=["uniform"]):
        DualUniformQuantizer(4, "tensor", Axes(-1)).fit(Distribution.from_rows(torch.zeros(1, 6)), layout)
