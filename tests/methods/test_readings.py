"""Other readings of AOCQ and MPTQ-ViT, as overrides of their recipes: what each changes, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.tiny import run, tiny
from vitq.config import RunConfig
from vitq.engine.recipe_checks import problems
from vitq.methods.twin import TwinQuantizer
from vitq.planning import compose
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace

Make = Callable[..., Workspace]
# AOCQ's stage between the ranges of activations and those of weights (docs/methods/aocq.md).
SEARCHED = (
    *(f"~method.steps.framework.{option}" for option in ("quantize", "learn", "input", "lr_scales")),
    "method.steps.framework.do=output_search",
    "+method.steps.framework.kinds=[post_norm,query,key,value,probs,attn_out,post_gelu]",
)
LEARNED = ("method.steps.framework.learn=[weights,bias]", "+method.steps.framework.lr=1e-3")
ENDS = ("method.steps.framework.learn=[activation_scales,zero_points]", "+method.steps.framework.lr_zero_points=1.0")
IN_PLACE = ("method.steps.framework.input=quantized",)
FISHER = ("method.steps.loss.loss=fisher_diag",)
# MPTQ-ViT's m, by the error of the output (docs/methods/mptq_vit.md).
HESSIAN = ("+method.steps.search={do: hessian_search, candidates: 20, coarse: 10}",)
ONE_REGION = ("method.kinds.probs.quantizer=uniform", "~method.kinds.probs.options.m")


def composed(method: str, *overrides: str) -> RunConfig:
    file, roots = compose.root_config(None, None)
    (cell,) = compose.expand(compose.load(file, roots, [f"method={method}", *overrides], multirun=True))
    assert cell.problem is None
    config, wrong = RunConfig.parse(cell.raw)
    assert config is not None, wrong
    return config


def applied(workspace: Make, method: str, *overrides: str, until: str | None = None) -> Workspace:
    """A tiny network behind the recipe's steps, or behind those up to one."""
    config = composed(method, *overrides)
    assert not problems(config)
    raw = config.to_dict()["method"]
    work = workspace(tiny("vit"), raw, images=8, weight=4, activation=4)
    names = list(raw["steps"])
    for name in names if until is None else names[: names.index(until) + 1]:
        step = raw["steps"][name]
        run(work, step | ({"iterations": 3, "batch_size": 4} if step["do"] == "reconstruct" else {}))
    return work


def scales(work: Workspace) -> dict[str, Tensor]:
    return {
        name: site.quantizer.scale.clone()
        for name, site in work.model.sites.items()
        if isinstance(site.quantizer, UniformQuantizer | LogQuantizer) and site.quantizer.fitted
    }


def weights(work: Workspace) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in work.model.layers().items()}


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


@pytest.mark.parametrize(
    ("overrides", "moves_ranges", "moves_weights"),
    [((), True, False), (SEARCHED, True, False), (LEARNED, False, True), (ENDS, True, False), (IN_PLACE, True, False)],
    ids=["scales", "searched", "learned", "ends", "in place"],
)
def test_the_stage_changes_ranges_or_weights(
    workspace: Make, overrides: tuple[str, ...], moves_ranges: bool, moves_weights: bool
) -> None:
    before = applied(workspace, "aocq", until="activations")
    after = applied(workspace, "aocq", *overrides, until="framework")
    assert bool(changed(scales(before), scales(after))) is moves_ranges
    assert bool(changed(weights(before), weights(after))) is moves_weights


@pytest.mark.parametrize("overrides", [SEARCHED, LEARNED, ENDS, IN_PLACE, FISHER])
def test_each_reading_is_a_whole_recipe_and_another_one(workspace: Make, overrides: tuple[str, ...]) -> None:
    plain, other = applied(workspace, "aocq"), applied(workspace, "aocq", *overrides)
    assert changed(weights(plain), weights(other))
    assert all(site.on and site.quantizer is not None and site.quantizer.fitted for site in other.model.quantized())


def test_m_is_chosen_anew_by_the_error_of_the_output(workspace: Make) -> None:
    def regions(work: Workspace) -> dict[str, Tensor]:
        found = {site.name: site.quantizer for site in work.model.quantized()}
        twins = {name: twin for name, twin in found.items() if isinstance(twin, TwinQuantizer)}
        return {name: torch.cat([twin.scale, twin.exponent]) for name, twin in twins.items()}

    plain, other = applied(workspace, "mptq_vit"), applied(workspace, "mptq_vit", *HESSIAN)
    moved = changed(regions(plain), regions(other))
    assert {name.rsplit(".", 1)[-1] for name in moved} & {"probs", "input"}
    for name, site in other.model.sites.items():
        if site.kind in ("probs", "post_gelu"):
            assert site.quantizer is not None
            codes = site.quantizer.encode(torch.rand(2, 3, 17, 17) if site.kind == "probs" else torch.randn(2, 17, 192))
            assert 0 <= int(codes.min()) <= int(codes.max()) < 16, name


def test_two_regions_behind_softmax_are_a_switch(workspace: Make) -> None:
    work = applied(workspace, "mptq_vit", *ONE_REGION)
    kinds = {site.kind: site.quantizer.type_name for site in work.model.quantized() if site.quantizer is not None}
    assert (kinds["probs"], kinds["post_gelu"]) == ("Uniform", "TwinUniform")
