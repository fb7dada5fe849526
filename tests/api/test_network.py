"""A model of the caller, quantized by one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vitq
from tests.tiny import tiny
from vitq.api.network import QuantizedNetwork
from vitq.engine.memory_cache import MEMORY
from vitq.errors import ConfigError, DataError, ModelError
from vitq.tasks.classification import metrics

pytestmark = pytest.mark.usefixtures("elsewhere")

RECIPE: dict[str, Any] = {
    "name": "mine",
    "kinds": {
        "weight": {"quantizer": "uniform", "granularity": "channel"},
        "default": {"quantizer": "uniform", "granularity": "tensor"},
    },
    "steps": {"all": {"do": "calibrate", "sites": "all"}},
}


def test_the_model_is_copied_and_nothing_is_left_behind(model: nn.Module, images: Tensor, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    switches = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    words = ["method.steps.allocate.widths=[3,5]"]
    q = vitq.quantize(model, "mixed_precision", bits="w4a4", images=images, overrides=words)  # which has a cache
    assert isinstance(q, nn.Module)
    assert q(images).shape == (16, 5)
    assert not torch.equal(q(images), model(images))
    assert {type(module).__name__ for module in model.modules()}.isdisjoint({"QuantLinear", "Site"})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == switches
    assert list(tmp_path.iterdir()) == []
    assert len(MEMORY) == 0
    assert set(q.tables) == {"allocation_path", "allocation_sensitivity"}


def test_sites_have_the_bits_and_the_errors_of_the_recipe(model: nn.Module, images: Tensor) -> None:
    table = vitq.quantize(model, "repq_vit", bits="w4a8", images=images).sites().set_index("site")
    weight = table.loc["blocks.1.attn.qkv.weight"]
    assert (weight.kind, weight["shape"], weight.bits) == ("weight", "144x48", 4)
    assert table.loc["blocks.0.attn.context.probs", "bits"] == 8
    assert table.loc["patch_embed.proj.input", "bits"] == 32
    assert (table.mse[table.bits < 32] > 0).all()
    assert table.mse[table.bits == 32].isna().all()


def test_sites_on_other_images(model: nn.Module, images: Tensor) -> None:
    q = vitq.quantize(model, "minmax", bits={"weight": 4, "activation": 4, "image": 8}, images=images)
    table, wider = q.sites(), q.sites(images * 3)
    weights = table.kind == "weight"
    assert table.mse[weights].equals(wider.mse[weights])
    # Three times as wide as what calibrated: clipped.
    assert float(wider.mse[wider.kind == "patch"].iloc[0]) > 100 * float(table.mse[table.kind == "patch"].iloc[0])


@pytest.mark.parametrize("batch_size", [4, 16])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_loader_is_as_good_as_a_tensor(model: nn.Module, images: Tensor, batch_size: int, labelled: bool) -> None:
    parts = (images, torch.arange(16) % 5) if labelled else (images,)
    loader = DataLoader(TensorDataset(*parts), batch_size=batch_size)
    q, other = (vitq.quantize(model, "repq_vit", bits="w4a4", images=given, seed=3) for given in (images, loader))
    assert torch.equal(q(images), other(images))
    if not labelled:
        assert q.config == other.config
    assert q.config.calib.size == 16
    assert q.config.seed == 3


def test_a_method_is_a_name_a_file_or_a_mapping(model: nn.Module, images: Tensor, tmp_path: Path, repo: Path) -> None:
    shipped = repo / "conf" / "method" / "repq_vit.yaml"
    forms: list[Any] = ["repq_vit", str(shipped), shipped, yaml.safe_load(shipped.read_text())]
    logits = [vitq.quantize(model, form, bits="w4a4", images=images)(images) for form in forms]
    assert all(torch.equal(logits[0], other) for other in logits[1:])
    assert vitq.quantize(model, RECIPE, bits="w4a4", images=images).config.method.name == "mine"


def test_a_mapping_may_stand_on_a_base(model: nn.Module, images: Tensor) -> None:
    method = {"name": "finer", "base": "repq_vit", "kinds": {"value": {"granularity": "head"}}}
    q = vitq.quantize(model, method, bits="w4a4", images=images)
    assert q.config.method.name == "finer(repq_vit)"
    assert set(q.sites().set_index("kind").granularity["value"]) == {"head"}


@pytest.mark.parametrize(
    ("bits", "label"),
    [
        ("w4a8", "W4A8"),
        ({"weight": 3, "activation": 8}, "W3A8"),
        ({"weight": 4, "activation": 4, "kinds": {"probs": 8}}, "W4A4*"),
    ],
)
def test_bits_are_a_name_or_a_mapping(model: nn.Module, images: Tensor, bits: Any, label: str) -> None:
    assert vitq.quantize(model, "minmax", bits=bits, images=images).config.bits.label == label


def test_overrides_are_those_of_the_command_line(model: nn.Module, images: Tensor) -> None:
    words = ("method.steps.weights.enabled=false", "bits.kinds.probs=8", "calib.batch_size=5", "calib.cache=disk")
    q = vitq.quantize(model, "minmax", bits="w4a4", images=images, overrides=words)
    table = q.sites()
    assert set(table.bits[table.kind == "weight"]) == {32}
    assert set(table.bits[table.kind == "probs"]) == {8}
    assert (q.config.calib.batch_size, q.config.calib.cache) == (5, "disk")


def _recipes() -> list[Any]:
    """What differs in what it asks for: a teacher and a checkpoint, gradients, a predictor, sites of its own."""
    compiled = "method.steps.learn.compile=off"
    return [
        pytest.param("qdrop", ("method.iterations=2", compiled), id="qdrop"),
        pytest.param("ptq4vit", (), id="ptq4vit"),
        pytest.param("scale_predictor", (), id="scale_predictor"),
        pytest.param("fq_vit", (), id="fq_vit"),
        pytest.param("gptq", (), id="gptq"),
        pytest.param("fp32", (), id="fp32"),
    ]


@pytest.mark.parametrize(("method", "words"), _recipes())
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_recipes_need_no_more_than_images(
    family: str, method: str, words: tuple[str, ...], images: Tensor, tmp_path: Path
) -> None:
    whole = tiny(family)
    q = vitq.quantize(whole, method, bits="w8a8", images=images, overrides=words)
    expected = whole(images).detach()
    error = (q(images) - expected).detach()
    # Eight bits: close to full precision.
    assert float(error.norm() / expected.norm()) < 0.25
    assert list(tmp_path.iterdir()) == []


def test_equal_weights_in_another_architecture_share_nothing(images: Tensor) -> None:
    """Three and four heads have the same tensors, and nothing that one call computed may reach the other."""
    three, four = tiny("vit"), tiny("vit", num_heads=4)
    four.load_state_dict(three.state_dict())

    def quantized(model: nn.Module) -> QuantizedNetwork:
        words = ["method.steps.allocate.widths=[3,5]"]
        return vitq.quantize(model, "mixed_precision", bits="w4a4", images=images[:4], overrides=words)

    alone, _, after = quantized(four), quantized(three), quantized(four)
    assert torch.equal(alone(images), after(images))
    assert alone.sites().equals(after.sites())


def _bad_images() -> list[Any]:
    good = torch.zeros(2, 3, 32, 32)
    broken = good.clone()
    broken[1, 0, 5, 5] = float("nan")
    return [
        pytest.param(torch.zeros(3, 32, 32), (3, 32, 32), id="no batch"),
        pytest.param(torch.zeros(2, 1, 32, 32), (2, 1, 32, 32), id="gray"),
        pytest.param(torch.zeros(2, 3, 32, 16), (2, 3, 32, 16), id="oblong"),
        pytest.param(torch.zeros(0, 3, 32, 32), None, id="no image"),
        pytest.param(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.uint8, id="pixels"),
        pytest.param(broken, pytest.approx(float("nan"), nan_ok=True), id="NaN"),
        pytest.param(torch.zeros(2, 3, 48, 48), 48, id="another size"),
        pytest.param([good, torch.zeros(2, 3, 48, 48)], 48, id="two sizes"),
        pytest.param((good, torch.zeros(3, dtype=torch.int64)), (3,), id="labels of others"),
        pytest.param((good, torch.zeros(2)), (2,), id="labels that are numbers"),
        pytest.param([], None, id="empty loader"),
        pytest.param("folder", "folder", id="a path"),
        pytest.param(["folder"], "folder", id="paths"),
    ]


@pytest.mark.parametrize(("given", "value"), _bad_images())
def test_images_that_do_not_fit_are_refused(model: nn.Module, given: Any, value: object) -> None:
    with pytest.raises(DataError) as error:
        vitq.quantize(model, "minmax", bits="w4a4", images=given)
    (problem,) = error.value.problems
    assert problem.key.startswith("images")
    assert problem.value == value


@pytest.mark.parametrize(
    ("change", "key", "valid"),
    [
        ({"method": "repq"}, "method", "repq_vit"),
        ({"method": {"name": "m", "kinds": {"probs": {"quantizer": "logg2"}}}}, "method.kinds.probs.quantizer", "log2"),
        ({"method": {"name": "m", "stepss": {}}}, "method.stepss", "steps"),
        ({"method": "nowhere.yaml"}, "method", None),
        ({"bits": "w9a9"}, "bits", "w4a4"),
        ({"bits": {"weight": 99}}, "bits.weight", 8),
        ({"overrides": ["calib.size=8"]}, "overrides", "calib.batch_size="),
        ({"overrides": ["bits.sites={none.weight: 8}"]}, "bits.sites.none.weight", None),
        ({"overrides": ["method.kinds.weight.granularity='group:7'"]}, "method.kinds.weight.granularity", None),
        ({"seed": -1}, "seed", None),
        ({"model_kwargs": {"act_layer": nn.ReLU}}, "model_kwargs", None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_recipes_and_bits_that_do_not_fit_are_refused(
    model: nn.Module, images: Tensor, change: dict[str, Any], key: str, valid: object
) -> None:
    arguments: dict[str, Any] = {"method": "minmax", "bits": "w4a4", "images": images, **change}
    with pytest.raises(ConfigError) as error:
        vitq.quantize(model, **arguments)
    problem = error.value.problems[0]
    assert problem.key == key
    assert valid is None or valid in problem.valid


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("resnet18", num_classes=5),
        lambda: tiny("vit", num_classes=1),
        lambda: "deit_tiny_patch16_224",
    ],
    ids=["another family", "one class", "a name"],
)
def test_models_that_cannot_be_quantized_are_refused(make: Callable[[], Any], images: Tensor) -> None:
    with pytest.raises(ModelError):
        vitq.quantize(make(), "minmax", bits="w4a4", images=images)


def test_evaluate(model: nn.Module, images: Tensor) -> None:
    labels = torch.arange(16) % 5
    q = vitq.quantize(model, "minmax", bits="w4a4", images=images)
    scores = vitq.evaluate(q, (images, labels), reference=model)
    expected = metrics(q(images).detach(), model(images).detach(), labels)
    assert scores.model_dump() == {**expected, "n_eval": 16}
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    assert vitq.evaluate(q, loader, reference=model) == scores
    alone = vitq.evaluate(q, loader)
    assert (alone.top1, alone.nll, alone.fp_top1, alone.kl) == (scores.top1, scores.nll, None, None)


def test_evaluate_puts_the_training_mode_back_and_needs_labels(images: Tensor) -> None:
    model = tiny("vit", drop_rate=0.5).train()
    first, second = (vitq.evaluate(model, (images, torch.zeros(16, dtype=torch.int64))) for _ in range(2))
    assert first == second
    assert model.training
    with pytest.raises(DataError) as error:
        vitq.evaluate(model, images)
    assert error.value.problems[0].key == "images.labels"
