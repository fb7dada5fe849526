"""Steps on detectors: each works, its model is packed and read back bit for bit, or the plan refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.errors import is_about
from tests.job.test_detectors import CONF, LEARNING, Detectors
from tests.models.detection.test_detector import assert_same
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.engine.network_checks import misfits, network_problems
from vitq.engine.recipe_checks import problems
from vitq.methods.gptq import hessian, solve
from vitq.models.load import load_model
from vitq.models.structure import structure_of
from vitq.progress import Progress
from vitq.quant.site_table import model_bytes
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.layer_walk import layers, quantized_walk, teacher_walk
from vitq.steps.reconstruction.fisher import gradients
from vitq.steps.value_stream import made
from vitq.steps.weight_grid import Grid, put_weight

BITS = {"weight": 4, "activation": 4}
ONE = {"size": 1, "batch_size": 1}


@pytest.fixture
def detectors(tmp_path: Path) -> Detectors:
    return Detectors(tmp_path)


def recipe(name: str, **steps: dict[str, Any]) -> dict[str, Any]:
    """A recipe of ours with further steps."""
    read: dict[str, Any] = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    for do, options in steps.items():
        read["steps"][do] = {**read["steps"].get(do, {"do": do}), **options}
    return read


MADE = {
    "gptq": recipe("gptq"),
    "erq": recipe("erq"),
    "rols": recipe("rols", weights={"ranges": 2, "sweeps": 1}),
    "bias_correction": recipe("minmax", bias_correction={}, half={}),
    "mptq_vit": recipe("mptq_vit", sq_b={"candidates": [0.3, 0.7]}),
    "aocq": recipe("aocq", operator={"candidates": [0.3, 0.7]}, framework={"iterations": 1}, loss={"iterations": 1}),
    "mixed_precision": recipe("mixed_precision", allocate={"widths": [3, 8], "images": 1, "policy": "uniform"}),
    "ptq4vit": recipe("ptq4vit", search={"rounds": 1, "candidates": 6, "coarse": 3}),
    "aphq_vit": recipe("aphq_vit", mlp={"iterations": 1}, search={"rounds": 0, "images": 1}, learn={"iterations": 1}),
    "fima_q": recipe(
        "fima_q",
        reparameterize={"granularity": "tensor"},
        search={"rounds": 0, "images": 1},
        learn={"iterations": 1},
    ),
    "glf_q": recipe("glf_q", mlp={"iterations": 1}, learn={"iterations": 1}),
    "ls_vit": recipe("ls_vit", search={"rounds": 0, "images": 1}, learn={"iterations": 1}),
    "rols_distill": recipe(
        "rols_distill",
        search={"rounds": 0, "images": 1},
        weights={"ranges": 2, "sweeps": 1},
        distill={"iterations": 1, "autocast": "none"},
    ),
}

# Images of their own sizes have no positions in common.
MADE["fima_q"]["kinds"]["post_gelu"]["granularity"] = "tensor"


@pytest.mark.parametrize("name", MADE)
def test_a_packed_detector_finds_the_same(detectors: Detectors, name: str, tmp_path: Path) -> None:
    config = detectors.config(MADE[name], bits=BITS, calib=ONE)
    assert problems(config) == []
    assert network_problems(config) == []
    assert misfits(config) == []
    work = detectors.workspace(config)
    left = [s.name for s in work.model.quantized() if not (s.on and s.quantizer is not None and s.quantizer.fitted)]
    assert left == []
    path = tmp_path / "packed.safetensors"
    size = save_packed(work.model.eval(), config, model_bytes(work.model.model), path)
    again = load_packed(path)
    assert size == path.stat().st_size < 0.5 * again.float_bytes
    with torch.no_grad():
        for batch in work.batches():
            assert_same(work.model(batch), again.model(batch))


def test_a_layer_that_runs_for_each_level_gives_all_its_inputs(detectors: Detectors) -> None:
    work = detectors.workspace(detectors.config())
    walk, seen = quantized_walk(work), {}
    for name, layer in layers(work, [walk], "look"):
        if name in ("rpn.head.conv.0.0", "rpn.head.cls_logits", "roi_heads.box_head.fc6"):
            seen[name] = [tuple(x.shape) for x in walk.arriving(f"{name}.input_site")]
            assert all(x.shape[-1] > 0 for x in walk.arriving(name))
        assert layer.weight.ndim in (2, 4)
    batches: list[Any] = list(work.batches())
    sizes = [batch.sizes[0].tolist() for batch in batches]
    levels = [
        (1, 16, *(-(-side // stride) for side in (-(-h // 32) * 32, -(-w // 32) * 32)))
        for h, w in sizes
        for stride in (4, 8, 16, 32, 64)
    ]
    assert seen["rpn.head.conv.0.0"] == seen["rpn.head.cls_logits"] == levels
    assert len(seen["roi_heads.box_head.fc6"]) == len(sizes)


def _error(weights: Tensor, exact: Tensor, inputs: list[Tensor]) -> float:
    """Σ‖(Ŵ − W) * x‖² of the convolution that all levels of the pyramid pass."""
    return sum(float(torch.conv2d(x, weights - exact, padding=1).double().square().sum()) for x in inputs)


def test_a_closed_form_lowers_the_error_over_all_levels(detectors: Detectors) -> None:
    """The heads' first convolution by GPTQ against rounding to nearest, on what all five levels give it."""
    name, bits = "rpn.head.conv.0.0", {"weight": 3, "activation": 8}
    config = detectors.config("minmax", bits=bits, calib=ONE)
    exact = load_model(config.model, config.data, config.cache_dir, Progress()).get_parameter(f"{name}.weight").detach()
    work = detectors.workspace(config)
    layer, walk = work.model.layer(name), quantized_walk(work)
    errors = []
    for found, _ in layers(work, [walk], "look"):
        if found == name:
            inputs = [layer.input_site(x) for x in walk.arriving(f"{name}.input_site")]
            errors.append(_error(layer.weight_site(layer.weight).detach(), exact, inputs))
            site = layer.weight_site
            assert isinstance(site.quantizer, UniformQuantizer)
            grid = Grid.of(site.quantizer, layer.weight.data)
            put_weight(layer, solve(layer.weight.data.flatten(1).double(), hessian(walk, layer, name), grid))
            errors.append(_error(layer.weight_site(layer.weight).detach(), exact, inputs))
    assert len(inputs) == 5
    assert 0 < errors[1] < errors[0]


def test_bias_correction_takes_out_the_mean_error(detectors: Detectors) -> None:
    """Of backbone and pyramid; heads keep their biases."""
    config = detectors.config(recipe("minmax", bias_correction={}), bits={"weight": 3, "activation": 8})
    work = detectors.workspace(config)
    before = load_model(config.model, config.data, config.cache_dir, Progress()).state_dict()
    after = work.model.model.state_dict()
    heads = [name for name in before if name.startswith(("rpn", "roi_heads")) and name.endswith("bias")]
    assert heads
    assert all(torch.equal(before[name], after[name]) for name in heads)
    walk, exact = quantized_walk(work), teacher_walk(work)
    for name, layer in layers(work, [walk, exact], "look"):
        if name != "backbone.fpn.layer_blocks.0.0":
            continue
        pairs = list(zip(walk.arriving(name), exact.arriving(name), strict=True))
        outputs = [(layer(x) - exact.module(name)(y)).movedim(1, -1).flatten(0, -2) for x, y in pairs]
        mean = torch.cat(outputs).detach().mean(dim=0)
        size = float(torch.cat(outputs).detach().abs().mean())
        assert float(mean.abs().max()) < 1e-3 * size


def test_the_task_s_gradients_are_the_backward_pass_s_own(detectors: Detectors) -> None:
    """At the outputs of each segment, against one backward pass that keeps them all; handed on tensors have none."""
    steps = {**LEARNING["steps"], "learn": {**LEARNING["steps"]["learn"], "iterations": 1}}
    work = detectors.workspace(detectors.config({**LEARNING, "steps": steps}))
    streams = gradients(work)
    comparison = work.teacher.comparison
    assert comparison is not None
    generator = torch.Generator().manual_seed(work.config.seed)
    images: list[Any] = list(work.batches())
    squares, counts = [0.0] * len(streams), [0] * len(streams)
    for index, image in enumerate(images):
        image.pixels.requires_grad_(True)
        value: Any = image
        kept: list[list[Tensor]] = []
        for segment in work.teacher.segments[:-1]:
            given, value = value, segment.forward(value)
            kept.append(list(made(given, value)))
            for tensor in kept[-1]:
                tensor.retain_grad()
        found = comparison.dense(value, comparison.fixed(value))
        comparison.likelihood(found, generator).backward()
        for number, tensors in enumerate(kept):
            stored = streams[number].select(torch.tensor([index]))
            assert len(stored) == len(tensors) == (5 if number == len(kept) - 1 else 1)
            for own, tensor in zip(stored, tensors, strict=True):
                assert tensor.grad is not None
                assert own.shape == tensor.shape
                cosine = torch.cosine_similarity(own.flatten().double(), tensor.grad.flatten().double(), dim=0)
                assert float(cosine) > 0.999 or not tensor.grad.any()
                squares[number] += float(own.double().square().sum())
                counts[number] += own.numel()
    means = [square / count for square, count in zip(squares, counts, strict=True) if count]
    assert means == [pytest.approx(1, rel=1e-4)] * (len(streams) - 1)


def test_fisher_losses_learn_all_but_the_heads(detectors: Detectors) -> None:
    ranges, learn = {"do": "calibrate"}, {"do": "reconstruct", "iterations": 1, "batch_size": 1}
    kinds = {"default": {"quantizer": "uniform"}, "weight": {"quantizer": "uniform", "granularity": "channel"}}
    curves = {}
    for loss in ("mse", "fisher_diag"):
        # A name of its own: finished segments of a step are taken up again.
        steps = {"ranges": ranges, loss: {**learn, "loss": loss}}
        config = detectors.config({"name": loss, "kinds": kinds, "steps": steps}, bits=BITS)
        assert problems(config) == []
        curves[loss] = {name: losses[0] for name, losses in detectors.workspace(config).curves.items()}
        assert {n: c.tolist() for n, c in curves[loss].items() if not bool(((c > 0) & c.isfinite()).all())} == {}
    assert list(curves["mse"]) == list(curves["fisher_diag"])
    assert not any(torch.allclose(curves["mse"][name], curves["fisher_diag"][name]) for name in curves["mse"])


@torch.no_grad()
def test_rotation_changes_no_feature(detectors: Detectors) -> None:
    only = {"name": "turn", "kinds": {}, "steps": {"rotate": {"do": "rotate", "matrix": "random"}}}
    config = detectors.config(only)
    plain = load_model(config.model, config.data, config.cache_dir, Progress()).eval()
    work = detectors.workspace(config)
    turned = structure_of(plain).rotatable
    assert [stream.fixed == "" for stream in turned.streams] == [False, True, True, True]
    name = "backbone.body.layers.2.blocks.0.mlp.fc2.weight"
    assert not torch.allclose(plain.get_parameter(name), work.model.model.get_parameter(name), atol=1e-2)
    batches: list[Any] = list(work.batches())
    for batch in batches:
        want, given = (m.get_submodule("backbone")(batch.pixels) for m in (plain, work.model.model))
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(want, given, strict=True))


# What the plan refuses of recipes that do not work on detectors: key and value.
REFUSED = {"fima_q": [("method.steps.reparameterize.granularity", "token")]}


def test_recipes_work_or_are_refused_with_the_reason(detectors: Detectors) -> None:
    refused: dict[str, list[tuple[str, object]]] = {}
    for file in sorted((CONF / "method").glob("*.yaml")):
        if "base" not in yaml.safe_load(file.read_text()):  # which is taken in when the run is planned
            found = problems(detectors.config(file.stem, bits=BITS))
            refused |= {file.stem: [(problem.key, problem.value) for problem in found]} if found else {}
    assert refused == REFUSED


def test_a_scale_for_each_position_needs_images_of_one_size(detectors: Detectors) -> None:
    """FIMA-Q's: positions within a window are the same in all images, those of an image are not."""
    read = recipe("fima_q", reparameterize={"granularity": "tensor"}, search={"rounds": 0}, learn={"iterations": 1})
    config = detectors.config(read, bits=BITS, calib=ONE)
    assert problems(config) == []
    (wrong,) = misfits(config)
    assert is_about(wrong, "method.kinds.post_gelu.granularity", "token", ["tensor", "channel"])
    read["kinds"]["post_gelu"]["granularity"] = "tensor"
    config = detectors.config(read, bits=BITS, calib={"size": 2, "batch_size": 1})
    assert misfits(config) == []
    curves = {name: losses[0] for name, losses in detectors.workspace(config).curves.items()}
    assert len(curves) == 13
    assert all(bool(((c > 0) & c.isfinite()).all()) for c in curves.values())


def test_options_without_a_meaning_on_detectors(detectors: Detectors) -> None:
    fp = recipe("erq", erq={"reference": "fp"})
    (wrong,) = problems(detectors.config(fp, bits=BITS))
    assert is_about(wrong, "method.steps.erq.reference", "fp", ["quantized"])
    operations = recipe("mixed_precision", allocate={"bops": 1e9})
    (wrong,) = problems(detectors.config(operations, bits=BITS))
    assert is_about(wrong, "method.steps.allocate.bops", 1e9)
