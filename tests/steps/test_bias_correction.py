"""Bias correction: afterwards no layer's output is off on average."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.errors import is_about
from tests.tiny import images, part, run, tiny
from vitq.config import RunConfig
from vitq.engine import recipe_checks
from vitq.planning import compose
from vitq.steps import Workspace
from vitq.steps.bias_correction import mean_error
from vitq.steps.layer_walk import layers, quantized_walk, teacher_walk
from vitq.steps.step import parse_step

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
REPQ = {
    "kinds": {
        "weight": {"granularity": "channel"},
        "post_norm": {"granularity": "channel", "options": {"include_zero": False}},
        "default": {},
    }
}
CALIBRATE = {"do": "calibrate"}
CORRECT = {"do": "bias_correction"}
APPEND = "+method.steps.bias_correction={do: bias_correction}"
PREDICT = "+method.steps.predict={do: predict_scales}"


def errors(work: Workspace, input_: str = "fp") -> dict[str, Tensor]:
    """Mean output error of every layer of the network as it stands."""
    quantized, exact = quantized_walk(work), teacher_walk(work)
    found = {}
    for name, _ in layers(work, [quantized, exact], "errors"):
        if input_ == "quantized":
            exact.inputs = quantized.inputs
        found[name] = mean_error(quantized, exact, name)
    return found


@pytest.mark.parametrize("input_", ["fp", "quantized"])
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_mean_error_of_every_layer_becomes_zero(workspace: Make, family: str, input_: str) -> None:
    work = workspace(tiny(family), REPQ, weight=3, activation=3)
    run(work, {"do": "calibrate", "sites": "activations"}, {"do": "reparameterize"}, {**CALIBRATE, "sites": "weights"})
    before = errors(work, input_)
    run(work, {**CORRECT, "input": input_})
    after = errors(work, input_)
    assert list(before) == list(after)
    assert set(after) == set(work.model.structure.inputs)
    for name, error in after.items():
        assert float(before[name].abs().max()) > 1e-3, f"{name}: nothing to correct, the test shows nothing"
        assert float(error.abs().max()) < 1e-5, name


@torch.no_grad()
def test_it_equals_the_float64_reference(workspace: Make) -> None:
    """The first layer by hand: b − mean over images and patches of (W̄x − Wx)."""
    model = tiny("vit")
    weight, bias = (part(model, "patch_embed.proj").get_parameter(n).detach().double() for n in ("weight", "bias"))
    work = workspace(model, UNIFORM, weight=3, activation=4)
    run(work, CALIBRATE)
    layer = part(work.model.model, "patch_embed.proj")
    quantized = layer.weight_site(layer.weight).double()
    patches = images(work).double().unfold(2, 8, 8).unfold(3, 8, 8)  # (B, 3, 4, 4, 8, 8)
    expected = bias - torch.einsum("bcijkl,ockl->boij", patches, quantized - weight).mean(dim=(0, 2, 3))
    run(work, CORRECT)
    assert torch.allclose(layer.bias.double(), expected, atol=1e-6)


def test_batches_do_not_matter_and_a_layer_without_bias_gets_one(workspace: Make) -> None:
    found = []
    for size in (3, 16):
        work = workspace(tiny("swin"), UNIFORM, weight=3, activation=3)
        object.__setattr__(work.config.calib, "batch_size", size)
        assert part(work.model.model, "layers.1.downsample.reduction").bias is None
        run(work, CALIBRATE, CORRECT)
        found.append(part(work.model.model, "layers.1.downsample.reduction").bias)
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert float(found[0].abs().max()) > 1e-3


def test_a_network_that_is_exact_stays(workspace: Make) -> None:
    work = workspace(tiny("vit"), UNIFORM, weight=3, activation=3)
    before = {name: p.detach().clone() for name, p in work.model.model.named_parameters()}
    run(work, CORRECT)  # nothing is calibrated: all sites are off
    for name, parameter in work.model.model.named_parameters():
        assert torch.allclose(parameter, before[name], atol=1e-6), name


@torch.no_grad()
def test_it_brings_the_output_closer_to_full_precision(workspace: Make) -> None:
    distance = {}
    for steps in ((CALIBRATE,), (CALIBRATE, CORRECT)):
        work = workspace(tiny("vit"), UNIFORM, images=32, weight=3, activation=4)
        run(work, *steps)
        x = images(work)
        quantized = work.model(x)
        for segment in work.teacher.segments:
            x = segment.forward(x)
        distance[len(steps)] = float((quantized - x).square().mean())
    assert distance[2] < distance[1]


def composed(*overrides: str) -> list[RunConfig]:
    """The configs of a sweep."""
    file, roots = compose.root_config()
    configs = []
    for cell in compose.expand(compose.load(file, roots, overrides, multirun=True)):
        assert cell.problem is None
        config, problems = RunConfig.parse(cell.raw)
        assert config is not None, problems
        configs.append(config)
    return configs


def test_one_override_appends_it_to_any_recipe_but_one_that_must_end_as_it_does(repo: Path) -> None:
    methods = sorted(path.stem for path in (repo / "conf" / "method").glob("*.yaml"))
    configs = composed(f"method={','.join(methods)}", APPEND)
    assert all(list(config.method.steps)[-1] == "bias_correction" for config in configs)
    found = {method: recipe_checks.problems(config) for method, config in zip(methods, configs, strict=True)}
    (problem,) = found.pop("scale_predictor")
    assert is_about(problem, "method.steps.predict", "bias_correction")
    for method in ("aphq_vit", "glf_q"):
        (problem,) = found.pop(method)
        assert is_about(problem, "method.steps.mlp", "bias_correction")
    assert not any(found.values())


def test_a_step_that_must_be_last_is_deleted_and_appended_again(repo: Path) -> None:
    """As docs/methods/steps.md says; the step has its defaults in scale_predictor's recipe, so it is the same again."""
    documented = (repo / "docs" / "methods" / "steps.md").read_text(encoding="utf-8")
    assert f"'~method.steps.predict' \\\n  '{APPEND}' '{PREDICT}'" in documented
    (plain,) = composed("method=scale_predictor")
    (config,) = composed("method=scale_predictor", "~method.steps.predict", APPEND, PREDICT)
    assert recipe_checks.problems(config) == []
    *before, correction, predict = config.method.steps
    assert [*before, predict] == list(plain.method.steps)
    assert correction == "bias_correction"
    parsed = [parse_step(predict, method.method.steps[predict])[0] for method in (plain, config)]
    assert parsed[0] == parsed[1]
