"""Distillation of all segments together: its gradients, its guard, and that a killed one ends the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.errors import is_about
from tests.steps.test_checkpoint import Killed, Killer
from tests.tiny import images, run, tiny
from vitq.methods.adalog import AdaLogQuantizer
from vitq.quant.layout import Axes
from vitq.quant.learned import RelativeScale
from vitq.quant.logarithmic import Log2Quantizer, LogQuantizer
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.checkpoint import Checkpoint
from vitq.steps.reconstruction.distill import Distill, ImageTargets, crops
from vitq.steps.reconstruction.loss import divergence
from vitq.steps.step import parse_step

Make = Callable[..., Workspace]
METHOD = {"kinds": {"weight": {"granularity": "channel"}, "probs": {"quantizer": "log2"}, "default": {}}}
STEP: dict[str, Any] = {"do": "distill", "iterations": 40, "batch_size": 8, "lr": 1e-4, "hold_out": 0.0}


def workspace_of(workspace: Make, family: str = "vit", bits: int = 3, count: int = 16) -> Workspace:
    work = workspace(tiny(family), METHOD, images=count, weight=bits, activation=bits)
    run(work, {"do": "calibrate"})
    return work


def gap(work: Workspace) -> float:
    """KL to full precision over all calibration images, in float64."""
    with torch.no_grad():
        wanted, given = work.teach(images(work)).double(), work.model(images(work)).double()
    p = wanted.softmax(-1)
    return float((p * (wanted.log_softmax(-1) - given.log_softmax(-1))).sum(-1).mean())


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("learn", [["weights"], ["bias"], ["activation_scales"], ["weight_scales"]])
def test_each_part_alone_brings_the_network_nearer(workspace: Make, family: str, learn: list[str]) -> None:
    work = workspace_of(workspace, family)
    before = gap(work)
    run(
        work,
        {**STEP, "learn": learn, "features": 0.0, "lr": 1e-3, "lr_bias": 3e-3, "lr_scales": 1e-2, "iterations": 60},
    )
    assert gap(work) < 0.97 * before
    assert len(work.curves["all"][0]) == 60
    assert not any(p.requires_grad for p in work.model.parameters())
    assert all(site.stand_in is None for site in work.model.sites.values())


def test_what_is_not_named_stays(workspace: Make) -> None:
    work = workspace_of(workspace)
    weights = {name: p.detach().clone() for name, p in work.model.model.named_parameters()}
    run(work, {**STEP, "learn": ["activation_scales"], "lr_scales": 1e-2})
    for name, parameter in work.model.model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


@pytest.mark.parametrize("held", [0.0, 0.25])
def test_what_does_harm_is_taken_back_where_images_are_held_out(
    workspace: Make, held: float, caplog: pytest.LogCaptureFixture
) -> None:
    work = workspace_of(workspace, bits=8)
    before = {name: value.clone() for name, value in work.model.state_dict().items()}
    with caplog.at_level(logging.WARNING, "vitq.steps"):
        run(work, {**STEP, "lr": 1.0, "lr_bias": 10.0, "lr_scales": 1.0, "hold_out": held, "iterations": 5})
    same = all(torch.equal(value, before[name]) for name, value in work.model.state_dict().items())
    assert same is (held > 0)
    assert len(caplog.records) == (1 if held else 0)


def test_images_held_out_are_never_learned_from(workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = workspace_of(workspace)
    seen: set[int] = set()

    class Noting(ImageTargets):
        def __init__(self, given: Workspace):
            super().__init__(given)
            take = self.images.select

            def select(at: Tensor) -> Any:
                if torch.is_grad_enabled():
                    seen.update(at.tolist())
                return take(at)

            monkeypatch.setattr(self.images, "select", select)

    monkeypatch.setattr("vitq.steps.reconstruction.distill.ImageTargets", Noting)
    run(work, {**STEP, "hold_out": 0.25})
    assert seen == set(range(12))


@pytest.mark.parametrize("views", ["fixed", "crops"])
def test_a_killed_one_goes_on_and_ends_the_same(
    workspace: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: str
) -> None:
    monkeypatch.setattr("vitq.steps.reconstruction.distill._SAVE_SECONDS", 0.0)

    def finished(folder: Path, killer: Killer) -> dict[str, Tensor]:
        work = workspace_of(workspace)
        work.checkpoint, work.progress = Checkpoint(folder), killer
        run(work, {**STEP, "views": views})
        return {**work.model.state_dict(), "curve": work.curves["all"][0]}

    whole = finished(tmp_path / "whole", Killer())
    with pytest.raises(Killed):
        finished(tmp_path / "cut", Killer(25))
    again = Killer()
    cut = finished(tmp_path / "cut", again)
    assert again.computed == 40 - 24
    assert all(torch.equal(value, whole[name]) for name, value in cut.items())


@pytest.mark.parametrize(
    "quantizer",
    [
        UniformQuantizer(3, "channel", Axes(0, weight=True)),
        UniformQuantizer(3, "tensor", Axes(-1)),
        Log2Quantizer(3, "tensor", Axes(-1), zero_code=True),
        AdaLogQuantizer(3, "tensor", Axes(-1), range_search="mse"),
        AdaLogQuantizer(3, "tensor", Axes(-1), range_search="mse", shift=0.25),
    ],
    ids=["rows", "uniform", "log2", "adalog", "adalog shifted"],
)
def test_relative_scales_have_the_value_of_the_quantizer_and_lsq_gradients(
    quantizer: UniformQuantizer | LogQuantizer,
) -> None:
    """Against the formulas in float64; a level's gradient to r is the level itself, since x̂ is proportional to s."""
    x = torch.rand(6, 40, generator=torch.Generator().manual_seed(0))
    shift = float(getattr(quantizer, "shift", 0.0))
    if isinstance(quantizer, UniformQuantizer) or shift:
        x = x - 0.25
    quantizer.fit_tensor(x)
    wide = x * 1.3 + 0.3 * shift  # beyond the largest level too; not below −shift
    expected = quantizer(wide)
    learned = RelativeScale(quantizer)
    leaf = wide.clone().requires_grad_(True)
    given = learned(leaf)
    assert torch.equal(given, expected)
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (given * upstream).sum().backward()
    levels = quantizer.levels().double() + shift
    low, high = levels.min(1).values, levels.max(1).values
    rows = (len(x), 1) if len(low) > 1 else (1, 1)
    seen, value = wide.double() + shift, expected.double() + shift
    inside = (seen >= low.view(rows)) & (seen <= high.view(rows))
    slope = torch.where(inside, value - seen, value) * upstream.double()
    assert 0 < int(inside.sum()) < inside.numel()
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad.double(), upstream.double() * inside)
    assert learned.r.grad is not None
    wanted = slope.sum(1) if len(low) > 1 else slope.sum().view(1)
    assert torch.allclose(learned.r.grad.double(), wanted, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        learned.r.fill_(0.5)
    learned.settle()
    assert torch.allclose(quantizer.scale, learned.before * 1.6487213)


def test_divergence_is_kl() -> None:
    wanted, given = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = wanted.softmax(-1)
    assert torch.allclose(divergence(wanted, given), (p * (p.log() - given.softmax(-1).log())).sum(-1).mean())
    assert float(divergence(wanted, wanted)) == 0


def test_crops_are_parts_of_their_images() -> None:
    """An image whose red is its column and whose green is its row shows where a view lies."""
    size = 32
    line = torch.linspace(0, 1, size)
    image = torch.stack([line.expand(size, size), line.unsqueeze(1).expand(size, size), torch.zeros(size, size)])
    views = crops(image.expand(200, -1, -1, -1), torch.Generator().manual_seed(0))
    assert views.shape == (200, 3, size, size)
    width = views[:, 0, 0, -1] - views[:, 0, 0, 0]
    height = views[:, 1, -1, 0] - views[:, 1, 0, 0]
    assert float(views.min()) >= 0
    assert float(views.max()) <= 1
    assert 0.3 < float((width < 0).float().mean()) < 0.7, "half of them are mirrored"
    assert bool((height > 0).all())
    area = width.abs() * height * (size / (size - 1)) ** 2
    assert 0.4 < float(area.min()) < 0.65
    assert float(area.max()) > 0.9


@pytest.mark.parametrize(
    ("options", "images", "key"),
    [
        ({"learn": []}, 16, "learn"),
        ({"features": 0.0, "logits": 0.0}, 16, "features"),
        ({"hold_out": 0.99}, 16, "hold_out"),
        ({}, 1, "features"),
    ],
)
def test_options_that_say_nothing_are_refused(workspace: Make, options: dict[str, Any], images: int, key: str) -> None:
    step, problems = parse_step("distill", {**STEP, **options})
    assert isinstance(step, Distill), problems
    (problem,) = step.check(workspace_of(workspace, count=images).config)
    assert is_about(problem, key=key)


@pytest.mark.parametrize(
    ("options", "images", "said"),
    [({"hold_out": 0.125}, 3, True), ({"hold_out": 0.0}, 3, False), ({"hold_out": 0.125}, 4 * 2, False)],
)
def test_it_is_said_that_nobody_judges(
    workspace: Make, options: dict[str, Any], images: int, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vitq.steps"):
        run(workspace_of(workspace, count=images), {**STEP, **options, "iterations": 20, "lr_scales": 1e-2})
    assert bool(caplog.records) is said


def test_it_is_said_that_nothing_can_learn(workspace: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Scales of weights that are not quantized."""
    work = workspace(tiny("vit"), METHOD, images=4, activation=3)
    run(work, {"do": "calibrate", "sites": "activations"})
    with caplog.at_level(logging.WARNING, "vitq.steps"):
        run(work, {**STEP, "learn": ["weight_scales"]})
    (record,) = caplog.records
    assert "weight_scales" in record.getMessage()
