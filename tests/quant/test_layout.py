"""Granularity: which elements share a scale, for every kind of tensor."""

from __future__ import annotations

import pytest
import torch

from tests.errors import refuses
from vitq.quant.histogram import Histogram
from vitq.quant.layout import Axes, Layout

TOKENS = Axes(channel=-1, token=True)
OPERAND = Axes(channel=-1, head=1, token=True)
WEIGHT = Axes(channel=0, weight=True)
IMAGE = Axes(channel=1)

CASES = [
    ("tensor", TOKENS, (2, 5, 8), 1),
    ("channel", TOKENS, (2, 5, 8), 8),
    ("token", TOKENS, (2, 5, 8), 5),
    ("token", TOKENS, (2, 3, 5, 8), 15),
    ("group:4", TOKENS, (2, 5, 8), 2),
    ("group:4", TOKENS, (2, 3, 5, 8), 2),
    ("head", OPERAND, (2, 3, 5, 8), 3),
    ("token", OPERAND, (2, 3, 5, 8), 5),
    ("head_token", OPERAND, (2, 3, 5, 8), 15),
    ("head_channel", OPERAND, (2, 3, 5, 8), 24),
    ("head_token", OPERAND, (2, 1, 5, 8), 5),
    ("channel", OPERAND, (2, 3, 5, 8), 8),
    ("channel", WEIGHT, (6, 8), 6),
    ("group:4", WEIGHT, (6, 8), 12),
    ("group:6", WEIGHT, (6, 3, 2, 2), 12),
    ("channel", IMAGE, (2, 3, 8, 8), 3),
    # Dimensions of size 1, kept or not.
    ("channel", TOKENS, (1, 1, 8), 8),
    ("channel", TOKENS, (2, 5, 1), 1),
    ("token", TOKENS, (2, 1, 5, 8), 5),
    ("token", TOKENS, (2, 1, 1, 8), 1),
    ("head", OPERAND, (2, 1, 5, 8), 1),
    ("head", OPERAND, (1, 3, 1, 1), 3),
    ("channel", WEIGHT, (1, 8), 1),
    ("group:4", WEIGHT, (1, 8), 2),
    ("group:8", WEIGHT, (6, 8), 6),
    ("group:1", TOKENS, (2, 5, 8), 8),
    ("group:8", TOKENS, (2, 5, 8), 1),
    ("channel", IMAGE, (1, 1, 8, 8), 1),
]


@pytest.mark.parametrize(("granularity", "axes", "shape", "groups"), CASES)
def test_rows_hold_exactly_the_elements_that_share_a_scale(
    granularity: str, axes: Axes, shape: tuple[int, ...], groups: int
) -> None:
    layout = Layout.of(granularity, axes, shape)
    x = torch.arange(torch.Size(shape).numel()).reshape(shape)
    rows = layout.rows(x)
    assert layout.groups == groups
    assert rows.shape == (groups, x.numel() // groups)
    # Broadcasting the group's number marks the same elements that `rows` collects.
    mark = (layout.expand(torch.zeros_like(x)) + layout.view(torch.arange(groups))).reshape(x.shape)
    for group in range(groups):
        assert set(rows[group].tolist()) == set(x[mark == group].tolist())
    assert torch.equal(layout.collapse(layout.expand(x), x.shape), x)
    # The streaming histogram sees the same groups.
    histogram = Histogram()
    histogram.update(x.float(), layout)
    assert torch.equal(histogram.low, rows.amin(dim=1).float())
    assert torch.equal(histogram.high, rows.amax(dim=1).float())
    assert histogram.counts.sum(dim=1).tolist() == [rows.shape[1]] * groups


@pytest.mark.parametrize(
    ("granularity", "axes", "shape", "valid"),
    [
        ("head", TOKENS, (2, 5, 8), []),
        ("token", WEIGHT, (6, 8), []),
        ("group:3", TOKENS, (2, 5, 8), []),
        ("group:3", WEIGHT, (6, 8), []),
        ("row", TOKENS, (2, 5, 8), ["tensor", "channel", "head", "head_token", "head_channel", "token", "group:N"]),
    ],
)
def test_a_granularity_that_does_not_fit_is_refused(
    granularity: str, axes: Axes, shape: tuple[int, ...], valid: list[str]
) -> None:
    with refuses(ValueError, key="granularity", value=granularity, valid=valid):
        Layout.of(granularity, axes, shape)
