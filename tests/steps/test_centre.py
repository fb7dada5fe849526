"""Centre: keys and values of mean zero, and the network computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.models.families import CASES, network
from tests.tiny import images, run, tiny
from vitq.models.structure import structure_of
from vitq.quant.layers import QuantMatmul
from vitq.steps import Workspace
from vitq.steps.centre import Centre, joint_twins, sums_to_one
from vitq.steps.step import parse_step
from vitq.steps.weight_grid import add_bias

Make = Callable[..., Workspace]
METHOD: dict[str, Any] = {"kinds": {"default": {}}}
CENTRE: dict[str, Any] = {"do": "centre"}


def means(work: Workspace) -> dict[str, tuple[float, float]]:
    """Largest absolute mean over images and tokens of a channel of key and of value, by attention."""
    found: dict[str, tuple[float, float]] = {}
    right: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _m, args, name=name: right.update({name: args[1]}))
        for name, module in work.model.model.named_modules()
        if isinstance(module, QuantMatmul)
    ]
    with torch.no_grad():
        work.model(images(work))
    for handle in handles:
        handle.remove()
    for name, _ in joint_twins(work.model):
        key, value = (float(right[f"{name}.{part}"].mean(dim=(0, 2)).abs().max()) for part in ("scores", "context"))
        found[name] = key, value
    return found


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("family", ["vit", "swin"])
@torch.no_grad()
def test_means_vanish_and_the_output_stays(workspace: Make, family: str, parts: tuple[bool, bool]) -> None:
    work = workspace(tiny(family), METHOD)
    before, expected = means(work), work.model(images(work))
    run(work, {**CENTRE, "keys": parts[0], "values": parts[1]})
    after = means(work)
    assert before
    assert list(before) == list(after)
    assert (work.model(images(work)) - expected).abs().max() < 1e-5
    for name, (was, now) in ((name, (before[name], after[name])) for name in before):
        for part, wanted in enumerate(parts):
            assert was[part] > 1e-2, f"{name}: nothing to centre, the test shows nothing"
            assert now[part] < 1e-5 if wanted else now[part] > 1e-2, name


@torch.no_grad()
def test_few_bits_are_left_as_they_are(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD, activation=4, kinds={"key": 6, "value": 3})
    before = means(work)
    run(work, {**CENTRE, "least_bits": 4})
    for name, (key, value) in means(work).items():
        assert key < 1e-5 < before[name][0]
        assert value == pytest.approx(before[name][1], rel=1e-3)


def test_where_no_part_has_the_bits_no_image_is_looked_at(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = workspace(tiny("vit", qkv_bias=False), METHOD, activation=4)
    before = set(work.model.model.state_dict())
    monkeypatch.setattr(work, "batches", None)
    run(work, {**CENTRE, "least_bits": 5})
    assert set(work.model.model.state_dict()) == before, "no bias was made"


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_no_family_computes_anything_else(workspace: Make, case: str) -> None:
    work = workspace(network(case), METHOD, images=4)
    generator = torch.Generator().manual_seed(2)
    for name, _ in joint_twins(work.model):
        qkv = work.model.layer(f"{name}.qkv")
        # Means that are no rounding error.
        add_bias(qkv, torch.randn(len(qkv.weight), generator=generator).double())
    expected = work.model(images(work))
    left = Centre(do="centre").left_out(work.config, structure_of(network(case)))
    run(work, CENTRE)
    twins = [twin for _, twin in joint_twins(work.model)]
    there = [any(twin.bare_scores for twin in twins), any(sums_to_one(twin) for twin in twins)]
    assert len(left) == there.count(False)
    given = work.model(images(work))
    assert (given - expected).abs().max() <= 1e-4 * float(expected.abs().max().clamp(min=1))


def test_ranges_are_fitted_behind_it() -> None:
    step, problems = parse_step("centre", CENTRE)
    ranges, _ = parse_step("ranges", {"do": "calibrate", "sites": "activations"})
    assert step is not None
    assert ranges is not None
    assert not problems
    assert step.check_order([], [ranges]) == []
    (problem,) = step.check_order([ranges], [])
    assert problem.value == "ranges"


def test_a_step_that_does_nothing_is_refused(workspace: Make) -> None:
    work = workspace(tiny("vit"), METHOD)
    (problem,) = Centre(do="centre", keys=False, values=False).check(work.config)
    assert problem.key == "keys"
    (problem,) = Centre(do="centre", images=0).check(work.config)
    assert problem.key == "images"


@pytest.mark.parametrize("step", [{"do": "bias_correction"}, {"do": "channel_affine", "hold_out": 0.0}])
def test_what_was_taken_out_is_no_error_to_correct(workspace: Make, step: dict[str, Any]) -> None:
    """Steps behind it compare layers with those of full precision, whose keys and values have their means."""
    method = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
    work = workspace(tiny("vit"), method, weight=8, activation=8)
    before = means(work)
    run(work, CENTRE, {"do": "calibrate"}, step)
    for name, (key, value) in means(work).items():
        assert key < 0.1 * before[name][0]
        assert value < 0.1 * before[name][1]
    with torch.no_grad():
        wanted, given = work.teach(images(work)), work.model(images(work))
    assert (given - wanted).norm() < 0.1 * wanted.norm()
