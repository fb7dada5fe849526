"""Per-image scales: the fit against numpy, the quantizer against one image at a time, and the base at a = 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.errors import is_about, refuses
from tests.tiny import images, run, tiny
from vitq.errors import under
from vitq.methods.scale_predictor import solve
from vitq.planning import compose
from vitq.quant.layout import Axes, Layout
from vitq.quant.per_image import Batch, Extrema, Percentile, PerImageUniform
from vitq.quant.predictor import Predicted, Predictor
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.step import parse_step

Make = Callable[..., Workspace]
BASE = {
    "kinds": {
        "weight": {"granularity": "channel"},
        "query": {"granularity": "head"},
        "post_norm": {"granularity": "channel"},
        "probs": {"quantizer": "log2"},
        "default": {},
    }
}
PLAIN = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
CALIBRATE = {"do": "calibrate"}


# Post-norm ranges are folded into one scale.
FOLDED = {"kinds": {**BASE["kinds"], "post_norm": {"granularity": "channel", "options": {"include_zero": False}}}}
FOLD = {"do": "reparameterize"}


def predict(**options: Any) -> dict[str, Any]:
    return {"do": "predict_scales", **options}


def logits(work: Workspace) -> Tensor:
    with torch.no_grad():
        out: Tensor = work.model(images(work))
    return out


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("ranges", ["predicted", "minmax", "percentile"])
def test_it_stands_on_folded_ranges(workspace: Make, family: str, ranges: str) -> None:
    work = workspace(tiny(family), FOLDED, images=8, weight=4, activation=4)
    run(work, {"do": "calibrate", "sites": "activations"}, FOLD, {"do": "calibrate", "sites": "weights"})
    static = logits(work)
    run(work, predict(ranges=ranges))
    changed = logits(work)
    assert changed.shape == static.shape
    assert bool(torch.isfinite(changed).all())
    assert not torch.equal(changed, static)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_without_coefficients_it_is_the_base(workspace: Make, family: str) -> None:
    work = workspace(tiny(family), BASE, weight=4, activation=4)
    run(work, CALIBRATE)
    base = logits(work)
    run(work, predict(degree=3, feature="ends", zero_points="predict", fit="gradient", iterations=2))
    changed = logits(work)
    assert not torch.equal(changed, base)
    predictor = work.model.predictor
    assert isinstance(predictor, Predictor)
    predictor.scales.data.zero_()
    predictor.zeros.data.zero_()
    assert torch.equal(logits(work), base)


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize("ranges", ["predicted", "minmax", "percentile"])
def test_an_image_does_not_depend_on_its_neighbours(workspace: Make, family: str, ranges: str) -> None:
    work = workspace(tiny(family), BASE, weight=4, activation=4)
    run(work, CALIBRATE, predict(ranges=ranges, percentile=0.99))
    # Sums in another order would round some codes the other way in float32, how many depends on the machine.
    work.model.double()
    x = images(work)[:6].double()
    with torch.no_grad():
        together = work.model(x)
        apart = torch.cat([work.model(one) for one in x.split(1)])
    assert (together - apart).norm() < 1e-6 * together.norm()


@pytest.mark.parametrize("granularity", ["tensor", "channel", "head", "group:2"])
@pytest.mark.parametrize("ranges", ["minmax", "percentile"])
def test_ranges_of_an_image_are_those_of_a_static_quantizer_fitted_to_it(granularity: str, ranges: str) -> None:
    axes = Axes(channel=-1, head=1, token=True)
    x = torch.randn(5, 2, 7, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6).view(5, 1, 1, 1)
    static = UniformQuantizer(4, granularity, axes)
    static.fit_tensor(x)
    batch = Batch(nn.Identity())
    batch.images = len(x)
    source = Extrema(batch) if ranges == "minmax" else Percentile(batch, 0.85)
    for index in range(len(x)):
        one = x[index : index + 1]
        alone = UniformQuantizer(4, granularity, axes)
        layout = Layout.of(granularity, axes, tuple(one.shape))
        rows = layout.rows(one).double().numpy()
        cut = 0 if ranges == "minmax" else round((1 - source.p) * (rows.shape[1] - 1))  # type: ignore[attr-defined]
        ordered = np.sort(rows, axis=1)
        low, high = np.minimum(ordered[:, cut], 0), np.maximum(ordered[:, -1 - cut], 0)
        scale = np.maximum((high - low) / 15, 1e-30)
        alone.assign(layout, torch.tensor(scale).float(), torch.tensor(np.round(-low / scale)).float())
        assert torch.allclose(PerImageUniform(static, source)(x)[index : index + 1], alone(one), atol=1e-6)


@given(st.integers(2, 8), st.integers(0, 10_000))
def test_codes_stay_within_the_bits(bits: int, seed: int) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 10
    x[0] = 0
    x[1] = -2.5
    static = UniformQuantizer(bits, "tensor", Axes(-1, token=True))
    static.fit_tensor(x)
    batch = Batch(nn.Identity())
    batch.images = 3
    dynamic = PerImageUniform(static, Extrema(batch))
    codes = dynamic.encode(x)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 2**bits
    out = dynamic(x)
    assert torch.equal(out[0], x[0])  # an image that is constant is exact
    assert torch.equal(out[1], x[1])


@given(st.integers(1, 3), st.sampled_from([0.0, 0.1, 3.0]))
def test_the_fit_is_ridge_regression(degree: int, ridge: float) -> None:
    rng = np.random.default_rng(degree)
    powers, target = rng.normal(size=(20, degree)), rng.normal(size=(20, 4))
    # Ridge as plain least squares with √(λn)·I below: an independent way to the same minimum.
    stacked = np.vstack([powers, np.sqrt(ridge * 20) * np.eye(degree)])
    expected = np.linalg.lstsq(stacked, np.vstack([target, np.zeros((degree, 4))]), rcond=None)[0]
    found = solve(torch.tensor(powers), torch.tensor(target), ridge)
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_features_are_means_over_chunks_of_their_extrema() -> None:
    x = torch.randn(3, 10, 6, generator=torch.Generator().manual_seed(0))
    predictor = Predictor(sites=1, features=2, degree=1, chunks=4, clamp=(0.5, 2.0), constant=False)
    chunks = np.array_split(x.numpy(), [3, 6, 9], axis=1)  # torch.chunk: ceil(10/4) tokens each, the rest in the last
    top = np.mean([c.max(axis=(1, 2)) for c in chunks], axis=0)
    bottom = np.mean([c.min(axis=(1, 2)) for c in chunks], axis=0)
    assert np.allclose(predictor.features(x).numpy(), np.stack([top, bottom], axis=1), atol=1e-6)


def test_the_factor_is_a_clamped_polynomial() -> None:
    predictor = Predictor(sites=2, features=1, degree=2, chunks=1, clamp=(0.5, 2.0), constant=False)
    predictor.scales.data = torch.tensor([[0.1, 9.0], [0.02, 0.0]])
    x = torch.zeros(3, 4, 2)
    x[:, 0, 0] = torch.tensor([1.0, 2.0, -3.0])  # ranges 1, 2, 3
    predictor.see(x)
    factors, _ = predictor.of(0, 3)
    assert factors.squeeze(1).tolist() == pytest.approx([1.12, 1.28, 1.48])
    assert predictor.of(1, 6)[0].squeeze(1).tolist() == [2.0] * 6  # clamped; two windows an image
    with refuses(RuntimeError, key="rows", value=4, valid=[3]):
        predictor.of(0, 4)


def test_fitted_factors_lower_the_error_of_the_calibration_images(workspace: Make) -> None:
    """Images of different contrast: the static scale fits none of them, and the shallow range tells them apart."""
    work = workspace(tiny("vit"), PLAIN, weight=4, activation=4)
    x = images(work)
    x.mul_(torch.linspace(0.2, 4, len(x)).view(-1, 1, 1, 1))
    run(work, CALIBRATE)
    exact = torch.cat([_teach(work, b) for b in work.batches()])

    def error() -> float:
        with torch.no_grad():
            return float((torch.cat([work.model(b) for b in work.batches()]) - exact).square().sum())

    static = error()
    run(work, predict(tap="stem", ridge=0.0, degree=2, constant=True))
    assert error() < static
    table = work.artifacts["predicted_scales"]
    assert table["explained"].max() > 0.5
    assert (table["parameters"] == 3).all()


def _teach(work: Workspace, x: Tensor) -> Tensor:
    with torch.no_grad():
        for segment in work.teacher.segments:
            x = segment.forward(x)
    return x


def test_the_gradient_fit_lowers_its_loss_and_leaves_the_model_alone(workspace: Make) -> None:
    work = workspace(tiny("vit"), PLAIN, weight=3, activation=3)
    run(work, CALIBRATE)
    before = {name: p.clone() for name, p in work.model.model.named_parameters()}
    run(work, predict(fit="gradient", iterations=60, lr=2e-3, batch_size=16, zero_points="predict"))
    (curve,) = work.curves["predict_scales"]
    assert curve[-10:].mean() < curve[:10].mean()
    assert all(torch.equal(p, before[name]) for name, p in work.model.model.named_parameters())
    assert not any(p.requires_grad for p in work.model.parameters())
    predictor = work.model.predictor
    assert isinstance(predictor, Predictor)
    assert float(predictor.zeros.abs().max()) > 0, "zero points are learned too"


def test_predicted_scales_of_a_site_are_its_own() -> None:
    static = UniformQuantizer(4, "tensor", Axes(-1, token=True))
    static.fit_tensor(torch.randn(2, 3, 4))
    predictor = Predictor(sites=3, features=1, degree=1, chunks=1, clamp=(0.5, 2.0), constant=False)
    predictor.scales.data = torch.tensor([[0.0, 0.25, 0.0]])
    predictor.see(torch.tensor([[[0.0, 1.0]], [[0.0, 2.0]]]))
    scale, zero = Predicted(predictor, 1, moves_zero=True).parameters(static, torch.zeros(2, 3, 4), static.scale)
    assert scale.flatten().tolist() == pytest.approx([float(static.scale) * 1.25, float(static.scale) * 1.5])
    assert zero.flatten().tolist() == [float(static.zero_point)] * 2


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"degree": 4}, "degree", 4),
        ({"chunks": 0}, "chunks", 0),
        ({"clamp": [1.5, 2]}, "clamp", [1.5, 2.0]),
        ({"ridge": -1}, "ridge", -1.0),
        ({"zero_points": "predict"}, "zero_points", "predict"),
        ({"images": 100_000}, "images", 100_000),
        ({"percentile": 0.4}, "percentile", 0.4),
    ],
)
def test_options_are_checked_at_plan_time(workspace: Make, options: dict[str, Any], key: str, value: object) -> None:
    work = workspace(tiny("vit"), BASE)
    step, problems = parse_step("p", {"do": "predict_scales", **options})
    (problem,) = problems if step is None else [under("method.steps.p", text) for text in step.check(work.config)]
    assert is_about(problem, f"method.steps.p.{key}", value)


def cells(*overrides: str) -> list[compose.ConfigCell]:
    file, roots = compose.root_config(None, None)
    return list(compose.expand(compose.load(file, roots, ["method=scale_predictor", *overrides], multirun=True)))


def test_the_base_comes_first_and_can_be_overridden() -> None:
    one, two = cells("method.base=repq_vit,ias_vit", "method.kinds.probs.quantizer=log2")
    assert one.raw["method"]["name"] == "scale_predictor(repq_vit)"
    assert two.raw["method"]["name"] == "scale_predictor(ias_vit)"
    assert list(two.raw["method"]["steps"])[-1] == "predict"
    assert next(iter(two.raw["method"]["steps"])) == "ranges"
    assert two.raw["method"]["kinds"]["probs"] == {"quantizer": "log2", "granularity": "tensor"}
    assert "base" not in two.raw["method"]


@pytest.mark.parametrize(
    ("base", "valid"),
    [
        ("repq", ["adalog", "repq_vit"]),
        ("fp32", []),  # quantizes nothing
        ("scale_predictor", []),  # stands on a base itself
    ],
)
def test_a_base_that_cannot_be_is_named(base: str, valid: list[str]) -> None:
    (cell,) = cells(f"method.base={base}")
    assert cell.problem is not None
    assert is_about(cell.problem, "method.base", base, valid)


def test_the_prediction_comes_last() -> None:
    from vitq.config import RunConfig
    from vitq.engine.recipe_checks import problems

    (cell,) = cells("method.steps.bias={do:bias_correction}")
    config, _ = RunConfig.parse(cell.raw)
    assert config is not None
    assert any(is_about(problem, "method.steps.predict", "bias") for problem in problems(config))
