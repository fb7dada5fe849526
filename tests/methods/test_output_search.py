"""Output search: the error that it minimizes is the product's, and no site is worse than calibrated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.errors import refuses
from tests.job.test_detectors import Detectors
from tests.methods.products import CALIBRATE, in_block, method, product_of
from tests.tiny import run, tiny
from vitq.config import RunConfig
from vitq.engine.recipe import equipped
from vitq.methods.adalog import AdaLogQuantizer
from vitq.methods.output_search import OutputSearch, _arriving, _error, search_site
from vitq.quant.layers import QuantLinear, QuantMatmul
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.step import Network, parse_step

GRANULARITIES = ["tensor", "head", "token", "head_token", "head_channel"]
KINDS = ["probs", "value", "query", "key", "post_norm", "attn_out", "post_gelu"]


def reference(product: QuantLinear | QuantMatmul, site: Site, operands: tuple[Tensor, ...], by_head: bool) -> Tensor:
    """The squared error of the product written out, float64."""
    if isinstance(product, QuantLinear):
        difference = site(operands[0]).double() - operands[0].double()
        total: Tensor = (difference @ product.weight.double().T).square().sum()
        return total.view(1)
    left, right = operands
    transposed = site.kind in ("query", "key")
    noisy_left, noisy_right = product.left_site(left).double(), product.right_site(right).double()
    exact = (left.double(), noisy_right) if site is product.left_site else (noisy_left, right.double())
    noisy, wanted = (a @ (b.transpose(-2, -1) if transposed else b) for a, b in ((noisy_left, noisy_right), exact))
    error: Tensor = (noisy - wanted).square().sum(dim=(0, 2, 3))
    return error if by_head else error.sum().view(1)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_error_is_that_of_the_product(workspace: Callable[..., Workspace], kind: str) -> None:
    work = workspace(tiny("vit"), method({"quantizer": "adalog"}), activation=3)
    run(work, CALIBRATE)
    product, site = product_of(work, kind)
    walk = in_block(work)
    (operands,), transposed = _arriving(walk, product, 6)
    assert len(operands[0]) == 6
    assert transposed == (kind in ("query", "key"))
    x, error = _error(product, site, operands, transposed)
    assert site.quantizer is not None
    by_head = isinstance(product, QuantMatmul)
    found = error(site.quantizer(x)).sum(dim=(0, 2, 3) if by_head else None)
    assert torch.allclose(found, reference(product, site, operands, by_head), rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "granularity"),
    [
        ("post_norm", "token"), ("post_gelu", "token"), ("probs", "head_token"), ("query", "head_token"),
        ("key", "head_token"), ("value", "head_channel"), ("value", "head"),
    ],
)  # fmt: skip
@torch.no_grad()
def test_each_group_is_searched_by_its_own_error(
    workspace: Callable[..., Workspace], kind: str, granularity: str
) -> None:
    """The error of one group is that of the product in which this group alone is quantized; none gets worse."""
    wanted = {"quantizer": "uniform", "granularity": granularity, "range": "minmax"}
    recipe = method(wanted) if kind == "probs" else method({"quantizer": "adalog"}, **{kind: wanted})
    work = workspace(tiny("vit"), recipe, activation=3)
    run(work, CALIBRATE)
    product, site = product_of(work, kind)
    (operands,), transposed = _arriving(in_block(work), product, None)
    quantizer = site.quantizer
    assert quantizer is not None
    assert quantizer.layout.groups > 1
    x, error = _error(product, site, operands, transposed)
    before = quantizer.layout.rows(error(quantizer(x))).sum(1)
    for group in range(0, quantizer.layout.groups, 3):
        inside = quantizer.layout.view(torch.arange(quantizer.layout.groups) == group)
        alone = float(error(torch.where(inside, quantizer(x), x)).sum())
        assert alone == pytest.approx(float(before[group]), rel=1e-3, abs=1e-9)
    search_site(OutputSearch(do="output_search", images=None, kinds=(kind,)), in_block(work), product, site)
    after = quantizer.layout.rows(error(quantizer(x))).sum(1)
    assert bool((after <= before * 1.0001 + 1e-9).all())
    assert float(after.sum()) < 0.99 * float(before.sum())


@pytest.mark.parametrize("granularity", ["tensor", "head"])
@pytest.mark.parametrize("quantizer", ["adalog", "log2", "log_sqrt2", "uniform"])
@torch.no_grad()
def test_no_site_is_worse_than_calibrated(
    workspace: Callable[..., Workspace], quantizer: str, granularity: str
) -> None:
    work = workspace(tiny("vit"), method({"quantizer": quantizer, "granularity": granularity}), activation=3)
    run(work, CALIBRATE)
    by_head, lowered = granularity == "head", 0
    for kind in KINDS:
        product, site = product_of(work, kind)
        walk = in_block(work)
        (operands,), _ = _arriving(walk, product, None)
        before = reference(product, site, operands, by_head and kind == "probs")
        search_site(OutputSearch(do="output_search", images=None, kinds=(kind,)), walk, product, site)
        after = reference(product, site, operands, by_head and kind == "probs")
        assert bool((after <= before * 1.0001).all()), kind
        lowered += int(bool((after < 0.99 * before).any()))
        codes = site.quantizer.encode(operands[0] if site in _left(product) else operands[1])  # type: ignore[union-attr]
        assert int(codes.min()) >= 0
        assert int(codes.max()) < 8
    assert lowered >= 4


def _left(product: QuantLinear | QuantMatmul) -> tuple[Site, ...]:
    return (product.left_site,) if isinstance(product, QuantMatmul) else (product.input_site,)


@torch.no_grad()
def test_the_coarse_grid_is_searched_exhaustively(workspace: Callable[..., Workspace]) -> None:
    work = workspace(tiny("vit"), method({"quantizer": "adalog", "options": {"tables": "exact"}}), activation=3)
    run(work, CALIBRATE)
    product, site = product_of(work, "probs")
    walk = in_block(work)
    (operands,), _ = _arriving(walk, product, None)
    search_site(OutputSearch(do="output_search", images=None, rounds=0), walk, product, site)
    quantizer = site.quantizer
    assert isinstance(quantizer, AdaLogQuantizer)
    found = float(reference(product, site, operands, by_head=False))
    kept = quantizer.base.clone(), quantizer.scale.clone()
    high = float(operands[0].max())
    for octaves, scale in itertools.product(
        [2 ** (k / 2) for k in range(-4, 5)], [2 ** (-4 + 0.75 * k) for k in range(7)]
    ):
        quantizer.base = torch.tensor([round(octaves * 37)]).float()
        quantizer.scale = torch.tensor([high * scale])
        assert float(reference(product, site, operands, by_head=False)) >= found * 0.9999
    quantizer.base, quantizer.scale = kept


@pytest.mark.parametrize("zeros", [True, False])
@torch.no_grad()
def test_the_zero_code_is_kept_where_it_is_better(workspace: Callable[..., Workspace], zeros: bool) -> None:
    """Two bits. Half of all values zero: a zero code; four powers of one base: none."""
    work = workspace(tiny("vit"), method({"quantizer": "adalog", "options": {"tables": "exact"}}), activation=2)
    run(work, CALIBRATE)
    product, site = product_of(work, "probs")
    assert isinstance(product, QuantMatmul)
    walk = in_block(work)
    powers = torch.tensor([1.0, 0.25, 0.0, 0.0] if zeros else [1.0, 0.25, 0.0625, 0.015625])
    ((probs, _),), _ = _arriving(walk, product, None)
    forced = powers.repeat(probs.numel() // 4 + 1)[: probs.numel()].view_as(probs)
    handle = product.register_forward_pre_hook(lambda _, args: (forced[: len(args[0])], args[1]), prepend=True)
    search_site(OutputSearch(do="output_search", images=None, zero_code="search", rounds=3), walk, product, site)
    handle.remove()
    assert site.quantizer is not None
    assert site.quantizer.settings["zero_code"] == zeros
    error = (site.quantizer(forced) - forced).abs().max()
    assert error < 0.05


@pytest.mark.parametrize(("values", "logarithmic"), [("tail", True), ("even", False), ("silu", False)])
@torch.no_grad()
def test_gelus_codes_follow_the_products_error(
    workspace: Callable[..., Workspace], values: str, logarithmic: bool
) -> None:
    """Many small values and a few far beyond: a logarithm. Evenly spaced ones, or values below GELU's: none."""
    work = workspace(tiny("vit"), method({"quantizer": "adalog"}), activation=4)
    run(work, CALIBRATE)
    product, site = product_of(work, "post_gelu")
    walk = in_block(work)
    ((x,),), _ = _arriving(walk, product, None)
    draws = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).clamp(min=1e-4)
    forced = {"tail": 0.05 * draws.pow(-0.7) - 0.17, "even": draws, "silu": draws.pow(-0.7) - 1.27}[values]
    handle = product.register_forward_pre_hook(lambda _, args: (forced[: len(args[0])],), prepend=True)
    found = []
    for step in (OutputSearch(do="output_search", images=None, gelu_codes=codes) for codes in ("keep", "search")):
        search_site(step, walk, product, site)
        found.append(float(reference(product, site, (forced,), by_head=False)))
    handle.remove()
    assert isinstance(site.quantizer, AdaLogQuantizer if logarithmic else UniformQuantizer)
    assert site.quantizer.codes == 16
    kept, searched = found
    assert (searched < 0.9 * kept) == logarithmic
    assert searched <= kept * 1.0001


@torch.no_grad()
def test_the_whole_step_lowers_the_error_of_attention(workspace: Callable[..., Workspace]) -> None:
    def error(*steps: dict[str, Any]) -> float:
        work = workspace(tiny("swin"), method({"quantizer": "adalog"}), activation=3)
        exact = work.teach(torch.cat(list(work.batches())))
        run(work, CALIBRATE, *steps)
        return float((work.model(torch.cat(list(work.batches()))) - exact).square().mean())

    assert error({"do": "output_search", "kinds": KINDS, "images": None}) < error()


def test_problems_are_found_in_the_plan() -> None:
    def found(**options: Any) -> list[tuple[str, object]]:
        plain = {"name": "t", **method({"quantizer": "sulq"}, value={"quantizer": "uniform"})}
        config, problems = RunConfig.parse({"model": {"name": "tiny"}, "data": {"name": "random"}, "method": plain})
        assert config is not None, problems
        return [(p.key, p.value) for p in OutputSearch(do="output_search", **options).check(config)]

    assert found(kinds=("value",)) == []
    assert found(kinds=("probs",)) == [("", "sulq")]
    assert ("kinds", "weight") in found(kinds=("weight",))
    assert found(kinds=("value",), gelu_codes="search") == [("gelu_codes", "search")]
    assert found(kinds=()) == [("kinds", ())]
    assert found(kinds=("value",), images=0, rounds=-1) == [("images", 0), ("rounds", -1)]


@torch.no_grad()
def test_channel_wise_sites_are_refused(workspace: Callable[..., Workspace]) -> None:
    channelwise = {"quantizer": "uniform", "granularity": "channel", "range": "minmax"}
    work = workspace(tiny("vit"), method({"quantizer": "adalog"}, post_norm=channelwise), activation=4)
    run(work, CALIBRATE)
    with refuses(ValueError, key="granularity", value="channel", valid=GRANULARITIES):
        run(work, {"do": "output_search", "kinds": ["post_norm"]})


@pytest.mark.parametrize(
    ("kind", "granularity", "folded", "wrong"),
    [
        ("post_norm", "channel", True, False),
        ("post_norm", "channel", False, True),
        ("post_norm", "token", False, False),
        ("value", "head_channel", False, False),
        ("value", "token", False, True),
        ("key", "head_channel", False, True),
        ("probs", "head_token", False, False),
    ],
)
def test_what_it_cannot_search_is_known_before_anything_starts(
    workspace: Callable[..., Workspace], kind: str, granularity: str, folded: bool, wrong: bool
) -> None:
    """As it is when the step runs."""
    steps: dict[str, Any] = {"ranges": {"do": "calibrate"}, "fold": {"do": "reparameterize", "enabled": folded}}
    steps["search"] = {"do": "output_search", "kinds": [kind], "rounds": 0}
    uniform = {"quantizer": "uniform", "granularity": granularity}
    recipe = {**method({"quantizer": "uniform"}), "steps": steps}
    recipe["kinds"][kind] = uniform
    work = workspace(tiny("vit"), recipe, activation=4)
    network = Network(work.config, lambda: equipped(work.config, tiny("vit")))
    step, problems = parse_step("search", steps["search"])
    assert isinstance(step, OutputSearch), problems
    found = [(problem.key, problem.value) for problem in step.check_network(network)]
    assert found == ([("granularity", granularity)] if wrong else [])
    run(work, *[raw for raw in list(steps.values())[:-1] if raw.get("enabled", True)])
    with refuses(ValueError, key="granularity", value=granularity) if wrong else nullcontext():
        run(work, steps["search"])


@torch.no_grad()
def test_images_of_several_sizes_are_judged_together(tmp_path: Path) -> None:
    """A detector's MLP, which reads (1, H·W, C) of each image: the error is the sum over the images."""
    detectors = Detectors(tmp_path)
    kinds = {"default": {"quantizer": "uniform"}, "weight": {"quantizer": "uniform", "granularity": "channel"}}
    plain = {"name": "ranges", "kinds": kinds, "steps": {"ranges": {"do": "calibrate"}}}
    calib = {"size": 4, "batch_size": 1}
    work = detectors.workspace(detectors.config(plain, bits={"weight": 4, "activation": 3}, calib=calib))
    product = work.model.layer("backbone.body.layers.0.blocks.0.mlp.fc1")
    assert isinstance(product, QuantLinear)
    walk = in_block(work)
    found, _ = _arriving(walk, product, None)
    assert [operands[0].ndim for operands in found] == [3] * 4
    assert len({operands[0].shape for operands in found}) > 1
    weight = product.weight_site(product.weight).double()

    def error() -> float:
        parts = [(product.input_site(x).double() - x.double()) @ weight.T for (x,) in found]
        return sum(float(part.square().sum()) for part in parts)

    before = error()
    search_site(OutputSearch(do="output_search", images=None), walk, product, product.input_site)
    assert error() < before
