"""Figures of sites, against numpy on the tensors that pass them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.errors import is_about
from tests.probes.conftest import partial
from vitq.config import RunConfig
from vitq.plots.distributions import worst
from vitq.probes.budget import BudgetSpentError, PartialResults
from vitq.probes.distributions import Distributions
from vitq.probes.probed_model import Subject
from vitq.probes.site_statistics import StatisticsObserver
from vitq.progress import Progress
from vitq.quant.layout import Axes, Layout
from vitq.quant.per_image import Batch, Extrema, PerImageUniform
from vitq.quant.quantizer import QUANTIZERS
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer

Make = Callable[..., Subject]
BINS = 16


class Collector:
    """Keeps what passes."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[Tensor]] = {}

    def observe(self, site: Site, x: Tensor) -> None:
        self.tensors.setdefault(site.name, []).append(x.detach().clone())


@torch.no_grad()
def passing(subject: Subject) -> dict[str, Tensor]:
    collector = Collector()
    for site in subject.model.sites.values():
        site.observer = collector
    for images, _ in subject.batches:
        subject.model(images)
    for site in subject.model.sites.values():
        site.observer = None
    return {name: xs[0] if name.endswith("weight") else torch.cat(xs) for name, xs in collector.tensors.items()}


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_every_site_is_described_as_numpy_would(subject: Make, family: str) -> None:
    found = subject("repq_vit", family)
    loss = found.loss()
    arrays = Distributions(bins=BINS).measure(found, partial())
    tensors = passing(found)
    names = arrays["site"].tolist()
    assert names == [site.name for site in found.model.sites.values() if site.on]
    for index, name in enumerate(names):
        site, x = found.model.sites[name], tensors[name]
        quantizer = site.quantizer
        assert quantizer is not None
        wide, error = x.double(), (quantizer(x).double() - x.double())
        expected = 10 * np.log10(float(wide.square().sum() / error.square().sum()))
        assert arrays["sqnr_db"][index] == pytest.approx(expected, rel=1e-6)
        assert arrays["counts"][index].sum() == x.numel()
        assert arrays["edges"][index][0] == pytest.approx(float(x.min()), abs=1e-6)
        assert arrays["edges"][index][-1] == pytest.approx(float(x.max()), abs=1e-6)
        exact, _ = np.histogram(x.numpy(), BINS, (float(x.min()), float(x.max())))
        # Only what shares a fine bin with an edge may lie on its other side.
        assert np.abs(np.cumsum(exact) - np.cumsum(arrays["counts"][index])).max() <= 0.02 * x.numel()
        groups = x.reshape(len(x), -1) if site.is_weight else x.reshape(1, -1)
        codes = quantizer.encode(x).reshape(groups.shape)
        unused = 1 - np.mean([len(row.unique()) / quantizer.codes for row in codes])
        assert arrays["unused"][index] == pytest.approx(unused)
        levels = quantizer.levels().sort(dim=1).values
        low = levels[:, :1] - (levels[:, 1:2] - levels[:, :1]) / 2
        high = levels[:, -1:] + (levels[:, -1:] - levels[:, -2:-1]) / 2
        assert arrays["clipped"][index] == pytest.approx(float(((groups < low) | (groups > high)).double().mean()))
        shown = arrays["levels"][index]
        assert shown[~np.isnan(shown)] in levels.double().numpy()
    assert found.loss() == loss
    assert all(site.observer is None for site in found.model.sites.values())
    ranges(found, arrays, tensors)
    assert len(Distributions().draw(arrays, "a run").axes) >= 9 + 4
    order = worst(arrays, 3)
    assert arrays["sqnr_db"][order].max() <= np.sort(arrays["sqnr_db"])[2]


def ranges(found: Subject, arrays: dict[str, np.ndarray], tensors: dict[str, Tensor]) -> None:
    """Channels behind LayerNorm: as they arrive, and as full precision has them."""
    seen: dict[str, Tensor] = {}
    model: Any = found.reference.model
    readers = {link.consumers[0]: link.norm for link in found.reference.links}

    def see(name: str, x: Tensor) -> None:
        seen[name] = torch.cat([seen[name], x]) if name in seen else x

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _m, args, name=name: see(name, args[0]))
        for name in readers
    ]
    with torch.no_grad():
        for images, _ in found.batches:
            model(images)
    for handle in handles:
        handle.remove()
    assert set(arrays["norm"].tolist()) == set(readers)
    for index, name in enumerate(arrays["norm"].tolist()):
        for prefix, x in (("", tensors[f"{name}.input"]), ("fp_", seen[name])):
            channels = x.flatten(0, -2)
            low, high = arrays[f"channel.{prefix}low"][index], arrays[f"channel.{prefix}high"][index]
            np.testing.assert_allclose(low[: channels.shape[1]], channels.amin(0), atol=1e-6)
            np.testing.assert_allclose(high[: channels.shape[1]], channels.amax(0), atol=1e-6)
            assert np.isnan(low[channels.shape[1] :]).all()
        # Folded: one scale for all channels.
        assert len(np.unique(arrays["channel.level_high"][index][: channels.shape[1]])) == 1


def test_any_quantizer_can_be_watched() -> None:

    x = torch.rand(4, 3, 10, 10, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    for name in set(QUANTIZERS) - {"dual_uniform"}:  # for weights alone
        site = Site("attn.context.probs", "probs", Axes(channel=-1, head=1, token=True), "attn")
        granularity = "channel" if name == "ptf" else "tensor"
        site.quantizer = QUANTIZERS[name](4, granularity, site.axes)
        site.quantizer.fit_tensor(x)
        site.on = True
        watcher = StatisticsObserver()
        for part in x.split(2):
            watcher.observe(site, part)
        seen = watcher.seen[site.name]
        assert 0 <= seen.unused < 1, name
        assert 0 <= seen.clip <= 1, name
        assert seen.sqnr > 0, name
        assert seen.elements == x.numel()
        assert 2 <= len(seen.shown_levels()) <= 17, name


def test_ranges_of_each_image_have_no_levels_to_draw() -> None:
    x = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
    site = Site("x", "other", Axes(channel=-1, token=True), "x")
    static = UniformQuantizer(3, "tensor", site.axes)
    static.fit_tensor(x)
    batch = Batch(nn.Identity())
    batch.images = 3
    site.quantizer, site.on = PerImageUniform(static, Extrema(batch)), True
    watcher = StatisticsObserver()
    for part in x.split(3):
        watcher.observe(site, part)
    seen = watcher.seen["x"]
    assert np.isnan(seen.clip)
    assert seen.unused == 0
    assert len(seen.shown_levels()) == 0


def test_clipping_and_codes_of_a_known_tensor() -> None:
    """Levels 0, 1, 2, 3: values above 3.5 are clipped, codes 1 and 2 are unused."""
    site = Site("x", "other", Axes(channel=-1), "x")
    site.quantizer = quantizer = UniformQuantizer(2, "tensor", site.axes)
    quantizer.assign(Layout("tensor", site.axes, 1, ()), torch.ones(1), torch.zeros(1))
    site.on = True
    watcher = StatisticsObserver()
    watcher.observe(site, torch.tensor([[0.0, 0.2, 3.4, 3.6, 9.0, -0.4, -0.6, 0.0]]))
    seen = watcher.seen["x"]
    assert seen.clip == 3 / 8
    assert seen.unused == 0.5
    assert seen.shown_levels().tolist() == [0, 1, 2, 3]
    error = np.array([0, 0.2, 0.4, 0.6, 6, 0.4, 0.6, 0])
    signal = np.array([0, 0.2, 3.4, 3.6, 9, 0.4, 0.6, 0])
    assert seen.sqnr == pytest.approx(10 * np.log10((signal**2).sum() / (error**2).sum()), rel=1e-5)


def test_full_precision_is_skipped(subject: Make) -> None:
    found = subject("fp32")
    assert Distributions().applies(found.config) is not None
    quantized, _ = RunConfig.parse(found.config.to_dict() | {"method": {"name": "m", "kinds": {"default": {}}}})
    assert quantized is not None
    assert Distributions().applies(quantized) is None
    assert is_about(Distributions(bins=1).check(found.config)[0], "bins", 1)


@pytest.mark.parametrize("recipe", ["repq_vit", "adalog"])
def test_a_spent_budget_is_gone_on_from(subject: Make, recipe: str) -> None:
    """Also where the budget ends with the last batch."""
    found = subject(recipe)
    found.__dict__["batches"] = [(i[n : n + 10], y[n : n + 10]) for i, y in found.batches for n in (0, 10, 20)]
    assert sum(len(images) for images, _ in found.batches) == 24
    expected = Distributions().measure(found, partial())
    kept: dict[str, np.ndarray] = {}
    for _ in found.batches:
        with pytest.raises(BudgetSpentError):
            Distributions().measure(found, PartialResults("key", dict(kept), kept.update, 1e-9, Progress()))
    resumed = Distributions().measure(found, PartialResults("key", dict(kept), kept.update, 1e-9, Progress()))
    for name, array in expected.items():
        np.testing.assert_array_equal(resumed[name], array)
