"""What does not fit the network is refused by the plan: no run fails for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitq.config import RunConfig
from vitq.engine import network_checks
from vitq.engine.network_checks import misfits, network_of
from vitq.engine.recipe import equipped
from vitq.errors import ConfigError, ModelError
from vitq.models.build import create
from vitq.planning import compose, planner
from vitq.quant.site_table import blank, shapes_of, site_table

# A folder for data is not needed: digits are embedded.
PLAIN = ("method=minmax", "bits=w4a4", "tracker=none")


def config(*overrides: str) -> RunConfig:
    file, roots = compose.root_config()
    cell = next(compose.expand(compose.load(file, roots, [*PLAIN, *overrides])))
    parsed, problems = RunConfig.parse(cell.raw)
    assert parsed is not None, problems
    return parsed


def refused(*overrides: str) -> list[str]:
    file, roots = compose.root_config()
    with pytest.raises(ConfigError) as error:
        planner.make(compose.load(file, roots, [*PLAIN, *overrides]))
    assert not Path("runs").exists()
    return error.value.problems


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+bits.sites={blocks.9.*: 8}"], "bits.sites.blocks.9.*: matches no site of this model; `vitq list sites`"),
        (["model.input_size=64"], "'vit_digits' is built for 32x32 images, but model.input_size=64; set model.kwargs"),
        (["model=swin_digits", "model.input_size=64"], "'swin_digits' is built for 32x32 images"),
        (["+model.kwargs.colour=red"], "timm cannot build 'vit_digits' with model.kwargs="),
        (["model.kwargs.num_heads=5"], "timm cannot build 'vit_digits' with model.kwargs="),
        (["+model.kwargs.in_chans=1"], "refuses an image of shape (1, 3, 32, 32)"),
        (["+model.kwargs.global_pool=''"], "has an output of shape (1, 17, 10), (1, 10) is needed"),
        (
            ["model=timm", "model.name=resnet18", "model.pretrained=false"],
            "outside the supported families",
        ),
        (
            ["model=deit_tiny"],
            "the pretrained head of 'deit_tiny_patch16_224.fb_in1k' has 1000 classes, data.num_classes=10",
        ),
        (
            ["method=mixed_precision", "method.steps.allocate.size_mb=0.01"],
            "method.steps.allocate: allocate: size_mb=0.01 is impossible with widths 3 to 8: from 0.",
        ),
        (
            ["method=mixed_precision", "method.steps.allocate.bops=1000"],
            "method.steps.allocate: allocate: bops=1000 is impossible with widths 3 to 8: from ",
        ),
        (
            ["method=minmax", "method.kinds.default.granularity=group:5"],
            "method.kinds.default: site blocks.0.attn.qkv.input: granularity 'group:5': 64 channels (shape (1, ",
        ),
        (
            ["method=minmax", "method.kinds.weight.granularity=group:7"],
            "method.kinds.weight: site patch_embed.proj.weight: granularity 'group:7': 192 inputs per output channel",
        ),
        (
            ["method=minmax", "method.kinds.weight.quantizer=dual_uniform"],
            "method.kinds.weight: site patch_embed.proj.weight: dual_uniform quantizes weights of linear layers",
        ),
        (
            ["method=qdrop", "method.kinds.weight.quantizer=twin_uniform", "method.steps.learn.learn=[rounding]"],
            "method.steps.learn: learn names rounding: uniform quantizers have them, none of weight does",
        ),
        (
            [
                "method.kinds.default.symmetric=true",
                "+method.steps.r={do: reconstruct, learn: [zero_points], quantize: [activations], lr_zero_points: 0.5}",
            ],
            "method.steps.r: learn names zero_points: uniform quantizers that are not symmetric have them, none of ",
        ),
        (
            ["method=scale_predictor", "bits.activation=fp"],
            "method.steps.predict: no activation behind its tap has a fitted uniform quantizer",
        ),
        (
            ["method=scale_predictor", "bits.weight=fp", "bits.activation=fp", "+bits.kinds.probs=4"],
            "method.steps.predict: no activation behind its tap has a fitted uniform quantizer",
        ),
        (
            ["method=mixed_precision", "bits.weight=fp", "bits.activation=fp", "+bits.kinds.probs=4"],
            "method.steps.allocate: no calibrated site has bits that may change",
        ),
    ],
)
def test_the_plan_refuses_what_does_not_fit_the_network(overrides: list[str], message: str) -> None:
    (problem,) = refused(*overrides)
    assert message in problem


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    swin = config("model=swin_digits")
    save_file(create(swin.model, swin.data).state_dict(), tmp_path / "swin.safetensors")
    (problem,) = refused(f"model.checkpoint={tmp_path}/swin.safetensors")
    assert "does not fit VisionTransformer" in problem
    assert "missing" in problem


def test_a_checkpoint_that_is_not_there_is_one_problem() -> None:
    (problem,) = refused("model.checkpoint=nowhere.safetensors")
    assert "nowhere.safetensors' is not a file" in problem


def test_a_checkpoint_that_fits_is_planned(tmp_path: Path) -> None:
    vit = config()
    save_file(create(vit.model, vit.data).state_dict(), tmp_path / "vit.safetensors")
    file, roots = compose.root_config()
    planned = planner.make(compose.load(file, roots, [*PLAIN, f"model.checkpoint={tmp_path}/vit.safetensors"]))
    assert len(planned.runs) == 1


def test_the_network_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = network_checks.network_problems

    def counted(config: RunConfig) -> list[str]:
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
    assert "timm cannot build 'vit_digits'" in problem


def test_a_network_that_reads_numbers_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models.vision_transformer import VisionTransformer

    original = VisionTransformer.forward_head

    def reading(self: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
        assert x.sum().item() < torch.inf
        out: torch.Tensor = original(self, x)
        return out

    monkeypatch.setattr(VisionTransformer, "forward_head", reading)
    with pytest.raises(RuntimeError, match="meta"):
        network_of(config()).shapes  # noqa: B018
    assert network_checks.network_problems(config()) == []
    (problem,) = refused("+model.kwargs.in_chans=1")
    assert "refuses an image of shape (1, 3, 32, 32)" in problem


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
    assert f"from {least:.6g} (all at 3 bits)" in problem


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
