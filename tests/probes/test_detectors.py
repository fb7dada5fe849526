"""Probes that look at detectors: a run keeps their arrays and pictures beside its result."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from tests.job.test_detectors import KWARGS, Detectors
from vitq.data.digit_scenes import draw
from vitq.plots.distributions import draw as picture


def test_distributions_and_sensitivity(tmp_path: Path) -> None:
    detectors = Detectors(tmp_path)
    options = {"distributions": {"bins": 8}, "sensitivity": {"by": "kind", "widths": [2, 8], "images": 1}}
    run_dir = detectors.plan(
        "minmax", bits={"weight": 4, "activation": 4}, calib={"size": 1, "batch_size": 1},
        probe={"options": options, "images": 1},
    )  # fmt: skip
    detectors.execute(run_dir)
    assert set(run_dir.probes()) == {"distributions", "sensitivity"}
    seen = run_dir.read_probe("distributions")
    assert seen is not None
    sites = run_dir.read_sites().set_index("site")
    quantized = sites.index[sites["bits"] < 32].tolist()
    assert sorted(seen["site"].tolist()) == sorted(quantized)
    # The proposals' head runs on five levels, all of which count.
    height, width = (-(-side // 32) * 32 for side in draw("test", 0).pixels.shape)
    cells = sum(-(-height // stride) * -(-width // stride) for stride in (4, 8, 16, 32, 64))
    assert seen["counts"][seen["site"].tolist().index("rpn.head.conv.0.0.input")].sum() == KWARGS["pyramid"] * cells
    figure = picture(seen, "a detector's names are long")
    figure.draw_without_rendering()
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 12
    assert not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))
    found = run_dir.read_probe("sensitivity")
    assert found is not None
    assert {"dense", "weight", "probs"} <= set(found["name"].tolist())
    assert np.isfinite(found["kl"]).all()
    assert (found["kl"] >= 0).all()
    assert (found["kl"][:, 0] > found["kl"][:, 1]).mean() > 0.8, "two bits cost more than eight"
    assert ((found["agreement"] >= 0) & (found["agreement"] <= 100)).all()
