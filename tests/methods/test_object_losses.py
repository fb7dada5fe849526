"""Losses that know the network behind a segment, on detectors: those of images of one size where sizes are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.errors import is_about
from tests.job.test_detectors import LEARNING, Detectors
from tests.steps.test_object_curvature import PYRAMID, one_segment
from vitq.engine.recipe_checks import problems
from vitq.methods.dplr import Dplr, _LowRank, _LowRankByChannel
from vitq.methods.global_local import GlobalLocal
from vitq.methods.least_squares_hessian import LeastSquaresHessian, _FittedByChannel
from vitq.methods.perturbation_hessian import PerturbationHessian, Weighted
from vitq.steps.reconstruction import object_curvature as objects
from vitq.steps.reconstruction.objective import OBJECTIVES

BLOCK = 2


def block(folder: Path, index: int = BLOCK) -> tuple[Any, Any, list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]]:
    """A task, and outputs and targets of its images, completed."""
    work, task = one_segment(folder, index)
    values = []
    with torch.no_grad():
        for given, target in objects.images_of(task.noisy, task.target):
            values.append((objects.onto(given, task.segment.forward(given), target), target))
    return work, task, values


def together(values: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]) -> tuple[Tensor, Tensor]:
    """Outputs and targets of a block as one batch, cut to the size that all images have."""
    height, width = (min(value[0].shape[side] for value, _ in values) for side in (1, 2))
    cut = [tuple(part[0][:, :height, :width] for part in pair) for pair in values]
    return torch.cat([output for output, _ in cut]), torch.cat([target for _, target in cut])


def one_size(values: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]) -> list[Any]:
    """The same as values of a detector's segment."""
    output, target = together(values)
    return [((output[at : at + 1],), (target[at : at + 1],)) for at in range(len(output))]


def test_the_perturbation_hessian_weighs_each_element_of_each_image(tmp_path: Path) -> None:
    work, task, values = block(tmp_path)
    measure = PerturbationHessian().of_objects(work, task)
    weights = objects.importance(work, BLOCK, task.exact, task.target, 20.0, "signs")
    for index, (output, target) in enumerate(values):
        at = torch.tensor([index])
        (weight,) = weights.select(at)
        # As of images of one size, for this image alone.
        wanted = Weighted(weight[0]).terms(output[0], target[0], at)
        assert torch.allclose(measure.terms(output, target, at), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["dplr", "least_squares_hessian"])
def test_a_number_for_each_channel_is_that_number_at_all_its_positions(tmp_path: Path, name: str) -> None:
    """On images of one size: M numbers, equal at all positions of a channel, give what C numbers give."""
    work, task, values = block(tmp_path)
    output, target = together(values)
    positions, channels = output[0].numel() // output.shape[-1], output.shape[-1]
    if name == "dplr":
        options = Dplr(rank=3, temperature=4.0)
        mine, rectangular = _LowRankByChannel(options, work, task), _LowRank(options, work, task)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            means = [torch.rand(channels, generator=generator, dtype=torch.float64) for _ in range(2)]
            for measure, repeat in ((mine, 1), (rectangular, positions)):
                wide = [mean.repeat(repeat) for mean in means]
                shared = torch.full((channels,), float(positions)) if repeat == 1 else None
                measure._means = lambda wide=wide, shared=shared: (*wide, shared)  # type: ignore[method-assign,misc]
                measure.refresh()
    else:
        fitted = LeastSquaresHessian().of_objects(work, task)
        assert isinstance(fitted, _FittedByChannel)
        assert bool((fitted._diagonal >= 0).all())
        assert bool(fitted._diagonal.any())
        wide = [part.repeat(positions) for part in (fitted._diagonal, fitted._direction)]
        mine, rectangular = fitted, type(fitted).__mro__[1](*wide)  # type: ignore[assignment]
    wanted = rectangular.terms(output, target, torch.arange(len(output)))
    given = [mine.terms(one, other, torch.tensor([at])) for at, (one, other) in enumerate(one_size(values))]
    assert torch.allclose(torch.stack(given).mean(dim=0), wanted, rtol=1e-4)


def test_the_fit_is_least_squares_over_images_and_positions(tmp_path: Path) -> None:
    """LS-ViT's sums by hand, in numpy's order, of two images of two sizes."""
    work, task, _ = block(tmp_path)
    fitted = LeastSquaresHessian(temperature=2.0, negative="keep").of_objects(work, task)
    both: Any = 0.0
    square = leaning = along_all = both
    for ((error, slope),) in objects.moments(work, task, 2.0):
        e, g = (part[0].double().numpy().reshape(-1, part.shape[-1]) for part in (error, slope))
        along = max(float((e * g).sum()), 0.0)
        both, square = both + (e * g).sum(axis=0), square + (e**2).sum(axis=0)
        leaning, along_all = leaning + g.mean(axis=0) * along**0.5, along_all + along
    h = both / square
    u = leaning / max(along_all, 1e-300)
    unit = abs(h).mean()
    assert fitted._diagonal.tolist() == pytest.approx((h / unit).tolist(), rel=1e-4)  # type: ignore[attr-defined]
    assert fitted._direction.tolist() == pytest.approx((u / unit**0.5).tolist(), rel=1e-4)  # type: ignore[attr-defined]


def test_the_global_feature_is_the_pyramid(tmp_path: Path) -> None:
    work, task, values = block(tmp_path)
    measure = GlobalLocal(local=3.0).of_objects(work, task)
    assert measure.weights == (1.0, 3.0)
    for index, (output, target) in enumerate(values):
        levels = []
        for value in (output, target):
            current: Any = value
            with torch.no_grad():
                for segment in work.teacher.segments[BLOCK + 1 : -1]:
                    current = segment.forward(current)
            levels.append(current[:5])
        far = sum(float((a - b).square().mean()) for a, b in zip(*levels, strict=True))
        near = float((output[0] - target[0]).square().mean())
        with torch.no_grad():
            terms = measure.terms(output, target, torch.tensor([index]))
        assert terms.tolist() == pytest.approx([far, near], rel=1e-4)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_the_target_is_at_no_distance_and_all_of_a_pyramid_counts(tmp_path: Path, name: str) -> None:
    work, task, values = block(tmp_path, PYRAMID)
    measure = OBJECTIVES[name]().of_objects(work, task)
    measure.refresh()
    at = torch.tensor([0])
    output, target = values[0]
    same = tuple(part.clone() for part in target)
    assert not measure.terms(same, target, at).any()
    base = measure.terms(output, target, at)
    for level in range(5):
        moved = tuple(part + 100 if place == level else part for place, part in enumerate(output))
        assert not torch.allclose(measure.terms(moved, target, at), base)


def test_a_difference_of_gradients_is_refused_by_the_plan(tmp_path: Path) -> None:
    learn = LEARNING["steps"]["learn"] | {"loss": "perturbation_hessian", "loss_options": {"epsilon": 1e-6}}
    recipe = LEARNING | {"steps": LEARNING["steps"] | {"learn": learn}}
    (wrong,) = problems(Detectors(tmp_path).config(recipe))
    assert is_about(wrong, "method.steps.learn.loss_options.epsilon", 1e-6, [None])


def test_it_learns_every_segment_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    detectors = Detectors(tmp_path)
    learn = LEARNING["steps"]["learn"] | {"loss": "global_local", "input": "qdrop", "iterations": 2}
    # Scenes of several sizes: masks of one image do not fit the next.
    calib = {"size": 4, "batch_size": 1}
    bits = {"weight": 4, "activation": 4}
    config = detectors.config(LEARNING | {"steps": LEARNING["steps"] | {"learn": learn}}, bits=bits, calib=calib)
    assert problems(config) == []
    work = detectors.workspace(config)
    assert len({tuple(image.pixels.shape) for image in work.batches()}) > 1  # type: ignore[attr-defined]
    assert all(bool((curve[0] > 0).all()) for curve in work.curves.values())
    whole = {key: value.clone() for key, value in work.model.model.state_dict().items()}
    state = sorted((detectors.cache / "state").glob("learn-*"))
    assert len(state) == 13
    for file in state[6:]:  # as if it had been killed there
        file.unlink()
    again = detectors.workspace(config).model.model.state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
