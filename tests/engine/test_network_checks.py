"""What does not fit the network is refused by the plan: no run fails for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.errors import is_about
from vitq.config import RunConfig
from vitq.engine import network_checks
from vitq.engine.network_checks import misfits, network_of
from vitq.engine.recipe import equipped
from vitq.errors import ConfigError, ModelError, Problem
from vitq.models.build import create
from vitq.planning import compose, planner
from vitq.quant.site_table import blank, shapes_of, site_table

# A folder for data is not needed: digits are embedded.
PLAIN = ("method=minmax", "bits=w4a4", "tracker=none")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout may hold runs of a sweep."""
    monkeypatch.chdir(tmp_path)


def config(*overrides: str) -> RunConfig:
    file, roots = compose.root_config()
    cell = next(compose.expand(compose.load(file, roots, [*PLAIN, *overrides])))
    parsed, problems = RunConfig.parse(cell.raw)
    assert parsed is not None, problems
    return parsed


def refused(*overrides: str) -> list[Problem]:
    file, roots = compose.root_config()
    with pytest.raises(ConfigError) as error:
        planner.make(compose.load(file, roots, [*PLAIN, *overrides]))
    assert not Path("runs").exists()
    return error.value.problems


def test_the_networks_size_is_that_of_the_images() -> None:
    assert config("model=deit_tiny", "data=imagenet", "+model.kwargs.img_size=384").model.input_size == 384
    assert config("model.kwargs.img_size=64").model.input_size == 64
    assert config("model.kwargs.depth=3").model.input_size == 32
    assert config("model.kwargs.img_size=64", "model.input_size=32").model.input_size == 32, "said, and then refused"


def test_norms_behind_the_layers_leave_repq_vit_nothing_to_fold() -> None:
    """The plan says so, and with which quantizers the inputs of layers are left; their own norms are folded into."""
    for name, idle in (("swinv2_digits", True), ("swin_digits", False), ("eva_digits", False), ("beit_digits", False)):
        lines = network_checks.idle_steps(config(f"model={name}", "method=repq_vit"))
        assert len(lines) == idle, name
    (line,) = network_checks.idle_steps(config("model=swinv2_digits", "method=repq_vit"))
    assert line.startswith("method.steps.reparameterize: ")
    assert "granularity" in line
    assert network_checks.idle_steps(config("model=swinv2_digits", "method=minmax")) == []
    off = ["model=swinv2_digits", "method=repq_vit", "method.steps.reparameterize.enabled=false"]
    assert network_checks.idle_steps(config(*off)) == []


@pytest.mark.parametrize("method", ["rols", "rols_distill"])
@pytest.mark.parametrize(
    ("model", "parts"), [("eva_digits", ["heads_qk"]), ("swinv2_digits", ["stream"]), ("beit_digits", [])]
)
def test_recipes_of_our_own_run_as_shipped_on_every_family(model: str, method: str, parts: list[str]) -> None:
    """What cannot be rotated there is left out, and the plan says so."""
    asked = config(f"model={model}", f"method={method}")
    assert misfits(asked) == []
    start = f"method.steps.rotate: '{asked.model.name}': "
    lines = [line for line in network_checks.idle_steps(asked) if line.startswith(start)]
    assert [line.removeprefix(start).split()[0] for line in lines] == parts
    demanded = [f"method.steps.rotate.{part}=true" for part in parts]
    keys = [problem.key for problem in misfits(config(f"model={model}", f"method={method}", *demanded))]
    assert keys == [f"method.steps.rotate.{part}" for part in parts]


@pytest.mark.parametrize(
    ("overrides", "key", "value", "valid"),
    [
        (["+bits.sites={blocks.9.*: 8}"], "bits.sites.blocks.9.*", "blocks.9.*", []),
        (["model.input_size=64"], "model.input_size", 64, [32]),
        (["model=swin_digits", "model.input_size=64"], "model.input_size", 64, [32]),
        (
            [
                "model=timm",
                "model.name=vit_small_patch16_dinov3",
                "model.pretrained=false",
                "model.kwargs={depth: 1, embed_dim: 48, num_heads: 3}",
                "model.input_size=[128,512]",
            ],
            "model.input_size",
            (128, 512),
            [256],
        ),
        (["+model.kwargs.colour=red"], "model.kwargs", ..., []),
        (["model.kwargs.num_heads=5"], "model.kwargs", ..., []),
        (["+model.kwargs.in_chans=2"], "model.kwargs.in_chans", 2, [1, 3]),
        (["+model.kwargs.global_pool=''"], "model.kwargs", (1, 17, 10), [(1, 10)]),
        (["model=timm", "model.name=resnet18", "model.pretrained=false"], "", "ResNet", []),
        (["model=deit_tiny"], "data.num_classes", 10, [1000]),
        (
            ["method=mixed_precision", "method.steps.allocate.size_mb=0.01"],
            "method.steps.allocate.size_mb",
            0.01,
            [],
        ),
        (["method=mixed_precision", "method.steps.allocate.bops=1000"], "method.steps.allocate.bops", 1000, []),
        (
            ["method=minmax", "method.kinds.default.granularity=group:5"],
            "method.kinds.default.granularity",
            "blocks.0.attn.qkv.input",
            [],
        ),
        (
            ["method=minmax", "method.kinds.weight.granularity=group:7"],
            "method.kinds.weight.granularity",
            "patch_embed.proj.weight",
            [],
        ),
        (
            ["method=minmax", "method.kinds.weight.quantizer=dual_uniform"],
            "method.kinds.weight.quantizer",
            "patch_embed.proj.weight",
            [],
        ),
        (
            ["method=qdrop", "method.kinds.weight.quantizer=twin_uniform", "method.steps.learn.learn=[rounding]"],
            "method.steps.learn.learn",
            "rounding",
            [],
        ),
        (
            [
                "method.kinds.default.symmetric=true",
                "+method.steps.r={do: reconstruct, learn: [zero_points], quantize: [activations], lr_zero_points: 0.5}",
            ],
            "method.steps.r.learn",
            "zero_points",
            [],
        ),
        (
            ["method=scale_predictor", "bits.activation=fp"],
            "method.steps.predict.ranges",
            "predicted",
            ["static"],
        ),
        (
            ["method=scale_predictor", "bits.weight=fp", "bits.activation=fp", "+bits.kinds.probs=4"],
            "method.steps.predict.ranges",
            "predicted",
            ["static"],
        ),
        (
            ["method=mixed_precision", "bits.weight=fp", "bits.activation=fp", "+bits.kinds.probs=4"],
            "method.steps.allocate",
            None,
            [],
        ),
    ],
)
def test_the_plan_refuses_what_does_not_fit_the_network(
    overrides: list[str], key: str, value: object, valid: list[object]
) -> None:
    (problem,) = refused(*overrides)
    assert is_about(problem, key, value, valid), (problem.key, problem.value, problem.valid)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    swin = config("model=swin_digits")
    save_file(create(swin.model, swin.data).state_dict(), tmp_path / "swin.safetensors")
    (problem,) = refused(f"model.checkpoint={tmp_path}/swin.safetensors")
    assert problem.key == "model.checkpoint"
    assert any(" missing: " in difference for difference in problem.value)  # type: ignore[attr-defined]


def test_a_checkpoint_that_is_not_there_is_one_problem() -> None:
    (problem,) = refused("model.checkpoint=nowhere.safetensors")
    assert is_about(problem, "model.checkpoint", "nowhere.safetensors")


def test_a_checkpoint_that_fits_is_planned(tmp_path: Path) -> None:
    vit = config()
    save_file(create(vit.model, vit.data).state_dict(), tmp_path / "vit.safetensors")
    file, roots = compose.root_config()
    planned = planner.make(compose.load(file, roots, [*PLAIN, f"model.checkpoint={tmp_path}/vit.safetensors"]))
    assert len(planned.runs) == 1


def test_the_network_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = network_checks.network_problems

    def counted(config: RunConfig) -> list[Problem]:
        asked.append(config)
        return real(config)

    monkeypatch.setattr(network_checks, "network_problems", counted)
    file, roots = compose.root_config()
    primary = compose.load(file, roots, ["method=minmax,mse", "bits=w8a8,w4a4", "tracker=none"], multirun=True)
    assert len(planner.make(primary, name="test").runs) == 4
    assert len(asked) == 1


def test_a_timm_that_reads_numbers_while_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As older versions do: `.item()` has no answer on the meta device."""
    from timm.models import vision_transformer

    def rates(rate: float, depth: int) -> list[float]:
        return [float(x.item()) for x in torch.linspace(0, rate, depth)]

    monkeypatch.setattr(vision_transformer, "calculate_drop_path_rates", rates)
    known = config()
    with pytest.raises(ModelError), torch.device("meta"):
        create(known.model, known.data)
    assert network_checks.network_problems(known) == []
    assert all(p.is_meta for p in network_of(known).model.parameters())
    (problem,) = refused("model.kwargs.num_heads=5")
    assert problem.key == "model.kwargs"


def test_a_network_that_reads_numbers_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.vision_transformer import VisionTransformer

    original = VisionTransformer.forward_head
    devices = []

    def reading(self: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
        devices.append(x.device.type)
        assert x.sum().item() < torch.inf
        out: torch.Tensor = original(self, x)
        return out

    monkeypatch.setattr(VisionTransformer, "forward_head", reading)
    with pytest.raises(RuntimeError):
        network_of(config()).shapes  # noqa: B018
    assert devices == ["meta"]
    assert network_checks.network_problems(config()) == []
    (problem,) = refused("+model.kwargs.global_pool=''")
    assert problem.key == "model.kwargs"


@pytest.mark.parametrize("model", ["vit_digits", "swin_digits"])
@pytest.mark.parametrize("method", ["repq_vit", "mptq_vit_full"])
def test_a_blueprint_has_the_sites_and_shapes_of_the_network(model: str, method: str) -> None:
    known = config(f"model={model}", f"method={method}")
    real = equipped(known, create(known.model, known.data))
    table = site_table(real, [blank(known, torch.device("cpu"))], planned=True)
    found = network_of(known)
    assert found.sites().equals(table)
    assert found.shapes == shapes_of(real, blank(known, torch.device("cpu")))
    assert found.shapes.keys() == set(table.site)
    assert all(p.is_meta for p in found.model.parameters())


def test_the_least_size_is_that_of_packed_weights_without_scales() -> None:
    """Such a limit fails in the run at most: one that a run can hold is never refused."""
    recipe = config("method=mixed_precision")
    network = create(recipe.model, recipe.data)
    weights = {m.weight for m in network.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    rest = sum(p.numel() * 4 for p in network.parameters() if p not in weights)
    least = (rest + sum(-(-w.numel() * 3 // 8) for w in weights)) / 1e6
    assert misfits(config("method=mixed_precision", f"method.steps.allocate.size_mb={least * 1.0001}")) == []
    (problem,) = misfits(config("method=mixed_precision", f"method.steps.allocate.size_mb={least * 0.999}"))
    assert is_about(problem, "method.steps.allocate.size_mb", least * 0.999)
    assert problem.valid[0] == pytest.approx(least), "what is feasible"


@pytest.mark.parametrize(
    "overrides",
    [
        # The stem is a convolution; without it all weights are matrices.
        ("method.kinds.weight.quantizer=dual_uniform", "+bits.sites={patch_embed.proj.weight: fp}"),
        # Some activations are uniform, some are not.
        ("method=qdrop", "method.kinds.probs={quantizer: log2}", "method.steps.learn.learn=[activation_scales]"),
        # Nothing is fitted that could be learned: an ablation, which leaves activations alone.
        ("method=adaround", "method.steps.weights.enabled=false"),
        ("method=scale_predictor", "method.steps.predict.ranges=static", "bits.activation=fp"),
    ],
)
def test_what_some_site_can_have_is_planned(overrides: tuple[str, ...]) -> None:
    assert misfits(config(*overrides)) == []


@pytest.mark.parametrize(
    ("word", "key"),
    [("model.checkpoint_key=ema", "model.checkpoint_key"), ("model.short_side=32", "model.short_side")],
)
def test_what_the_model_has_no_use_for_is_refused(word: str, key: str) -> None:
    (problem,) = refused(word)
    assert problem.key == key


def test_bits_of_a_kind_without_sites_are_named() -> None:
    """A recipe that does not name the scores leaves them alone: the result is that without the key."""
    (line,) = network_checks.idle_steps(config("method=minmax", "bits.kinds.scores=8", "bits.kinds.probs=8"))
    assert line.startswith("bits.kinds.scores: ")
    assert network_checks.idle_steps(config("method=fq_vit", "bits.kinds.scores=8")) == []
