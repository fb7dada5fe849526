"""Rotation changes no output: every variant of every family, the teacher, packed files and ONNX."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.errors import refuses
from tests.models.test_anatomy import SMALL, SWIN, VARIANTS, images, variant
from tests.tiny import images as calibration_images
from tests.tiny import part, run, tiny
from vitq.config import RunConfig
from vitq.engine.recipe_checks import problems as recipe_problems
from vitq.models.structure import structure_of
from vitq.quant.model import QuantizedModel
from vitq.steps import Workspace
from vitq.steps.orthogonal import mean_preserving
from vitq.steps.rotate import Edit, Rotate, rotate_heads, rotate_stream
from vitq.steps.step import Network

ROTATE: dict[str, Any] = {"do": "rotate"}
UNIFORM = {"kinds": {"default": {"quantizer": "uniform", "granularity": "tensor", "range": "minmax"}}, "steps": {}}
EVA = "eva02_tiny_patch14_224"  # rotary embeddings stand between query, key and their product
MORE = [
    ("vit_tiny_patch16_224", {**SMALL, "mlp_layer": timm.layers.SwiGLU}),
    ("vit_tiny_patch16_224", {**SMALL, "norm_layer": "rmsnorm"}),
    ("vit_tiny_patch16_224", {**SMALL, "no_embed_class": True, "reg_tokens": 3}),
    ("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 40, "window_size": 4}),  # padded windows
]


def rotated(model: nn.Module, **options: Any) -> nn.Module:
    """The parts of a plain timm model that can be rotated, rotated."""
    found = structure_of(model).rotatable
    edit, generator = Edit(model), torch.Generator().manual_seed(3)
    for stream in found.streams:
        if not stream.fixed and options.get("stream", True):
            rotate_stream(edit, stream, mean_preserving(stream.width, generator, "random"))
    for head in found.heads:
        random = [torch.linalg.qr(torch.randn(head.heads, head.size, head.size).double()).Q for _ in range(2)]
        rotate_heads(edit, head, None if head.fixed_qk else random[0], None if head.fixed_vo else random[1])
    edit.write()
    return model


# Variants of the table, narrower: base models differ from these in size alone.
CHOSEN = [
    (name, kwargs if name.startswith("swin") else {**kwargs, **SMALL, "embed_dim": 96, "num_heads": 3})
    for name, kwargs in VARIANTS
    if name not in ("vit_base_patch16_224", "swin_s3_tiny_224")
]


@pytest.mark.parametrize(("name", "kwargs"), [*CHOSEN, *MORE], ids=lambda v: v if isinstance(v, str) else "")
@torch.no_grad()
def test_every_variant_computes_what_it_did(name: str, kwargs: dict[str, Any]) -> None:
    model = variant(name, kwargs)
    x = images(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected, exact = model(x), copy.deepcopy(model).double()(x.double())
    assert (rotated(copy.deepcopy(model))(x) - expected).abs().max() < 1e-4
    wide = rotated(model.double())
    assert (wide(x.double()) - exact).abs().max() < 1e-10, "exact, but for rounding"
    stream = any(not stream.fixed for stream in structure_of(model).rotatable.streams)
    for layer, changed in (("mlp", stream), ("attn.proj", True)):
        weights = [name for name in before if name.endswith("weight") and f".{layer}" in name]
        assert changed == any(not torch.equal(wide.state_dict()[name].float(), before[name]) for name in weights)


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("off", [None, "stream", "heads_qk", "heads_vo"])
@torch.no_grad()
def test_the_step_and_its_switches(workspace: Callable[..., Workspace], family: str, off: str | None) -> None:
    work = workspace(tiny(family), UNIFORM)
    x = calibration_images(work)
    expected = work.model(x)
    before = copy.deepcopy(work.model.model)
    run(work, {**ROTATE, **({off: False} if off else {})})
    assert (work.model(x) - expected).abs().max() < 1e-4
    assert (work.teach(x) - expected).abs().max() < 1e-4
    inner = "blocks.1" if family == "vit" else "layers.1.blocks.1"

    def differs(name: str) -> bool:
        return not torch.equal(part(before, f"{inner}.{name}").weight, part(work.model.model, f"{inner}.{name}").weight)

    assert differs("mlp.fc1") == (off != "stream")
    assert differs("attn.proj")
    query, value = (part(work.model.model, f"{inner}.attn.qkv").weight.chunk(3)[i] for i in (0, 2))
    before_query, before_value = (part(before, f"{inner}.attn.qkv").weight.chunk(3)[i] for i in (0, 2))
    if off == "stream":
        assert not torch.equal(query, before_query)
        assert not torch.equal(value, before_value)
    # Without its heads a part is folded and rotated from the right alone: its Gram matrix over rows stays.
    norm = part(before, f"{inner}.norm1").weight
    for now, old, kept in ((query, before_query, off == "heads_qk"), (value, before_value, off == "heads_vo")):
        old = old if off == "stream" else old * norm
        assert torch.allclose(now @ now.T, old @ old.T, atol=1e-4) == kept
    if family == "swin":
        first = part(work.model.model, "layers.0.blocks.0.mlp.fc1").weight
        assert torch.equal(first, part(before, "layers.0.blocks.0.mlp.fc1").weight), "stage 0 keeps its coordinates"


@torch.no_grad()
def test_the_teacher_lives_in_the_same_coordinates(workspace: Callable[..., Workspace]) -> None:
    model = tiny("vit")
    untouched = structure_of(copy.deepcopy(model))
    work = workspace(model, UNIFORM)
    run(work, ROTATE)
    x, same, other = (calibration_images(work)[:4] for _ in range(3))
    for student, teacher, old in zip(
        work.model.structure.segments[:-1], work.teacher.segments, untouched.segments, strict=False
    ):
        x, same, other = student.forward(x), teacher.forward(same), old.forward(other)
        assert (x - same).abs().max() < 1e-4
        assert (x - other).abs().max() > 1e-2


@torch.no_grad()
def test_norms_are_bare_and_layer_scale_is_folded() -> None:
    model = rotated(variant("vit_tiny_patch16_224", {**SMALL, "init_values": 0.1}))
    for name in ("blocks.0.norm1", "blocks.1.norm2", "norm"):
        norm = part(model, name)
        assert torch.equal(norm.weight, torch.ones(192))
        assert torch.equal(norm.bias, torch.zeros(192))
    assert torch.equal(part(model, "blocks.0.ls1").gamma, torch.ones(192))


@torch.no_grad()
def test_a_channel_of_weight_zero_is_no_obstacle() -> None:
    """DeiT-tiny has two: a constant channel behind the norm."""
    model = variant("deit_tiny_patch16_224", SMALL)
    part(model, "blocks.1.norm1").weight[5] = 0
    part(model, "blocks.0.norm2").weight[7] = 0
    x = images(model)
    expected = model(x)
    assert (rotated(model)(x) - expected).abs().max() < 1e-4


@torch.no_grad()
def test_a_constant_channel_in_front_of_padding_is_refused() -> None:
    model = variant("swin_tiny_patch4_window7_224", {**SWIN, "img_size": 40, "window_size": 4})
    part(model, "layers.1.blocks.0.norm1").weight[5] = 0
    with refuses(ValueError, key="stream", value="layers.1.blocks.0.norm1", valid=[False]):
        rotated(model)


@torch.no_grad()
def test_the_sharp_channels_of_a_stream_are_spread(workspace: Callable[..., Workspace]) -> None:
    model = tiny("vit")
    part(model, "patch_embed.proj").bias.data[3] += 200
    work = workspace(model, UNIFORM)

    def peak() -> float:
        x = work.model.structure.segments[0].forward(calibration_images(work))
        return float(x.abs().max() / x.square().mean().sqrt())

    before = peak()
    run(work, ROTATE)
    assert before > 6
    assert peak() < before / 2


def _network(name: str, kwargs: dict[str, Any]) -> Network:
    config, problems = RunConfig.parse(
        {"model": {"name": name, "input_size": 32}, "data": {"name": "random"}, "method": {"name": "t", **UNIFORM}}
    )
    assert config is not None, problems
    return Network(config, lambda: QuantizedModel(timm.create_model(name, pretrained=False, **kwargs)))


@pytest.mark.parametrize(
    ("name", "extra", "part_", "value", "reason"),
    [
        ("vit_tiny_patch16_224", {"qk_norm": True}, "heads_qk", True, "q_norm"),
        ("vit_tiny_patch16_224", {"scale_attn_norm": True}, "heads_vo", True, "attn.norm"),
        ("vit_tiny_patch16_224", {"pre_norm": True}, "stream", True, "norm_pre"),
        ("vit_tiny_patch16_224", {"global_pool": "max", "class_token": False}, "stream", True, "max"),
        ("vit_tiny_patch16_224", {"embed_dim": 92, "num_heads": 4}, "stream", 92, "matrix=random"),
    ],
)
def test_what_cannot_be_exact_is_refused_in_the_plan(
    name: str, extra: dict[str, Any], part_: str, value: object, reason: str
) -> None:
    network = _network(name, {**SMALL, **extra})
    asked: dict[str, Any] = {part_: True}
    (problem,) = [problem for problem in Rotate(do="rotate", **asked).check_network(network) if problem.key == part_]
    assert problem.value == value
    assert reason in problem
    off: dict[str, Any] = {part_: False}
    assert not [p for p in Rotate(do="rotate", **off).check_network(network) if p.key == part_]


def test_what_cannot_be_exact_is_left_out_where_it_is_not_asked_for(workspace: Callable[..., Workspace]) -> None:
    """Query and key of a network with rotary embeddings; its stream and values are rotated as ever."""
    network = _network(EVA, SMALL)
    structure = network.model.structure
    assert Rotate(do="rotate").check_network(network) == []
    (line,) = Rotate(do="rotate").left_out(network.config, structure)
    assert line.startswith("heads_qk is left out: ")
    assert Rotate(do="rotate", heads_qk=False).left_out(network.config, structure) == []
    with_it, without, before = (workspace(variant(EVA, SMALL), UNIFORM) for _ in range(3))
    x = calibration_images(with_it)
    run(with_it, ROTATE)
    run(without, {**ROTATE, "heads_qk": False})
    with torch.no_grad():
        assert (with_it.model(x) - before.model(x)).abs().max() < 1e-4
    for name, value in with_it.model.state_dict().items():
        assert torch.equal(value, without.model.state_dict()[name])
    old, new = (part(work.model.model, "blocks.0.attn.proj").weight for work in (before, with_it))
    assert not torch.allclose(old.T @ old, new.T @ new, atol=1e-2), "columns of values are turned"


def test_a_width_without_a_hadamard_matrix_takes_a_random_one() -> None:
    network = _network("vit_tiny_patch16_224", {**SMALL, "embed_dim": 92, "num_heads": 4})
    assert not Rotate(do="rotate", matrix="random").check_network(network)


@pytest.mark.parametrize(("width", "heads", "off"), [(92, 23, ["stream"]), (36, 2, ["heads_qk", "heads_vo"])])
@torch.no_grad()
def test_a_part_that_is_switched_off_needs_no_matrix(
    workspace: Callable[..., Workspace], width: int, heads: int, off: list[str]
) -> None:
    model = variant("vit_tiny_patch16_224", {**SMALL, "embed_dim": width, "num_heads": heads})
    work = workspace(model, UNIFORM)
    x = calibration_images(work)
    expected, before = work.model(x), copy.deepcopy(work.model.model)
    run(work, {**ROTATE, **dict.fromkeys(off, False)})
    assert (work.model(x) - expected).abs().max() < 1e-4
    name = "blocks.0.attn.qkv" if off == ["stream"] else "blocks.0.mlp.fc1"
    assert not torch.equal(part(before, name).weight, part(work.model.model, name).weight)


def test_it_must_come_first() -> None:
    calibrate = {"do": "calibrate"}
    for steps, wrong in (
        ({"rotate": ROTATE, "ranges": calibrate}, []),
        ({"ranges": calibrate, "rotate": ROTATE}, [("method.steps.rotate", "ranges")]),
        ({"rotate": ROTATE, "again": ROTATE, "ranges": calibrate}, [("method.steps.again", "rotate")]),
        ({"none": {**calibrate, "enabled": False}, "rotate": ROTATE, "ranges": calibrate}, []),
        ({"rotate": {**ROTATE, "stream": False, "heads_qk": False, "heads_vo": False}, "ranges": calibrate},
         [("method.steps.rotate.stream", False)]),
    ):  # fmt: skip
        raw = {
            "model": {"name": "tiny"},
            "data": {"name": "random"},
            "method": {"name": "t", **UNIFORM, "steps": steps},
        }
        config, problems = RunConfig.parse(raw)
        assert config is not None, problems
        assert [(problem.key, problem.value) for problem in recipe_problems(config)] == wrong


@torch.no_grad()
def test_the_seed_of_the_run_decides(workspace: Callable[..., Workspace]) -> None:
    found = []
    for options in ({}, {}, {"seed": 1}):
        work = workspace(tiny("vit"), UNIFORM)
        run(work, {**ROTATE, **options})
        found.append(part(work.model.model, "blocks.0.mlp.fc1").weight.clone())
        assert len(work.coordinates) == 1
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
