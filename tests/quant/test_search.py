"""The range searches: what they try, and that the best of it is found, group by group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.quant.test_quantizers import check, fitted
from vitq.planning.unread import READ_BY
from vitq.quant.distribution import Distribution
from vitq.quant.layout import Axes
from vitq.quant.model import build
from vitq.quant.quantizer import QUANTIZERS
from vitq.quant.search import best, errors
from vitq.quant.uniform import UniformQuantizer

# Values of the searches' options unlike the defaults.
OTHER = {"percentiles": [0.7], "candidates": 2, "shrink_to": "near"}


def test_the_candidates_are_those_of_the_papers() -> None:
    """RepQ-ViT's and I&S-ViT's percentiles of activations; a hundred linear steps, as PTQ4ViT."""
    assert UniformQuantizer.options["percentiles"] == (0.999, 0.9999, 0.99999)
    assert UniformQuantizer.options["candidates"] == 100


@pytest.mark.parametrize("elements", [1, 100, 1 << 16])
def test_however_many_candidates_are_tried_at_once_the_first_of_the_least_error_is_taken(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside candidates one by one; candidate 3 is candidate 7 once more, and the last gives no numbers."""
    monkeypatch.setattr("vitq.quant.search._ELEMENTS", {"cpu": elements})
    distribution = Distribution.from_rows(torch.randn(5, 40, generator=torch.Generator().manual_seed(1)))
    step = torch.rand(12, 5, generator=torch.Generator().manual_seed(2)) + 0.05
    step[7] = step[3]
    step[3:8:4, 0] = 1e-3
    step[11] = torch.nan

    def roundtrip(step: torch.Tensor) -> torch.Tensor:
        return (distribution.values / step).round() * step

    (chosen,) = best(distribution, [step], roundtrip)
    alone = torch.stack([distribution.error(roundtrip(one.unsqueeze(1))) for one in step[:11]])
    assert torch.equal(chosen, step.gather(0, alone.argmin(dim=0, keepdim=True))[0])
    assert errors(distribution, [step], roundtrip)[11].isinf().all()
    assert int(errors(distribution, [step], roundtrip).argmin(dim=0)[0]) == 3


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_takes_the_best_of_a_hundred_shares_of_the_range(bits: int) -> None:
    """Brute force in float64 over range·i/100, i = 1 … 100; 20 channels, from flat to one of 20,000 values far out."""
    generator = torch.Generator().manual_seed(bits)
    x = torch.randn(20_000, 20, generator=generator)
    x = x.sign() * x.abs() ** torch.linspace(0.1, 1, 20)
    x[0] = torch.linspace(0, 15, 20)
    quantizer = fitted("uniform", bits, x.unsqueeze(0), "channel", "mse")
    last, chosen = 2**bits - 1, set()
    for channel, values in enumerate(x.double().numpy().T):
        low, high = min(0.0, values.min()), max(0.0, values.max())
        zero = np.round(-low / (high - low) * last)
        errors = {}
        for i in range(1, 101):
            scale = (high - low) * i / 100 / last
            codes = np.clip(np.round(values / scale) + zero, 0, last)
            errors[i] = np.sum((scale * (codes - zero) - values) ** 2)
        share = float(quantizer.get_buffer("scale")[channel]) * last / (high - low) * 100
        assert share == pytest.approx(round(share), abs=1e-3)
        assert errors[round(share)] <= min(errors.values()) * (1 + 1e-5), channel
        chosen.add(round(share))
    assert {i % 2 for i in chosen} == {0, 1}
    assert min(chosen) < 50 < 80 < max(chosen), "wide and narrow candidates are needed, or nothing is proved"


def test_mse_search_beats_min_max_and_percentile_on_its_own_objective() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(16, 50, 8, generator=generator) ** 3  # heavy tails
    errors = {
        r: float((fitted("uniform", 4, x, range_search=r)(x) - x).square().sum())
        for r in ("minmax", "percentile", "mse")
    }
    assert errors["mse"] < 0.7 * errors["minmax"], errors
    assert errors["percentile"] <= errors["minmax"], errors


@pytest.mark.parametrize("sign", [1, -1])
def test_mse_search_of_values_on_one_side_of_zero_cuts_their_tail(sign: int) -> None:
    """1,000 values between 5 and 6 and one of 12: the range [5, 5 + L] costs (L/15)²/12 for each of the many and
    (7 − L)² for the one, the least at L = 5.11."""
    x = torch.cat([5 + torch.linspace(0, 1, 1000), torch.tensor([12.0])]).view(1, -1, 1) * sign
    quantizer = fitted("uniform", 4, x, range_search="mse", include_zero=False, shrink_to="near")
    ends = quantizer.decode(torch.tensor([0, 15]).view(1, 2, 1)).abs().flatten().tolist()
    near, far = sorted(ends)
    step = float(quantizer.get_buffer("scale")[0])
    assert near == pytest.approx(5, abs=step / 2 + 1e-5), "zero points are whole numbers"
    assert 15 * step == pytest.approx(5.11, abs=0.6)
    assert far < 11


@pytest.mark.parametrize("include_zero", [False, True])
def test_a_percentile_range_without_extent_becomes_the_full_one(include_zero: bool) -> None:
    """Nearly constant: 0.1 % of the values differ, fewer than every percentile cuts off."""
    x = torch.full((1, 100, 100), 0.5)
    x[0, 0, :2] = torch.tensor([0.0, 1.0])
    quantizer = fitted("uniform", 4, x, range_search="percentile", percentiles=[0.999], include_zero=include_zero)
    check(quantizer, x)
    assert float((quantizer(x) - x).abs().max()) <= 1 / 15
    assert float(quantizer.get_buffer("zero_point").abs().max()) <= 15


@pytest.mark.parametrize("option", READ_BY)
@pytest.mark.parametrize("name", sorted(QUANTIZERS))
def test_every_quantizer_that_has_the_option_reads_it_in_that_range_search_alone(name: str, option: str) -> None:
    """What the plan goes by when it refuses an option. One quantizer that does otherwise must name its own."""
    if option not in QUANTIZERS[name].options:
        return
    # A tail near zero, whose range every search shrinks, and one far from it, where `shrink_to` matters.
    x = torch.rand(64, 32, generator=torch.Generator().manual_seed(0))
    near, far = x**30 + 0.05, torch.where(x < x.max(), 5 + x, 12.0)

    def parameters(x: torch.Tensor, range_search: str, options: dict[str, object]) -> dict[str, torch.Tensor]:
        quantizer = build(name, 4, Axes(0, weight=True), "tensor", range_search, False, {**free, **options})
        quantizer.fit_tensor(x)
        return {key: value.nan_to_num() for key, value in quantizer.state_dict().items()}

    # Ranges that need not hold zero, where there is the choice: to others `shrink_to` makes no difference.
    free = {"include_zero": False} if "include_zero" in QUANTIZERS[name].options else {}
    for search in ("minmax", "percentile", "mse"):
        pairs = [(parameters(x, search, {}), parameters(x, search, {option: OTHER[option]})) for x in (near, far)]
        same = all(torch.equal(default[key], other[key]) for default, other in pairs for key in default)
        assert same == (search != READ_BY[option]), search
