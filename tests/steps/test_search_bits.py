"""Policies: a greedy path that only falls and stops at the budget, an integer program that is optimal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from tests.mixed import WIDTHS, loss, prepared
from tests.tiny import run, tiny
from vitq.steps import Workspace
from vitq.steps.allocate import free
from vitq.steps.budget import Budget, Meter
from vitq.steps.integer import milp
from vitq.steps.search_bits import greedy, uniform
from vitq.steps.sensitivity import table

Make = Callable[..., Workspace]


@pytest.mark.parametrize("recompute", ["lazy", "always"])
@pytest.mark.parametrize(
    "limits", [{"mean_bits": [4, 5]}, {"size_mb": 0.05}, {"bops": 4e7}, {"mean_bits": 6, "bops": 4e7}]
)
def test_greedy_only_falls_and_stops_at_the_budget(calibrated: Make, recompute: str, limits: dict[str, Any]) -> None:
    work = calibrated()
    run(work, {"do": "allocate", "images": 2, "recompute": recompute, **limits})
    path = work.artifacts["allocation_path"]
    names = {
        "mean_weight_bits": np.broadcast_to(limits.get("mean_bits", np.inf), 2)[0],
        "mean_activation_bits": np.broadcast_to(limits.get("mean_bits", np.inf), 2)[1],
        "size_mb": limits.get("size_mb", np.inf),
        "bops": limits.get("bops", np.inf),
    }
    for name, limit in names.items():
        assert (path[name].diff().dropna() <= 1e-12).all(), name
        assert path[name].iloc[-1] <= limit * (1 + 1e-9)
    before = path.iloc[-2]
    assert any(before[name] > limit for name, limit in names.items()), "one step earlier the budget did not hold"
    assert ((path.from_bits - path.to_bits).dropna() == 1).all()
    bits = {site.name: 8 for site in free(work.model, work.config.bits)}
    for site, old, new in path.iloc[1:][["site", "from_bits", "to_bits"]].to_numpy():
        assert bits[site] == old
        bits[site] = new
    assert bits == {
        site.name: site.quantizer.bits for site in free(work.model, work.config.bits) if site.quantizer is not None
    }
    assert path.loss.iloc[1:].to_numpy() == pytest.approx(
        (path.loss.iloc[0] + path.increase.cumsum()).iloc[1:].to_numpy()
    )


def test_greedy_takes_the_least_increase_per_saved_bit(calibrated: Make) -> None:
    """`always`: at each of the first steps, no site had a lower score, measured here from whole forward passes."""
    work = calibrated()
    trial, budget, names = prepared(work, mean_weight_bits=7.5)
    rows = greedy(trial, budget, WIDTHS, "always", work.progress)
    weights = [name for name in names if work.model.sites[name].is_weight]
    reference, state = tiny("vit"), dict.fromkeys(names, 8)
    trial.start(state)
    for row in rows[1:4]:
        base, scores = loss(work, reference), {}
        total = sum(work.model.layer(work.model.sites[n]).weight.numel() for n in weights)
        for name in weights:
            trial.start({**state, name: state[name] - 1})
            share = work.model.layer(work.model.sites[name]).weight.numel() / total / 0.5
            scores[name] = (loss(work, reference) - base) / share
        assert scores[row["site"]] <= min(scores.values()) + 1e-6
        state[row["site"]] -= 1
        trial.start(state)


def test_lazy_measuring_is_cheaper_and_about_as_good(calibrated: Make) -> None:
    """On a single random network either path may end with twice the other's loss: the mean over five of them counts."""
    ratios = []
    for classes in range(3, 8):
        ends = {}
        for recompute in ("always", "lazy"):
            work = calibrated(num_classes=classes)
            trial, budget, _ = prepared(work, mean_weight_bits=4, mean_activation_bits=4)
            ends[recompute] = greedy(trial, budget, WIDTHS, recompute, work.progress)[-1]
        assert ends["lazy"]["evaluations"] < 0.2 * ends["always"]["evaluations"]
        ratios.append(ends["lazy"]["loss"] / ends["always"]["loss"])
    assert np.exp(np.mean(np.log(ratios))) < 1.5, ratios


def test_never_measuring_follows_the_losses_of_sites_alone(calibrated: Make) -> None:
    """Each step is the one of least increase per saved share among all that are left, by the table alone."""
    work = calibrated()
    run(work, {"do": "allocate", "recompute": "never", "mean_bits": 4, "images": 8})
    path, alone = work.artifacts["allocation_path"], work.artifacts["allocation_sensitivity"]
    loss_of = alone.set_index(["site", "bits"]).loss
    _, budget, names = prepared(calibrated(), mean_weight_bits=4, mean_activation_bits=4)
    state = dict.fromkeys(names, 8)
    first = budget.excess(state)
    for site, old, new, score in path.iloc[1:][["site", "from_bits", "to_bits", "score"]].to_numpy():
        assert state[site] == old
        over, scores = budget.excess(state), {}
        for name, width in state.items():
            if width == WIDTHS[0]:
                continue
            after = {**state, name: width - 1}
            saved = sum(
                min(budget.meters[limit].measure(state) - budget.meters[limit].measure(after), left) / first[limit]
                for limit, left in over.items()
            )
            if saved > 0:
                scores[name] = (loss_of[name, width - 1] - loss_of[name, width]) / saved
        assert score == pytest.approx(scores[site])
        assert scores[site] <= min(scores.values()) + 1e-9 * abs(scores[site])
        state[site] = new
    # One evaluation a step, for the loss on the path, beside those of the table and the start.
    assert path.evaluations.iloc[-1] - path.evaluations.iloc[0] == len(path) - 1
    assert path.loss.iloc[-1] == pytest.approx(loss(work, tiny("vit")), rel=1e-3)


def test_milp_says_when_time_ended_before_the_proof(
    calibrated: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which allocation is the best so far depends on the machine, so that the run repeats on the same one at most."""
    work = calibrated()
    trial, budget, names = prepared(work, mean_weight_bits=4.0)
    increase = table(trial, names, WIDTHS, work)
    proved = milp(increase, budget, 60)
    assert not caplog.records
    solve = scipy.optimize.milp

    def hurried(*args: Any, **options: Any) -> Any:
        found = solve(*args, **options)
        found.status = 1
        return found

    monkeypatch.setattr(scipy.optimize, "milp", hurried)
    assert milp(increase, budget, 60) == proved
    assert "60 seconds did not suffice to prove" in caplog.text


def test_milp_is_at_most_greedy_and_uniform_on_the_additive_loss(calibrated: Make) -> None:
    for limits in ({"mean_weight_bits": 4.0, "mean_activation_bits": 4.5}, {"bops": 4e7}, {"size_mb": 0.05}):
        work = calibrated()
        trial, budget, names = prepared(work, **limits)
        increase = table(trial, names, WIDTHS, work)
        assert all(value >= 0 for losses in increase.values() for value in losses.values())
        exact = milp(increase, budget, 60)
        assert not budget.excess(exact)
        trial.start(dict.fromkeys(names, 8))
        greedy(trial, budget, WIDTHS, "lazy", work.progress)
        even = uniform({name: work.model.sites[name].is_weight for name in names}, budget, WIDTHS)
        assert not budget.excess(even)
        for other in (trial.bits, even):
            assert additive(increase, exact) <= additive(increase, other) + 1e-9


def additive(increase: Any, bits: dict[str, int]) -> float:
    return float(sum(increase[name][width] for name, width in bits.items()))


@pytest.mark.parametrize("seed", range(8))
def test_milp_equals_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    names, widths = [f"s{number}" for number in range(5)], [3, 5, 8]
    increase = {name: {w: float(generator.random() * 2.0**-w * 1e-3) for w in widths} for name in names}
    elements = {name: int(generator.integers(1, 50)) for name in names}
    total = sum(elements.values())
    pairs = [("s0", "s1", 3.0), ("s1", "s2", 7.0), ("s3", "s4", 2.0)]
    made = {
        "mean_weight_bits": Meter(
            "mean_weight_bits", 0.0, {n: {w: elements[n] * w / total for w in widths} for n in names}
        ),
        "bops": Meter("bops", 11.0, {"s4": {w: 5.0 * w for w in widths}}, pairs),
    }
    budget = Budget(made, {"mean_weight_bits": 5.0, "bops": float(generator.integers(250, 700))})
    every = (dict(zip(names, chosen, strict=True)) for chosen in itertools.product(widths, repeat=len(names)))
    least = min(additive(increase, bits) for bits in every if not budget.excess(bits))
    found = milp(increase, budget, 60)
    assert not budget.excess(found)
    assert additive(increase, found) == pytest.approx(least, rel=1e-9)
