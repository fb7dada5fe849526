"""Coefficients of predicted scales: features and best factors of each image, and the fit, computed by hand in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.tiny import images, part, run, tiny, uniform
from vitq.steps import Workspace

Make = Callable[..., Workspace]
PLAIN = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
CALIBRATE = {"do": "calibrate"}
SITE = "blocks.1.mlp.fc1.input"
COUNT = 12


@torch.no_grad()
def test_the_closed_fit_by_hand(workspace: Make) -> None:
    """Each image's feature meets its own best factor, among 25 tried, over all 16 codes of the static zero point."""
    work = workspace(tiny("vit"), PLAIN, images=COUNT, weight="fp", activation=4)
    # Images of different contrast have different best factors.
    images(work).mul_(torch.linspace(0.2, 4, COUNT).view(-1, 1, 1, 1))
    run(work, CALIBRATE)
    quantizer = uniform(work, SITE)
    scale, zero = float(quantizer.scale), float(quantizer.zero_point)
    seen: dict[str, np.ndarray] = {}
    hooks = [
        work.model.sites[SITE].register_forward_pre_hook(lambda _, x: seen.update(x=x[0].double().numpy())),
        part(work.model.model, "blocks.0").register_forward_hook(
            lambda _module, _x, out: seen.update(tapped=out.double().numpy())
        ),
    ]
    work.model.model(images(work))
    for hook in hooks:
        hook.remove()
    run(work, {"do": "predict_scales", "ridge": 0.05, "chunks": 4, "degree": 2})

    factors = np.unique(np.append(np.exp(np.linspace(np.log(0.5), np.log(2), 24)), 1.0))
    x = seen["x"]
    errors = []
    for factor in factors:
        step = scale * factor
        rounded = (np.clip(np.round(x / step) + zero, 0, 15) - zero) * step
        errors.append(((rounded - x) ** 2).reshape(COUNT, -1).sum(axis=1))
    best = factors[np.argmin(errors, axis=0)]
    chunks = np.array_split(seen["tapped"], [5, 10, 15], axis=1)  # torch.chunk: ceil(17/4) tokens each
    top = np.mean([chunk.max(axis=(1, 2)) for chunk in chunks], axis=0)
    bottom = np.mean([chunk.min(axis=(1, 2)) for chunk in chunks], axis=0)
    feature = top - bottom
    feature = (feature - feature.mean()) / feature.std()
    powers = np.stack([feature, feature**2], axis=1)
    expected = np.linalg.solve(powers.T @ powers + 0.05 * COUNT * np.eye(2), powers.T @ (best - 1))

    row = work.artifacts["predicted_scales"].set_index("site").loc[SITE]
    assert row["best_mean"] == pytest.approx(best.mean(), rel=1e-5)
    assert [row["a1"], row["a2"]] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(("of_method", "expected"), [(None, 7), (3, 3)])
def test_the_methods_iterations_override_the_steps(workspace: Make, of_method: int | None, expected: int) -> None:
    work = workspace(tiny("vit"), {**PLAIN, "iterations": of_method}, images=8, weight=4, activation=4)
    run(work, CALIBRATE, {"do": "predict_scales", "fit": "gradient", "iterations": 7})
    (curve,) = work.curves["predict_scales"]
    assert len(curve) == expected
