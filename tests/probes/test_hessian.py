"""Hessians against exact ones, of models small enough to have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.errors import is_about
from tests.probes.conftest import partial
from tests.tiny import tiny
from vitq.models.structure import Segment
from vitq.probes.curvature import LossHessian, mean_and_error, rademacher, top_eigenvalues
from vitq.probes.hessian import Hessian, weights_of
from vitq.probes.probed_model import Subject
from vitq.quant.model import QuantizedModel

Make = Callable[..., Subject]


def small() -> tuple[QuantizedModel, Tensor, Tensor]:
    """A ViT with a few hundred weights, in float64, and images with labels."""
    model = QuantizedModel(tiny("vit", depth=2, embed_dim=4, num_heads=2, mlp_ratio=1.0, patch_size=16).double())
    generator = torch.Generator().manual_seed(1)
    return model, torch.randn(6, 3, 32, 32, generator=generator).double(), torch.arange(6) % 5


def exact(model: QuantizedModel, segments: list[Segment], x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Segment → exact Hessian of the mean loss by its weights, by automatic differentiation of a flat vector."""
    found = {}
    for segment in segments:
        names = [f"{name}.weight" for name in model.structure.inputs if segment.holds(name)]
        parameters = {name: model.model.get_parameter(name).detach() for name in names}

        def loss(flat: Tensor, parameters: dict[str, Tensor] = parameters) -> Tensor:
            parts = flat.split([p.numel() for p in parameters.values()])
            put = {name: part.view_as(p) for part, (name, p) in zip(parts, parameters.items(), strict=True)}
            return F.cross_entropy(torch.func.functional_call(model.model, put, (x,)), labels)

        start = torch.cat([p.flatten() for p in parameters.values()])
        found[segment.name] = torch.autograd.functional.hessian(loss, start)
    return found


def test_products_eigenvalues_and_traces_equal_the_exact_hessians() -> None:
    model, x, labels = small()
    chain = model.structure.segments
    for index, segment in enumerate(chain[1:], 1):  # the stem's convolution has 3,072 weights
        expected = exact(model, [segment], x, labels)[segment.name].numpy()
        weights = weights_of(model, segment)
        for batches in ([(x, labels)], [(x[:2], labels[:2]), (x[2:], labels[2:])]):
            with torch.no_grad():
                entering = []
                for batch, label in batches:
                    for before in chain[:index]:
                        batch = before.forward(batch)
                    entering.append((batch, label))
            with LossHessian(chain[index:], weights, entering) as hessian:
                assert hessian.size == len(expected)
                columns = [hessian.flat_product(unit) for unit in np.eye(hessian.size)[:: max(1, hessian.size // 8)]]
                np.testing.assert_allclose(columns, expected[:: max(1, hessian.size // 8)], atol=1e-10)
                values, products = top_eigenvalues(hessian, 3, 1e-6, 0)
                vectors = [rademacher(weights, seed) for seed in range(100)]
                forms = [sum(float((v * p).sum()) for v, p in zip(r, hessian.product(r), strict=True)) for r in vectors]
            order = np.linalg.eigvalsh(expected)
            order = order[np.argsort(-np.abs(order))]
            np.testing.assert_allclose(values, order[:3], rtol=1e-4)
            assert products >= 3
            mean, error = mean_and_error(np.array(forms)[:, None])
            assert abs(mean[0] - np.trace(expected)) <= 4 * error[0]
            assert error[0] < 0.5 * np.abs(np.diag(expected)).sum()
    assert all(p.requires_grad for p in model.model.parameters()), "as it was"


def test_one_product_serves_all_blocks() -> None:
    """The parts of vᵀHv over all weights are unbiased for each block's own trace."""
    model, x, labels = small()
    chain = model.structure.segments
    expected = {name: float(h.trace()) for name, h in exact(model, chain[1:], x, labels).items()}
    for parameter in model.model.patch_embed.parameters():  # type: ignore[union-attr]
        parameter.requires_grad_(False)
    probe = Hessian(max_samples=300, min_samples=300, tolerance=1e-9, eigen="none")
    weights = {segment.name: weights_of(model, segment) for segment in chain[1:]}
    entering = [(chain[0].forward(x).detach(), labels)]
    samples = probe._samples(chain[1:], weights, entering, partial())
    mean, error = mean_and_error(samples)
    for index, name in enumerate(weights):
        assert abs(mean[index] - expected[name]) <= 4 * error[index]
    np.testing.assert_allclose(samples[:, -1], samples[:, :-1].sum(axis=1))


def test_sampling_stops_by_its_rule() -> None:
    probe = Hessian(tolerance=0.1, min_samples=3, max_samples=10)
    steady = np.array([[1.0, 2.0], [1.01, 2.0], [0.99, 2.02]])
    assert not probe._settled(steady[:2])
    assert probe._settled(steady)
    assert not probe._settled(steady + np.array([[0, 0], [0, 1], [0, -1]]))


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_run_has_a_hessian_at_both_points(subject: Make, family: str) -> None:
    found = subject("repq_vit", family)
    loss, wanted = found.loss(), [p.requires_grad for p in found.model.parameters()]
    options: dict[str, Any] = {"images": 4, "min_samples": 2, "max_samples": 2, "top": 1, "eigen_tolerance": 0.3}
    quantized = Hessian(**options).measure(found, partial())
    plain = Hessian(**options, at="fp", eigen="blocks", batch_size=2).measure(found, partial())
    names = [segment.name for segment in found.model.structure.segments]
    for arrays in (quantized, plain):
        assert [name for name in names if name in arrays["block"].tolist()] == arrays["block"].tolist()
        assert np.isfinite(arrays["trace"]).all()
        assert (arrays["trace_se"] > 0).all()
        assert np.isfinite(arrays["eigenvalues"]).all()
        assert len(Hessian().draw(arrays, "a run").axes) == 3
    assert np.isfinite(quantized["model.eigenvalues"]).all()
    assert np.isnan(plain["model.eigenvalues"]).all()
    assert np.abs(quantized["model.eigenvalues"]).max() >= 0.6 * np.abs(quantized["eigenvalues"]).max()
    assert not np.allclose(quantized["trace"], plain["trace"])
    assert found.loss() == loss
    assert [p.requires_grad for p in found.model.parameters()] == wanted
    assert quantized["parameters"].sum() == quantized["model.parameters"]
    again = Hessian(**options | {"eigen": "none"}).measure(found, partial())
    np.testing.assert_array_equal(again["samples"], quantized["samples"])


def test_full_precision_in_the_engine_is_timms_function(subject: Make) -> None:
    """At `fp` the point is the untouched model: its loss by the probe's chain equals timm's."""
    found = subject("repq_vit")
    model: Any = found.reference.model
    with Hessian(at="fp")._network(found) as (_, segments), torch.no_grad():
        x = found.batches[0][0]
        out = x
        for segment in segments:
            out = segment.forward(out)
        torch.testing.assert_close(out, model(x), atol=1e-4, rtol=1e-4)
    with Hessian()._network(found) as (_, segments), torch.no_grad():
        quantized = x
        for segment in segments:
            quantized = segment.forward(quantized)
    assert not torch.allclose(quantized, out, atol=1e-3)


def test_options_are_checked(subject: Make) -> None:
    config = subject("minmax").config
    assert len(Hessian(images=0, min_samples=1, top=0, tolerance=0).check(config)) == 4
    assert is_about(Hessian(max_samples=3).check(config)[0], "max_samples", 3)
    assert Hessian().check(config) == []
    assert Hessian(eigen="none").passes(config) < Hessian().passes(config)


def test_one_sample_has_no_error() -> None:
    mean, error = mean_and_error(np.array([[2.0]]))
    assert mean[0] == 2
    assert np.isinf(error[0])
