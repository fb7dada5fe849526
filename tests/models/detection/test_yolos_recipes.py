"""Recipes on YOLOS: from the plan to scores, and what steps and losses know of its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.errors import is_about
from tests.job.test_detectors import LEARNING, Detectors
from tests.models.detection.small import YOLOS
from vitq.config import RunConfig
from vitq.engine.network_checks import misfits, network_problems
from vitq.engine.recipe_checks import problems
from vitq.methods.output_search import OutputSearch, _arriving, search_site
from vitq.models.detection.yolos import Yolos
from vitq.quant.layers import QuantMatmul
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.layer_walk import quantized_walk
from vitq.steps.reconstruction.fisher import gradients


@pytest.fixture
def detectors(tmp_path: Path) -> Detectors:
    """With the weights of a small YOLOS."""
    made = Detectors(tmp_path)
    torch.manual_seed(0)
    save_file(Yolos(**YOLOS, num_classes=10).state_dict(), made.checkpoint)
    return made


def planned(detectors: Detectors, recipe: str | dict[str, Any], **changes: Any) -> RunConfig:
    """A config that no check of the plan refuses."""
    plain = detectors.config(recipe, bits={"weight": 6, "activation": 6}, task="detection").to_dict()
    plain["model"] |= {"name": "yolos", "kwargs": YOLOS}
    config, wrong = RunConfig.parse(plain | changes)
    assert config is not None, wrong
    assert [problems(config), network_problems(config), misfits(config)] == [[], [], []]
    return config


def test_a_run_from_plan_to_scores(detectors: Detectors) -> None:
    config = planned(detectors, "repq_vit")
    work = detectors.workspace(config)
    left = [s.name for s in work.model.quantized() if not (s.on and s.quantizer is not None and s.quantizer.fitted)]
    assert left == []
    masks, _ = RunConfig.parse(config.to_dict() | {"task": "segmentation"})
    assert masks is not None
    assert any(is_about(problem, "model.name", "yolos", ["mask_rcnn"]) for problem in problems(masks))


def test_the_task_s_gradients_reach_every_block_and_weigh_its_loss(detectors: Detectors) -> None:
    """Against one backward pass through the whole network that draws the same answers."""
    curves = {}
    for loss in ("mse", "fisher_diag", "hessian"):
        learn = {"do": "reconstruct", "iterations": 2, "batch_size": 1, "loss": loss}
        # Named by the loss: finished segments of a step are taken up again.
        config = planned(detectors, LEARNING | {"steps": {"ranges": LEARNING["steps"]["ranges"], loss: learn}})
        work = detectors.workspace(config)
        curves[loss] = torch.stack([losses[0] for losses in work.curves.values()])
        assert list(work.curves) == [segment.name for segment in work.teacher.segments[:-1]]
        assert bool(((curves[loss] > 0) & curves[loss].isfinite()).all())
    assert not any(torch.allclose(curves["mse"], curves[loss]) for loss in ("fisher_diag", "hessian"))

    streams = gradients(work)
    comparison = work.teacher.comparison
    assert comparison is not None
    generator = torch.Generator().manual_seed(work.config.seed)
    for index, batch in enumerate(work.batches()):
        image: Any = batch
        image.pixels.requires_grad_(True)
        value, kept = image, []
        for segment in work.teacher.segments[:-1]:
            value = segment.forward(value)
            value[0].retain_grad()
            kept.append(value[0])
        comparison.likelihood(comparison.dense(value, comparison.fixed(value)), generator).backward()
        for stream, tokens in zip(streams[:-1], kept, strict=True):
            (own,) = stream.select(torch.tensor([index]))
            assert own.shape == tokens.shape
            assert float(torch.cosine_similarity(own.flatten(), tokens.grad.flatten(), dim=0)) > 0.999


def test_losses_and_steps_that_know_the_network_work(detectors: Detectors) -> None:
    """Those whose forms for Mask R-CNN have tests of their own: finite, and another network than without them."""
    ranges = LEARNING["steps"]["ranges"]
    learn = {"do": "reconstruct", "iterations": 1, "batch_size": 1, "learn": ["weights"]}
    steps: dict[str, dict[str, Any]] = {
        name: learn | {"loss": name}
        for name in ("perturbation_hessian", "dplr", "least_squares_hessian", "global_local")
    }
    steps |= {
        "mlp": {"do": "relu_mlp", "iterations": 1},
        "distill": {"do": "distill", "iterations": 1, "hold_out": 0.0, "autocast": "none"},
        "search": {"do": "hessian_search", "rounds": 1, "candidates": 4, "coarse": 2},
        "predict": {"do": "predict_scales"},
        "minmax": {"do": "predict_scales", "ranges": "minmax"},
    }
    (image, _), *_ = detectors.workspace(planned(detectors, LEARNING | {"steps": {"ranges": ranges}})).calib.batches(
        1, "cpu"
    )
    answers = []
    for name, step in {"ranges": ranges, **steps}.items():
        order = {name: step} if name == "ranges" else {"ranges": ranges, name: step}
        order = {name: step, "ranges": ranges} if name == "mlp" else order
        work = detectors.workspace(planned(detectors, LEARNING | {"steps": order}))
        with torch.no_grad():
            (found,) = work.model(image)
        assert bool(found.scores.isfinite().all())
        assert all(bool(losses[0].isfinite().all()) for losses in work.curves.values())
        answers.append((name, found.scores))
    base = answers[0][1]
    assert [name for name, scores in answers[1:] if scores.shape == base.shape and torch.equal(scores, base)] == []


@torch.no_grad()
def test_products_of_several_sizes_are_searched_image_by_image(detectors: Detectors) -> None:
    """Attention of images with other numbers of tokens has no product of all of them; the error is their sum."""
    calib = {"size": 4, "batch_size": 1}
    config = planned(detectors, LEARNING | {"steps": {"ranges": LEARNING["steps"]["ranges"]}}, calib=calib)
    work = detectors.workspace(config)
    product = work.model.model.get_submodule("body.blocks.0.attn.scores")
    assert isinstance(product, QuantMatmul)
    walk = quantized_walk(work)
    walk.enter(0)
    walk.advance()
    walk.enter(1)
    found, transposed = _arriving(walk, product, None)
    assert transposed
    assert len({query.shape for query, _ in found}) > 1

    def error() -> float:
        parts = [
            (product.left_site(query) - query).double() @ product.right_site(key).double().transpose(-2, -1)
            for query, key in found
        ]
        return sum(float(part.square().sum()) for part in parts)

    quantizer = product.left_site.quantizer
    assert isinstance(quantizer, UniformQuantizer)
    quantizer.scale.mul_(3)  # far from the best
    quantizer.refresh()
    before = error()
    search_site(OutputSearch(do="output_search", images=None), walk, product, product.left_site)
    assert error() < 0.5 * before
