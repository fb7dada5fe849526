"""Sensitivities against plain forward passes, and what allocation takes over of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from tests.job.planner import CONF, Planner
from tests.probes.conftest import partial
from vitq.config import RunConfig
from vitq.probes.probed_model import Subject
from vitq.probes.sensitivity import Sensitivity, grouped, own_kl
from vitq.quant.layout import Axes
from vitq.quant.per_image import Batch, Extrema, PerImageUniform
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.allocation import allocate
from vitq.steps.allocation.sensitivity import at_width
from vitq.steps.allocation.sensitivity_cache import SensitivityTable
from vitq.steps.step import steps_before
from vitq.track import probes as tracked

Make = Callable[..., Subject]


def settings(found: Subject) -> list[tuple[str, bool, int]]:
    return [(site.name, site.on, id(site.quantizer)) for site in found.model.sites.values()]


@torch.no_grad()
def by_hand(found: Subject, names: list[str]) -> tuple[float, float, float]:
    """KL, increase of the cross-entropy and agreement with these sites alone on, by forward passes of whole models."""
    reference: Any = found.reference.model
    total = len(found.calib)
    chosen = torch.linspace(0, total - 1, 6).round().long().tolist()
    ((images, labels),) = found.calib.take(chosen).batches(16, torch.device("cpu"))
    before = [site for site in found.model.sites.values() if site.on]
    found.model.switch(before, on=False)
    found.model.switch([found.model.sites[name] for name in names], on=True)
    exact: Tensor = reference(images).double().log_softmax(1)
    noisy = found.model(images).double().log_softmax(1)
    found.model.switch([found.model.sites[name] for name in names], on=False)
    found.model.switch(before, on=True)
    kl = float((exact.exp() * (exact - noisy)).sum(1).mean())
    rise = float(F.nll_loss(noisy, labels) - F.nll_loss(exact, labels))
    return kl, rise, 100 * float((exact.argmax(1) == noisy.argmax(1)).double().mean())


@pytest.mark.parametrize(("by", "family"), [("site", "vit"), ("layer", "swin"), ("kind", "vit")])
def test_each_alone_scores_what_a_forward_pass_says(subject: Make, by: str, family: str) -> None:
    found = subject("repq_vit", family)
    before, loss = settings(found), found.loss()
    arrays = Sensitivity(by=by, widths=(4, 8), images=6).measure(found, partial())  # type: ignore[arg-type]
    groups = grouped([site for site in found.model.quantized() if site.on], by)
    assert arrays["name"].tolist() == list(groups)
    for row, members in list(enumerate(groups.values()))[::5]:
        kl, rise, same = by_hand(found, [site.name for site in members])
        assert arrays["kl"][row, 0] == pytest.approx(kl, rel=1e-4, abs=1e-7)
        assert arrays["loss_increase"][row, 0] == pytest.approx(rise, rel=1e-3, abs=1e-5)
        assert arrays["agreement"][row, 0] == pytest.approx(same)
    assert arrays["kl"][:, 1].mean() < arrays["kl"][:, 0].mean()
    assert (arrays["own"] == 4).all()
    np.testing.assert_array_equal(own_kl(arrays), arrays["kl"][:, 0])
    assert (np.diff(own_kl(arrays)[arrays["ranking"]]) <= 0).all()
    assert settings(found) == before
    assert found.loss() == loss
    assert len(Sensitivity().draw(arrays, "a run").axes) == 3


def test_a_width_that_was_not_measured_is_ranked_by_the_least_one() -> None:
    arrays = {"width": np.array([3, 6]), "own": np.array([4, 6]), "kl": np.array([[1.0, 0.1], [2.0, 0.2]])}
    assert own_kl(arrays).tolist() == [1.0, 0.2]


def test_allocation_takes_over_what_the_probe_measured(
    planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calib = {"size": 16, "batch_size": 16}
    recipe = yaml.safe_load((CONF / "method" / "mixed_precision.yaml").read_text())
    recipe["steps"]["allocate"] |= {"policy": "milp", "widths": [3, 4, 6], "images": 8}
    measured: list[int] = []
    original = allocate.table

    def counted(*args: Any) -> Any:
        measured.append(1)
        return original(*args)

    monkeypatch.setattr(allocate, "table", counted)
    # Without a probe: measured once, and again under another budget from the cache.
    (tmp_path / "plain").mkdir()
    plain = Planner(tmp_path / "plain")
    expected = plain.plan("mixed_precision", method=recipe, calib=calib)
    plain.execute(expected)
    assert len(measured) == 1
    wider = {**recipe, "steps": {**recipe["steps"], "allocate": {**recipe["steps"]["allocate"], "mean_bits": 5.0}}}
    plain.execute(plain.plan("mixed_precision", method=wider, calib=calib))
    assert len(measured) == 1
    # After a probe of the recipe that allocation stands on: not measured at all, and the same bits.
    probe = {"options": {"sensitivity": {"widths": [3, 4, 6, 8], "images": 8}}}
    probed = planner.plan("repq_vit", calib=calib, probe=probe)
    planner.execute(probed)
    run_dir = planner.plan("mixed_precision", method=recipe, calib=calib)
    planner.execute(run_dir)
    assert len(measured) == 1
    assert run_dir.read_sites().equals(expected.read_sites())
    ours, theirs = (r.read_artifact("allocation_sensitivity") for r in (run_dir, expected))
    assert ours.equals(theirs)
    # Other calibration images are another question.
    planner.execute(planner.plan("mixed_precision", method=recipe, calib=calib, seed=1))
    assert len(measured) == 2
    table = tracked.sensitivity(probed)
    assert table is not None
    merged = table.merge(ours, on=["site", "bits"], suffixes=("_probe", ""))
    assert len(merged) == len(ours)
    assert (merged["loss_probe"] == merged["loss"]).all()


def test_the_cache_answers_whole_questions_only_and_survives_damage(subject: Make) -> None:
    config = subject("repq_vit").config
    known = SensitivityTable(config, steps_before(config), 8, torch.device("cpu"))
    known.add({"a": {3: 0.1 + 0.2, 4: 1e-300}})
    known.add({"a": {8: 0.0}, "b": {3: 1.0}})
    assert known.losses(["a"], [3, 4, 8]) == {"a": {3: 0.1 + 0.2, 4: 1e-300, 8: 0.0}}
    assert known.losses(["a", "b"], [3]) == {"a": {3: 0.1 + 0.2}, "b": {3: 1.0}}
    assert known.losses(["a", "b"], [3, 4]) is None
    assert known.losses(["c"], [3]) is None
    patterns: list[dict[str, int | str]] = [{"blocks.0.*": 8, "*.fc1.*": 3}, {"*.fc1.*": 3, "blocks.0.*": 8}]
    turned = [replace(config, bits=replace(config.bits, sites=sites)) for sites in patterns]
    for other in (
        SensitivityTable(config, steps_before(config)[:-1], 8, torch.device("cpu")),
        SensitivityTable(config, steps_before(config), 9, torch.device("cpu")),
        SensitivityTable(config, steps_before(config), 8, torch.device("cuda")),
        SensitivityTable(turned[0], steps_before(config), 8, torch.device("cpu")),
        SensitivityTable(turned[1], steps_before(config), 8, torch.device("cpu")),
    ):
        assert other.path != known.path
    # Of two patterns that match a site the last one wins.
    assert len({SensitivityTable(one, steps_before(config), 8, torch.device("cpu")).path for one in turned}) == 2
    known.path.write_bytes(b"{")
    assert known.losses(["a"], [3]) is None


def test_options_are_checked() -> None:
    raw = {"model": {"name": "a"}, "data": {"name": "b"}, "method": {"name": "c"}}
    config, _ = RunConfig.parse(raw)
    assert config is not None
    assert Sensitivity().applies(config) is not None
    quantized, _ = RunConfig.parse(raw | {"method": {"name": "c", "kinds": {"default": {}}}})
    assert quantized is not None
    assert Sensitivity().applies(quantized) is None
    assert len(Sensitivity(widths=(4, 4), images=0).check(config)) == 2
    assert Sensitivity(by="kind").passes(config) < Sensitivity().passes(config)


def test_ranges_of_each_image_are_fitted_at_another_width() -> None:
    x = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
    static = UniformQuantizer(4, "tensor", Axes(channel=-1, token=True), range_search="mse")
    static.fit_tensor(x)
    predicted = PerImageUniform(static, Extrema(Batch(nn.Identity())))
    own = at_width(predicted, 4)
    assert type(own) is UniformQuantizer, "segments run alone: no image's own range is known there"
    assert torch.equal(own(x), static(x))
    other = at_width(predicted, 3)
    assert not other.fitted
    other.fit_tensor(x)
    expected = UniformQuantizer(3, "tensor", static.axes, range_search="mse")
    expected.fit_tensor(x)
    torch.testing.assert_close(other(x), expected(x))
