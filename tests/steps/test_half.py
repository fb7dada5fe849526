"""The step `half`: what has no codes is exact in float16, in the model and in its packed checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from tests.deploy.test_packed import logits, quantized, recipe
from tests.tiny import tiny
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.engine.recipe_checks import problems
from vitq.quant.site_table import model_bytes, quantized_bytes
from vitq.steps import Workspace
from vitq.steps.half import round_

Make = Callable[..., Workspace]


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_rounding(values: list[float]) -> None:
    x = torch.tensor(values)
    y = x.clone()
    round_(y, least=2.0**-14)
    inside = ((x.abs() >= 2.0**-14) & (x.abs() <= 65504)) | (x == 0)
    assert torch.equal(y[~inside], x[~inside])
    assert torch.equal(y[inside], y[inside].half().float())
    # Half a unit in the last of eleven places.
    assert bool(((y - x).abs()[inside] <= x.abs()[inside] * 2.0**-11).all())
    z = x.clone()
    round_(z)
    assert torch.equal(z[x.abs() <= 65504], x[x.abs() <= 65504].half().float())


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("name", ["repq_vit", "mptq_vit", "erq"])
def test_the_file_holds_halves_and_the_model_is_the_same(
    workspace: Make, tmp_path: Path, family: str, name: str
) -> None:
    sizes, counted = {}, {}
    for half in (False, True):
        method = recipe(name)
        if half:
            method["steps"]["half"] = {"do": "half"}
        work, config = quantized(workspace, family, method, weight=4, activation=4)
        path = tmp_path / "model.safetensors"
        sizes[half] = save_packed(work.model, config, model_bytes(tiny(family)), path)
        counted[half] = quantized_bytes(work.model, model_bytes(work.model.model))
    assert torch.equal(logits(load_packed(path).model, work), logits(work.model, work))
    with safe_open(path, framework="pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    floats = [key for key, tensor in kept.items() if tensor.dtype == torch.float32]
    assert floats == []
    halves = sum(tensor.nbytes for tensor in kept.values() if tensor.dtype == torch.float16)
    # Whole numbers are a byte each, in either file.
    assert sizes[False] - sizes[True] == pytest.approx(halves, rel=0.02)
    assert counted[False] - counted[True] == pytest.approx(halves, rel=0.05)


def test_weights_keep_codes_of_their_new_scales(workspace: Make) -> None:
    method = recipe("minmax")
    method["steps"]["half"] = {"do": "half"}
    work, _ = quantized(workspace, "vit", method, weight=4, activation=8)
    for site in work.model.quantized():
        if site.is_weight and site.quantizer is not None:
            weight = work.model.layer(site).weight
            error = (site(weight) - weight).detach().abs() / site.quantizer.get_buffer("scale").view(
                -1, *(1,) * (weight.ndim - 1)
            )
            # Half a step; at the ends of the range the rounded scale may fall short by 15/2^11 of one.
            assert float(error.max()) < 0.51


def test_it_has_to_be_the_last_step(workspace: Make) -> None:
    method = recipe("minmax")
    method["steps"] = {"half": {"do": "half"}, **method["steps"]}
    work = workspace(tiny("vit"), method)
    assert any(problem.key == "method.steps.half" for problem in problems(work.config))
