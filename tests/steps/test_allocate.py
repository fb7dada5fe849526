"""Mixed precision: exact losses, budgets that hold, a path that only falls, an integer program that is optimal."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tiny import images, run, tiny
from vitq import sites as site_tables
from vitq.config import RunConfig
from vitq.errors import VitqError
from vitq.steps import Workspace
from vitq.steps.allocate import Allocate, free
from vitq.steps.budget import Budget, Meter, meters
from vitq.steps.integer import milp
from vitq.steps.search_bits import greedy, uniform
from vitq.steps.sensitivity import Trial, menu, table

METHOD = {
    "kinds": {
        "weight": {"quantizer": "uniform", "granularity": "channel"},
        "probs": {"quantizer": "log_sqrt2"},
        "default": {"quantizer": "uniform", "range": "percentile"},
    }
}
CALIBRATE = {"do": "calibrate"}
WIDTHS = [3, 4, 5, 6, 7, 8]
Make = Callable[..., Workspace]


@pytest.fixture
def make(workspace: Make) -> Make:
    def made(family: str = "vit", weight: Any = 4, activation: Any = 4, **bits: Any) -> Workspace:
        work = workspace(tiny(family), METHOD, images=8, weight=weight, activation=activation, **bits)
        run(work, CALIBRATE)
        return work

    return made


def prepared(work: Workspace, **limits: float) -> tuple[Trial, Budget, list[str]]:
    chosen = free(work)
    trial = Trial(work, menu(work, chosen, WIDTHS), 8)
    names = [site.name for site in chosen]
    trial.start(dict.fromkeys(names, 8))
    return trial, Budget(meters(work, chosen, WIDTHS), limits), names


def loss(work: Workspace, reference: nn.Module, count: int = 8) -> float:
    """KL(full precision ‖ quantized) of two whole forward passes in float64, on images spread over the set of 8."""
    x = images(work)[torch.from_numpy(np.linspace(0, 7, count).round().astype(int))]
    with torch.no_grad():
        exact = F.log_softmax(reference(x).double(), dim=1)
        quantized = F.log_softmax(work.model(x).double(), dim=1)
    return float((exact.exp() * (exact - quantized)).sum(dim=1).mean())


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_looks_and_takes_are_exact(make: Make, family: str) -> None:
    """Evaluating from a site's segment on gives what the whole model gives, for each change and after each taking."""
    work = make(family)
    trial, _, names = prepared(work)
    reference = tiny(family)
    assert trial.loss == pytest.approx(loss(work, reference), rel=1e-4, abs=1e-9)
    # Half an octave stays half an octave at 3 bits: attention probabilities within four octaves do not change.
    chosen = [name for name in names[:: len(names) // 9] if not name.endswith("probs")]
    assert len(chosen) >= 6
    for name in chosen:
        looked = trial.look(name, 3)
        before = trial.loss
        assert work.model.sites[name].quantizer.bits == 8  # type: ignore[union-attr]
        assert trial.take(name, 3) == looked != before
        assert looked == pytest.approx(loss(work, reference), rel=1e-4)
    untaken = trial.look(names[1], 4)
    assert untaken != trial.loss
    assert trial.take(names[-1], 4) == pytest.approx(loss(work, reference), rel=1e-4), "taken without a look"


def test_sensitivities_are_those_of_one_site_alone(make: Make) -> None:
    work = make("vit", kinds={"value": 6})
    trial, _, names = prepared(work)
    alone = table(trial, names, [3, 8], work)
    reference, values = tiny("vit"), [s for s in work.model.sites.values() if s.kind == "value"]
    assert all(site.on for site in values), "sites that are not allocated are on again"
    for name in names[::9]:
        work.model.switch(work.model.sites.values(), on=False)
        trial._set(name, 3)
        assert alone[name][3] == pytest.approx(loss(work, reference), rel=1e-3, abs=1e-10)


def test_the_runs_own_bits_everywhere_are_the_recipe_itself(make: Make) -> None:
    work = make()
    before = {site.name: site.quantizer for site in work.model.quantized()}
    run(work, {"do": "allocate", "policy": "uniform", "images": 2})
    assert {site.name: site.quantizer for site in work.model.quantized()} == before


def test_meters_are_what_a_hand_count_gives(make: Make) -> None:
    work = make()
    _, budget, names = prepared(work)
    model = work.model.model
    weights = {n: p.numel() for n, p in model.named_parameters() if p.ndim > 1 and f"{n}" in work.model.sites}
    bits = {name: 3 + number % 6 for number, name in enumerate(names)}
    measured = budget.measures(bits)
    assert measured["mean_weight_bits"] == pytest.approx(
        sum(count * bits[n] for n, count in weights.items()) / sum(weights.values())
    )
    # One image of 17 tokens, 3 heads of 16 channels, width 48, hidden 192, 5 classes; a stem of 4×4 patches of 8×8.
    macs = {"qkv": 17 * 48 * 144, "proj": 17 * 48 * 48, "fc1": 17 * 48 * 192, "fc2": 17 * 192 * 48}
    expected = 16 * 48 * 3 * 64 * bits["patch_embed.proj.weight"] * 32
    expected += 48 * 5 * bits["head.weight"] * bits["head.input"]
    for block in ("blocks.0", "blocks.1"):
        for layer, count in macs.items():
            part = "attn" if layer in ("qkv", "proj") else "mlp"
            expected += count * bits[f"{block}.{part}.{layer}.weight"] * bits[f"{block}.{part}.{layer}.input"]
        for left, right in (("scores.query", "scores.key"), ("context.probs", "context.value")):
            expected += 3 * 17 * 17 * 16 * bits[f"{block}.attn.{left}"] * bits[f"{block}.attn.{right}"]
    assert measured["bops"] == expected


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("policy", ["greedy", "milp", "uniform"])
def test_the_records_of_a_run_agree_with_the_budget(make: Make, family: str, policy: str) -> None:
    work = make(family)
    run(work, {"do": "allocate", "policy": policy, "mean_bits": [5, 4.5], "images": 4})
    path = work.artifacts["allocation_path"]
    end = path.iloc[-1]
    table_ = site_tables.site_table(work.model, work.batches(8))
    weights = table_[table_.kind == "weight"]
    assert (weights.bits * weights.elements).sum() / weights.elements.sum() == pytest.approx(end.mean_weight_bits)
    assert end.mean_weight_bits <= 5 * (1 + 1e-9)
    assert end.mean_activation_bits <= 4.5 * (1 + 1e-9)
    fp_bytes = site_tables.model_bytes(work.model.model)
    assert end.size_mb == pytest.approx(site_tables.quantized_bytes(work.model, fp_bytes) / 1e6, rel=1e-9)
    assert end.loss == pytest.approx(loss(work, tiny(family), 4), rel=1e-4)
    if policy == "uniform":
        assert set(weights.bits) == {5}
        assert set(table_[~table_.kind.isin(["weight", "patch"])].bits) == {4}
    else:
        assert set(table_.bits) <= {3, 4, 5, 6, 7, 8, 32}
        assert weights.bits.nunique() > 1
    assert (policy == "milp") == ("allocation_sensitivity" in work.artifacts)


@pytest.mark.parametrize("recompute", ["lazy", "always"])
@pytest.mark.parametrize(
    "limits", [{"mean_bits": [4, 5]}, {"size_mb": 0.05}, {"bops": 4e7}, {"mean_bits": 6, "bops": 4e7}]
)
def test_greedy_only_falls_and_stops_at_the_budget(make: Make, recompute: str, limits: dict[str, Any]) -> None:
    work = make()
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
    bits = {site.name: 8 for site in free(work)}
    for site, old, new in path.iloc[1:][["site", "from_bits", "to_bits"]].to_numpy():
        assert bits[site] == old
        bits[site] = new
    assert bits == {site.name: site.quantizer.bits for site in free(work) if site.quantizer is not None}
    assert path.loss.iloc[1:].to_numpy() == pytest.approx(
        (path.loss.iloc[0] + path.increase.cumsum()).iloc[1:].to_numpy()
    )


def test_greedy_takes_the_least_increase_per_saved_bit(make: Make) -> None:
    """`always`: at each of the first steps, no site had a lower score, measured here from whole forward passes."""
    work = make()
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


def test_lazy_measuring_is_cheaper_and_about_as_good(make: Make) -> None:
    ends = {}
    for recompute in ("always", "lazy"):
        trial, budget, _ = prepared(make(), mean_weight_bits=4, mean_activation_bits=4)
        ends[recompute] = greedy(trial, budget, WIDTHS, recompute, make().progress)[-1]
    assert ends["lazy"]["evaluations"] < 0.2 * ends["always"]["evaluations"]
    assert ends["lazy"]["loss"] < 1.3 * ends["always"]["loss"]


def test_never_measuring_follows_the_losses_of_sites_alone(make: Make) -> None:
    work = make()
    run(work, {"do": "allocate", "recompute": "never", "mean_bits": 4, "images": 8})
    path, alone = work.artifacts["allocation_path"], work.artifacts["allocation_sensitivity"]
    loss_of = alone.set_index(["site", "bits"]).loss
    state = {site.name: 8 for site in free(work)}
    for site, old, new, score, saved in path.iloc[1:][["site", "from_bits", "to_bits", "score", "saved"]].to_numpy():
        assert state[site] == old
        assert score == pytest.approx((loss_of[site, new] - loss_of[site, old]) / saved)
        state[site] = new
    # One evaluation a step, for the loss on the path, beside those of the table and the start.
    assert path.evaluations.iloc[-1] - path.evaluations.iloc[0] == len(path) - 1
    assert path.loss.iloc[-1] == pytest.approx(loss(work, tiny("vit")), rel=1e-3)


def test_mixed_precision_beats_single_precision_of_the_same_mean(make: Make) -> None:
    ends = {}
    for policy in ("greedy", "milp", "uniform"):
        work = make()
        run(work, {"do": "allocate", "policy": policy, "mean_bits": 4, "images": 8})
        ends[policy] = work.artifacts["allocation_path"].iloc[-1].loss
    assert ends["greedy"] < ends["uniform"]
    assert ends["milp"] < ends["uniform"]


def test_milp_is_at_most_greedy_and_uniform_on_the_additive_loss(make: Make) -> None:
    for limits in ({"mean_weight_bits": 4.0, "mean_activation_bits": 4.5}, {"bops": 4e7}, {"size_mb": 0.05}):
        work = make()
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


def test_exceptions_keep_their_bits(make: Make) -> None:
    work = make("vit", first_last=8, kinds={"probs": 6}, image=8)
    run(work, {"do": "allocate", "mean_bits": 3.5, "images": 2})
    fixed = ("patch_embed.proj.weight", "patch_embed.proj.input", "head.weight", "head.input")
    for name, site in work.model.sites.items():
        assert site.quantizer is not None
        if name in fixed:
            assert site.quantizer.bits == 8
        elif site.kind == "probs":
            assert site.quantizer.bits == 6
    assert work.artifacts["allocation_path"].iloc[-1].mean_activation_bits <= 3.5


def test_what_is_not_calibrated_stays_off(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD, images=8, weight=4, activation=4)
    run(work, {"do": "calibrate", "sites": "weights"}, {"do": "allocate", "images": 2})
    assert {site.kind for site in work.model.sites.values() if site.on} == {"weight"}
    path = work.artifacts["allocation_path"].iloc[-1]
    assert path.mean_weight_bits <= 4


def test_without_a_budget_it_is_the_bits_of_the_run(make: Make) -> None:
    work = make(weight=5, activation=6)
    run(work, {"do": "allocate", "images": 2, "policy": "uniform"})
    end = work.artifacts["allocation_path"].iloc[-1]
    assert (end.mean_weight_bits, end.mean_activation_bits) == pytest.approx((5, 6))


def test_impossible_budgets_say_what_is_feasible(make: Make) -> None:
    with pytest.raises(VitqError, match=r"size_mb=0.01 is impossible.*from 0\.0\d+ .*to 0\.\d+ .*feasible"):
        run(make(), {"do": "allocate", "size_mb": 0.01})
    with pytest.raises(VitqError, match=r"bops=1000 is impossible.*feasible"):
        run(make(), {"do": "allocate", "bops": 1000.0})


def config(steps: dict[str, Any], **bits: Any) -> RunConfig:
    raw = {
        "model": {"name": "tiny"},
        "data": {"name": "random"},
        "method": {"name": "test", **METHOD, "steps": steps},
        "bits": bits,
    }
    parsed, problems = RunConfig.parse(raw)
    assert parsed is not None, problems
    return parsed


def test_what_the_plan_refuses() -> None:
    allocate = {"do": "allocate"}
    good = config({"c": CALIBRATE, "a": allocate}, weight=4, activation="fp")
    assert Allocate("allocate").check(good) == []
    assert any(
        "mean of 2.5 bits for weights is impossible" in p for p in Allocate("allocate", mean_bits=2.5).check(good)
    )
    assert any("widths=[3, 9]" in p for p in Allocate("allocate", widths=(3, 9)).check(good))
    assert any("size_mb=-1" in p for p in Allocate("allocate", size_mb=-1).check(good))
    assert any("images=0" in p for p in Allocate("allocate", images=0).check(good))
    narrow = config({"c": CALIBRATE, "a": allocate}, weight=2, activation=4)
    assert any("mean of 2 bits for weights" in p for p in Allocate("allocate").check(narrow))
    late = config({"c": CALIBRATE, "r": {"do": "reconstruct"}, "a": allocate})
    assert any("after a step 'reconstruct'" in p for p in Allocate("allocate").check(late))
    off = config({"c": CALIBRATE, "r": {"do": "reconstruct", "enabled": False}, "a": allocate})
    assert Allocate("allocate").check(off) == []
    early = config({"a": allocate, "c": CALIBRATE})
    assert any("no step before it calibrates" in p for p in Allocate("allocate").check(early))


def test_a_fully_quantized_model_is_allocated_whole(workspace: Make) -> None:
    """Sites in front of LayerNorm and softmax have no partner to multiply with; their bits count all the same."""
    tensor = {"quantizer": "uniform", "granularity": "tensor"}
    method = {"kinds": METHOD["kinds"] | {"norm_input": tensor, "scores": tensor}}
    work = workspace(tiny("vit"), method, images=8, weight=4, activation=4)
    run(work, CALIBRATE)
    run(work, {"do": "allocate", "policy": "greedy", "images": 8})
    kinds = {site.kind for site in free(work)}
    assert {"norm_input", "scores"} <= kinds
    path = work.artifacts["allocation_path"]
    assert path.iloc[-1].mean_activation_bits <= 4 < path.iloc[0].mean_activation_bits
