"""Distillation of a detector as a whole, and per-image scales in one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.errors import is_about
from tests.job.test_detectors import LEARNING, Detectors
from tests.steps.test_checkpoint import Killed, Killer
from vitq.engine.recipe import apply
from vitq.engine.recipe_checks import problems
from vitq.methods.scale_predictor import deeper
from vitq.models.load import load_model
from vitq.progress import Progress
from vitq.quant.per_image import PerImageUniform
from vitq.quant.predictor import Predictor
from vitq.steps import Workspace
from vitq.steps.checkpoint import Checkpoint
from vitq.steps.reconstruction.object_targets import ObjectTargets
from vitq.steps.step import parse_step

BITS = {"weight": 4, "activation": 4}
DISTILL: dict[str, Any] = {
    "do": "distill", "iterations": 6, "batch_size": 2, "lr": 1e-4, "hold_out": 0.0, "autocast": "none"
}  # fmt: skip


def recipe(**steps: dict[str, Any]) -> dict[str, Any]:
    return {"name": "whole", "kinds": LEARNING["kinds"], "steps": {"ranges": {"do": "calibrate"}, **steps}}


def workspace(detectors: Detectors, progress: Progress | None = None, **steps: dict[str, Any]) -> Workspace:
    config = detectors.config(recipe(**steps), bits=BITS)
    assert problems(config) == []
    network = load_model(config.model, config.data, config.cache_dir, Progress())
    state = Checkpoint(detectors.cache / "state")
    return apply(config, network, torch.device("cpu"), progress or Progress(), state, lambda _: nullcontext())


def test_the_loss_by_hand(tmp_path: Path) -> None:
    """The features' squared errors by their variance over images and positions, and the divergence of the heads."""
    work = workspace(Detectors(tmp_path), distill=DISTILL | {"iterations": 1, "lr": 0, "lr_bias": 0, "lr_scales": 0})
    targets = ObjectTargets(work)
    work.model.requires_grad_(False)
    parameter = work.model.model.get_parameter("backbone.body.patch_embed.proj.bias").requires_grad_(True)
    given = {name: targets.backward(torch.arange(2), *weights) for name, weights in
             {"features": (1.0, 0.0), "divergence": (0.0, 1.0), "both": (2.0, 3.0)}.items()}  # fmt: skip
    assert parameter.grad is not None
    assert float(parameter.grad.abs().max()) > 0
    comparison, own = work.teacher.comparison, work.model.structure.comparison
    assert comparison is not None
    assert own is not None
    full, quantized, apart = [], [], []
    with torch.no_grad():
        for batch in work.batches():
            value: Any = batch
            other: Any = batch
            for segment, mine in zip(work.teacher.segments[:-1], work.model.structure.segments[:-1], strict=True):
                value, other = segment.forward(value), mine.forward(other)
            boxes = comparison.fixed(value)
            apart.append(float(own.divergence(comparison.dense(value, boxes), own.dense(other, boxes))))
            full.append(value[:5])
            quantized.append(other[:5])
    features = []
    for level in range(5):
        rows = torch.cat([value[level][0].flatten(1).T for value in full]).double()
        variance = (rows - rows.mean(dim=0)).square().mean()
        errors = [(a[level] - b[level]).double().square().mean() for a, b in zip(full, quantized, strict=True)]
        features.append(float(torch.stack(errors).mean() / variance))
    assert float(given["features"]) == pytest.approx(sum(features) / 5, rel=1e-4)
    assert float(given["divergence"]) == pytest.approx(sum(apart) / 2, rel=1e-4)
    assert float(given["both"]) == pytest.approx(2 * sum(features) / 5 + 3 * sum(apart) / 2, rel=1e-4)
    assert targets.divergence(torch.arange(2)) == pytest.approx(sum(apart) / 2, rel=1e-5)


def test_it_learns_the_heads_too_and_comes_nearer(tmp_path: Path) -> None:
    detectors = Detectors(tmp_path)
    before = workspace(detectors, bias={"do": "bias_correction"})
    start = ObjectTargets(before).divergence(torch.arange(2))
    step = DISTILL | {"iterations": 8, "features": 0.0, "lr_bias": 1e-3}
    work = workspace(detectors, bias={"do": "bias_correction"}, distill=step)
    assert ObjectTargets(work).divergence(torch.arange(2)) < 0.9 * start
    moved = [name for name, value in work.model.model.state_dict().items()
             if name.endswith("weight") and not torch.equal(value, before.model.model.state_dict()[name])]  # fmt: skip
    for part in ("backbone.body", "backbone.fpn", "rpn.head", "roi_heads.box_head", "roi_heads.mask_head"):
        assert any(name.startswith(part) for name in moved), part


def test_a_killed_one_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitq.steps.reconstruction.distill._SAVE_SECONDS", 0.0)
    detectors = Detectors(tmp_path)
    whole = workspace(detectors, distill=DISTILL).model.state_dict()
    detectors.cache = tmp_path / "cut"

    class Late(Killer):
        def stage(self, name: str, total: int | None = None) -> None:
            self.counts = name == "distill"

        def advance(self, units: int = 1, note: str = "") -> None:
            if self.counts:
                super().advance(units, note)

    with pytest.raises(Killed):
        workspace(detectors, Late(4), distill=DISTILL)
    again = Late()
    cut = workspace(detectors, again, distill=DISTILL).model.state_dict()
    assert again.computed == 6 - 3
    assert all(torch.equal(value, whole[name]) for name, value in cut.items())


@pytest.mark.parametrize(("option", "value", "valid"), [("views", "crops", "fixed"), ("temperature", 2.0, 1)])
def test_options_of_classes_are_refused(tmp_path: Path, option: str, value: object, valid: object) -> None:
    (wrong,) = problems(Detectors(tmp_path).config(recipe(distill=DISTILL | {option: value}), bits=BITS))
    assert is_about(wrong, f"method.steps.distill.{option}", value, [valid])


@pytest.mark.parametrize("options", [{}, {"ranges": "minmax"}, {"fit": "gradient", "iterations": 2}])
def test_scales_of_each_image(tmp_path: Path, options: dict[str, Any]) -> None:
    """Backbone and pyramid have them, heads do not; an image's answer does not depend on its neighbours."""
    work = workspace(Detectors(tmp_path), predict={"do": "predict_scales", **options})
    own = [name for name, site in work.model.sites.items() if isinstance(site.quantizer, PerImageUniform)]
    assert any(name.startswith("backbone.fpn") for name in own)
    assert any(name.startswith("backbone.body.layers.3") for name in own)
    assert not any(name.startswith(("rpn", "roi_heads", "backbone.body.patch_embed")) for name in own)
    if "ranges" not in options:
        predictor = work.model.predictor
        assert isinstance(predictor, Predictor)
        assert bool(predictor.scales.any())
    (together, _), *_ = work.calib.take([0, 0]).batches(2, "cpu")
    with torch.no_grad():
        both = work.model(together)
        (alone,) = work.model(together[:1])
    for found in both:
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-3)
        assert torch.allclose(found.scores, alone.scores, atol=1e-4)


def test_without_coefficients_it_is_the_base(tmp_path: Path) -> None:
    work = workspace(Detectors(tmp_path))
    batch = next(work.batches())
    with torch.no_grad():
        (base,) = work.model(batch)
        step, _ = parse_step("predict", {"do": "predict_scales", "fit": "gradient", "iterations": 1})
        assert step is not None
        assert len(deeper(work.model, work.model.quantized(), 1)) > 50
        work._teacher = work._teacher or work.model.structure
        with torch.enable_grad():
            step.run(work)
        predictor = work.model.predictor
        assert isinstance(predictor, Predictor)
        predictor.scales.data.zero_()
        (same,) = work.model(batch)
    assert torch.equal(base.boxes, same.boxes)
    assert torch.equal(base.scores, same.scores)
