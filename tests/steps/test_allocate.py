"""The step `allocate`: budgets that hold and agree with the records, exceptions, what a plan refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.errors import is_about, refuses
from tests.mixed import CALIBRATE, METHOD, loss, prepared
from tests.tiny import run, tiny
from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.errors import VitqError
from vitq.quant import site_table as site_tables
from vitq.steps import Workspace
from vitq.steps.allocation.allocate import Allocate, free

Make = Callable[..., Workspace]


def test_the_runs_own_bits_everywhere_are_the_recipe_itself(calibrated: Make) -> None:
    work = calibrated()
    before = {site.name: site.quantizer for site in work.model.quantized()}
    run(work, {"do": "allocate", "policy": "uniform", "images": 2})
    assert {site.name: site.quantizer for site in work.model.quantized()} == before


def test_meters_are_what_a_hand_count_gives(calibrated: Make) -> None:
    work = calibrated()
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


def test_bit_operations_of_swin_count_every_window(calibrated: Make) -> None:
    """One image of 32×32, patches of 2×2, windows of 4×4: 16 windows of 2 heads × 8 channels, then 4 of 4 heads × 8."""
    _, budget, names = prepared(calibrated("swin", shape={"patch_size": 2}))
    bits = {name: 3 + number % 6 for number, name in enumerate(names)}

    def layer(name: str, positions: int, inputs: int, outputs: int) -> int:
        return positions * inputs * outputs * bits[f"{name}.weight"] * bits[f"{name}.input"]

    expected = 16 * 16 * 16 * 3 * 2 * 2 * bits["patch_embed.proj.weight"] * 32
    expected += layer("layers.1.downsample.reduction", 8 * 8, 4 * 16, 2 * 16) + layer("head.fc", 1, 32, 5)
    for stage, (tokens, width, windows, heads) in enumerate(((256, 16, 16, 2), (64, 32, 4, 4))):
        for block in (f"layers.{stage}.blocks.0", f"layers.{stage}.blocks.1"):
            expected += layer(f"{block}.attn.qkv", tokens, width, 3 * width)
            expected += layer(f"{block}.attn.proj", tokens, width, width)
            expected += layer(f"{block}.mlp.fc1", tokens, width, 4 * width)
            expected += layer(f"{block}.mlp.fc2", tokens, 4 * width, width)
            for left, right in (("scores.query", "scores.key"), ("context.probs", "context.value")):
                macs = windows * heads * 16 * 16 * 8
                expected += macs * bits[f"{block}.attn.{left}"] * bits[f"{block}.attn.{right}"]
    assert budget.measures(bits)["bops"] == expected


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("policy", ["greedy", "milp", "uniform"])
def test_the_records_of_a_run_agree_with_the_budget(calibrated: Make, family: str, policy: str) -> None:
    work = calibrated(family)
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


def test_mixed_precision_beats_single_precision_of_the_same_mean(calibrated: Make) -> None:
    ends = {}
    for policy in ("greedy", "milp", "uniform"):
        work = calibrated()
        run(work, {"do": "allocate", "policy": policy, "mean_bits": 4, "images": 8})
        ends[policy] = work.artifacts["allocation_path"].iloc[-1].loss
    assert ends["greedy"] < ends["uniform"]
    assert ends["milp"] < ends["uniform"]


def test_exceptions_keep_their_bits(calibrated: Make) -> None:
    work = calibrated("vit", first_last=8, kinds={"probs": 6}, image=8)
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


def test_without_a_budget_it_is_the_bits_of_the_run(calibrated: Make) -> None:
    work = calibrated(weight=5, activation=6)
    run(work, {"do": "allocate", "images": 2, "policy": "uniform"})
    end = work.artifacts["allocation_path"].iloc[-1]
    assert (end.mean_weight_bits, end.mean_activation_bits) == pytest.approx((5, 6))


def test_impossible_budgets_say_what_is_feasible(calibrated: Make) -> None:
    with refuses(VitqError, key="size_mb", value=0.01):
        run(calibrated(), {"do": "allocate", "size_mb": 0.01})
    with refuses(VitqError, key="bops", value=1000.0):
        run(calibrated(), {"do": "allocate", "bops": 1000.0})


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
    assert recipe_checks.problems(good) == []
    for options, key, value in (
        ({"mean_bits": 2.5}, "mean_bits", 2.5),
        ({"widths": (3, 9)}, "widths", [3, 9]),
        ({"size_mb": -1}, "size_mb", -1),
        ({"images": 0}, "images", 0),
    ):
        found = Allocate("allocate", **options).check(good)
        assert any(is_about(problem, key, value) for problem in found), key
    narrow = config({"c": CALIBRATE, "a": allocate}, weight=2, activation=4)
    assert any(is_about(p, "mean_bits", 2.0) for p in Allocate("allocate").check(narrow))
    for fits in ("reconstruct", "hessian_search"):
        late = config({"c": CALIBRATE, "r": {"do": fits}, "a": allocate})
        assert any(is_about(p, "method.steps.a", fits) for p in recipe_checks.problems(late))
    off = config({"c": CALIBRATE, "r": {"do": "reconstruct", "enabled": False}, "a": allocate})
    assert recipe_checks.problems(off) == []
    for dual, refused in ((0.05, True), (0.0, False)):
        grown = config({"c": CALIBRATE, "a": {**allocate, "size_mb": 1.0}, "e": {"do": "erq", "dual": dual}})
        found = recipe_checks.problems(grown)
        assert any(is_about(problem, "method.steps.a.size_mb", 1.0) for problem in found) is refused
    early = config({"a": allocate, "c": CALIBRATE})
    assert any(is_about(problem, "method.steps.a", None) for problem in recipe_checks.problems(early))


def test_a_fully_quantized_model_is_allocated_whole(workspace: Make) -> None:
    """Sites in front of LayerNorm and softmax have no partner to multiply with; their bits count all the same."""
    tensor = {"quantizer": "uniform", "granularity": "tensor"}
    method = {"kinds": METHOD["kinds"] | {"norm_input": tensor, "scores": tensor}}
    work = workspace(tiny("vit"), method, images=8, weight=4, activation=4)
    run(work, CALIBRATE)
    run(work, {"do": "allocate", "policy": "greedy", "images": 8})
    kinds = {site.kind for site in free(work.model, work.config.bits)}
    assert {"norm_input", "scores"} <= kinds
    path = work.artifacts["allocation_path"]
    assert path.iloc[-1].mean_activation_bits <= 4 < path.iloc[0].mean_activation_bits
