"""Predicted scales and zero points by hand in numpy: features, best factors, the fit, and that every option is read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import Images, images, part, run, tiny, uniform
from vitq.quant.per_image import PerImageUniform
from vitq.quant.predictor import Predictor
from vitq.steps import Workspace

Make = Callable[..., Workspace]
PLAIN = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
CALIBRATE = {"do": "calibrate"}
SITE = "blocks.1.mlp.fc1.input"
COUNT = 12


@pytest.fixture
def work(workspace: Make) -> Workspace:
    """Calibrated on images of different contrast, which have different best factors."""
    made = workspace(tiny("vit"), PLAIN, images=COUNT, weight="fp", activation=4)
    images(made).mul_(torch.linspace(0.2, 4, COUNT).view(-1, 1, 1, 1))
    run(made, CALIBRATE)
    return made


def passing(work: Workspace, tap: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What reaches and what leaves the site, and what leaves the tapped module, of all images, in float64."""
    seen: dict[str, Tensor] = {}
    hooks = [
        work.model.sites[SITE].register_forward_hook(lambda _, x, out: seen.update(x=x[0], out=out)),
        part(work.model.model, tap).register_forward_hook(lambda _module, _x, out: seen.update(tapped=out)),
    ]
    work.model.model(images(work))
    for hook in hooks:
        hook.remove()
    x, out, tapped = (seen[name].double().numpy() for name in ("x", "out", "tapped"))
    return x, out, tapped


def standardized(tapped: np.ndarray, ends: bool) -> np.ndarray:
    """(images, F): the features of four chunks of tokens as torch.chunk cuts them, the rest in the last."""
    each = -(-tapped.shape[1] // 4)
    chunks = [tapped[:, start : start + each] for start in range(0, tapped.shape[1], each)]
    top = np.mean([chunk.max(axis=(1, 2)) for chunk in chunks], axis=0)
    bottom = np.mean([chunk.min(axis=(1, 2)) for chunk in chunks], axis=0)
    feature = np.stack([top, bottom] if ends else [top - bottom], axis=1)
    centred: np.ndarray = (feature - feature.mean(axis=0)) / feature.std(axis=0)
    return centred


@pytest.mark.parametrize("images_", [None, 5])
@pytest.mark.parametrize(
    ("tap", "module", "feature"),
    [("block", "blocks.0", "range"), ("stem", "patch_embed", "range"), ("block", "blocks.0", "ends")],
)
@torch.no_grad()
def test_the_closed_fit_by_hand(work: Workspace, tap: str, module: str, feature: str, images_: int | None) -> None:
    """Each image's feature meets its own best factor, among 25 tried, over all 16 codes of the static zero point."""
    quantizer = uniform(work, SITE)
    scale, zero = float(quantizer.scale), float(quantizer.zero_point)
    x, _, tapped = passing(work, module)
    count = images_ or COUNT
    options = {"tap": tap, "feature": feature, "images": images_}
    run(work, {"do": "predict_scales", "ridge": 0.05, "chunks": 4, "degree": 2, **options})

    factors = np.unique(np.append(np.exp(np.linspace(np.log(0.5), np.log(2), 24)), 1.0))
    errors = []
    for factor in factors:
        step = scale * factor
        rounded = (np.clip(np.round(x / step) + zero, 0, 15) - zero) * step
        errors.append(((rounded - x) ** 2).reshape(COUNT, -1).sum(axis=1))
    best = factors[np.argmin(errors, axis=0)][:count]
    r = standardized(tapped[:count], feature == "ends")
    powers = np.concatenate([r, r**2], axis=1)
    gram = powers.T @ powers + 0.05 * count * np.eye(powers.shape[1])
    expected = np.linalg.solve(gram, powers.T @ (best - 1))

    row = work.artifacts["predicted_scales"].set_index("site").loc[SITE]
    assert row["best_mean"] == pytest.approx(best.mean(), rel=1e-5)
    assert row["parameters"] == len(expected)
    assert [row[f"a{k + 1}"] for k in range(len(expected))] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(("fit", "passes"), [("closed", 1), ("gradient", 2)])
def test_no_more_images_are_served_than_are_fitted_to(work: Workspace, fit: str, passes: int) -> None:
    """One batch of 8 each time out of 12 images; the gradient fit reads the images that it learns from once more."""
    assert isinstance(work.calib, Images)
    before = work.calib.served
    run(work, {"do": "predict_scales", "images": 5, "fit": fit, "iterations": 1})
    assert work.calib.served - before == 8 * passes


@torch.no_grad()
def test_predicted_zero_points_are_codes(work: Workspace) -> None:
    """clamp(round(z₀ + b₁·r + b₂·r²)), and the site quantizes with that."""
    static = uniform(work, SITE)
    scale, zero = float(static.scale), float(static.zero_point)
    with torch.enable_grad():
        options = {"chunks": 4, "degree": 2, "zero_points": "predict", "fit": "gradient", "iterations": 1}
        run(work, {"do": "predict_scales", **options})
    predictor = work.model.predictor
    assert isinstance(predictor, Predictor)
    predictor.scales.data.zero_()
    predictor.zeros.data[:] = torch.tensor([[4.3], [2.9]])
    x, out, tapped = passing(work, "blocks.0")
    r = standardized(tapped, ends=False)[:, 0]
    expected = np.clip(np.round(zero + 4.3 * r + 2.9 * r**2), 0, 15)
    inside = (expected > 0) & (expected < 15)
    assert 3 <= inside.sum() < COUNT, "some are rounded, some clamped, or nothing is proved"
    quantizer = work.model.sites[SITE].quantizer
    assert isinstance(quantizer, PerImageUniform)
    found = quantizer.ranges(torch.from_numpy(x).float(), quantizer.scale)[1]
    assert found.flatten().tolist() == expected.tolist()
    wide = expected.reshape(-1, 1, 1)
    codes = np.clip(np.round(x / scale) + wide, 0, 15)
    assert np.allclose(out, (codes - wide) * scale, atol=1e-6)


@torch.no_grad()
def test_the_percentile_of_the_baseline_is_the_steps(work: Workspace) -> None:
    """Each image's range is cut at the order statistics nearest to 5 and 95 percent of its values."""
    run(work, {"do": "predict_scales", "ranges": "percentile", "percentile": 0.95})
    x, out, _ = passing(work, "blocks.0")
    ordered = np.sort(x.reshape(COUNT, -1), axis=1)
    cut = round(0.05 * (ordered.shape[1] - 1))
    low, high = np.minimum(ordered[:, cut], 0), np.maximum(ordered[:, -1 - cut], 0)
    scale = ((high - low) / 15).reshape(-1, 1, 1)
    zero = np.round(-low.reshape(-1, 1, 1) / scale)
    codes = np.clip(np.round(x / scale) + zero, 0, 15)
    assert np.allclose(out, (codes - zero) * scale, atol=1e-5)


@pytest.mark.parametrize(("of_method", "expected"), [(None, 7), (3, 3)])
def test_the_methods_iterations_override_the_steps(workspace: Make, of_method: int | None, expected: int) -> None:
    work = workspace(tiny("vit"), {**PLAIN, "iterations": of_method}, images=8, weight=4, activation=4)
    run(work, CALIBRATE, {"do": "predict_scales", "fit": "gradient", "iterations": 7})
    (curve,) = work.curves["predict_scales"]
    assert len(curve) == expected
