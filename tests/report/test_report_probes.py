"""Landscapes and distributions on the page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from vitq import report
from vitq.plots.landscape_views import logarithm, surface
from vitq.probes import landscape_scalars
from vitq.report import probe_pictures
from vitq.report.distributions import histograms
from vitq.report.landscapes import MOST, side_by_side
from vitq.report.probe_data import by_model, read_probe
from vitq.store import RunDir, Store
from vitq.track.probes import surfaces

PNG = b"\x89PNG"


def landscape(depth: float, points: int = 21) -> dict[str, np.ndarray]:
    """A bowl, with waves where post-LayerNorm is tensor-wise."""
    x = landscape_scalars.axis(points, 1.0)
    bowl = depth + x[None] ** 2 + x[:, None] ** 2
    rough = bowl * (1.5 + 0.3 * np.sin(30 * x)[None])
    arrays = {"random.axis": x, "random.loss": bowl, "block.scale": x, "block.weight": x, "block.name": np.array("b.1")}
    arrays |= {"block.channel": bowl, "block.tensor": rough}
    for place, values in (("random", bowl), ("block.channel", bowl), ("block.tensor", rough)):
        arrays[f"{place}.scalar.roughness"] = np.array(landscape_scalars.roughness(values))
    return arrays


def distributions(seed: int, sites: int = 150, bins: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "site": np.array([f"blocks.{i // 12}.site{i % 12}" for i in range(sites)]),
        "kind": np.array(["weight"] * sites),
        "bits": np.full(sites, 4),
        "sqnr_db": rng.uniform(5, 40, sites),
        "clipped": rng.uniform(0, 0.1, sites),
        "unused": np.where(np.arange(sites) % 3, rng.uniform(0, 1, sites), np.nan),
        "edges": np.sort(rng.normal(size=(sites, 2)))[:, :1] + np.linspace(0, 1, bins + 1),
        "counts": rng.integers(0, 10_000, (sites, bins)),
        "levels": np.where(np.arange(20) < 16, rng.normal(size=(sites, 20)), np.nan),
    }


def probe(run: RunDir, seed: int) -> None:
    run.write_probe("landscape", landscape(1 + seed), PNG)
    run.write_probe("distributions", distributions(seed), PNG)


@pytest.fixture
def probed(store: Store) -> Store:
    df = report.table(store, "demo")
    for index, signature in enumerate(df.loc[df["state"] == "done", "signature"]):
        if index < 3:
            probe(store.run(str(signature)), index)
    return store


def test_landscapes_stand_side_by_side_on_one_scale(probed: Store) -> None:
    df = report.table(probed, "demo")
    found = side_by_side(df, read_probe(probed, df, "landscape"))
    assert [title.partition(":")[2].split()[0] for title, _ in found] == [
        "cross-entropy",
        "cross-entropy",
        "reconstruction",
    ]
    around, along, block = (figure for _, figure in found)
    assert [len(figure.data) for figure in (around, along, block)] == [3, 3, 6]
    assert around.layout.coloraxis.cmin == pytest.approx(0)
    assert around.layout.coloraxis.cmax == pytest.approx(np.log10(3 + 2))
    for trace, depth in zip(around.data, (1, 2, 3), strict=True):
        z = np.array(trace.z)
        assert z.shape == (21, 21)
        np.testing.assert_allclose(z, np.log10(landscape(depth)["random.loss"]), atol=5e-4)
    assert "roughness 2.00" in around.layout.annotations[0].text
    rough = [float(note.text.split()[-1]) for note in block.layout.annotations]
    assert rough[1] > rough[0] == 2.0


def test_the_way_from_full_precision_is_a_line_and_where_weights_were_learned_a_plane(probed: Store) -> None:
    df = report.table(probed, "demo")
    first, second = list(read_probe(probed, df, "landscape"))[:2]
    t, between = np.linspace(0, 1, 5), {}
    for index, signature in enumerate((first, second)):
        way = {
            "path.axis": t,
            "path.quantized": 1 + index + t,
            "path.fp": t,
            "path.scalar.barrier_quantized": np.array(0.5),
        }
        between[signature] = landscape(1) | way
    x, anchors = np.linspace(-1, 3, 5), np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0]])
    between[second] |= {"plane.x": x, "plane.y": x + 1, "plane.loss": 1 + x[None] ** 2 + x[:, None] ** 2}
    between[second] |= {"plane.anchors": anchors, "plane.scalar.barrier": np.array(0.25)}
    found = {title.partition(":")[2]: figure for title, figure in side_by_side(df, between)}
    assert len(found) == 5
    (line,) = (figure for title, figure in found.items() if "rounded (1) weights" in title)
    assert [trace.line.dash for trace in line.data] == ["solid", "dot"] * 2
    assert [trace.showlegend for trace in line.data] == [True, False] * 2
    assert "barrier 0.5" in line.data[0].name
    np.testing.assert_allclose(line.data[2].y, 2 + t)
    (plane,) = (figure for title, figure in found.items() if "learned" in title)
    contour, marks = plane.data
    np.testing.assert_allclose(contour.z, np.log10(between[second]["plane.loss"]), atol=5e-4)
    assert list(zip(marks.x, marks.y, marks.text, strict=True)) == [
        (0, 0, "full precision"), (2, 0, "rounded"), (1, 2, "learned"),
    ]  # fmt: skip
    assert "barrier to the learned weights 0.25" in plane.layout.annotations[0].text


def test_probes_are_on_the_page_and_pages_of_many_stay_small(probed: Store, tmp_path: Path) -> None:
    text = report.build(probed, "demo", ["html"])["html"].read_text()
    assert "<h2>Loss landscapes</h2>" in text
    assert "<h2>Distributions</h2>" in text
    found = re.search(r'id="payload">(.*?)</script>', text, flags=re.DOTALL)
    assert found is not None
    shown = json.loads(found[1])["histograms"]
    assert len(shown) == 3
    site = shown[1]["sites"][7]
    expected = distributions(1)
    assert site["name"] == "blocks.0.site7"
    assert sum(site["shares"]) == pytest.approx(1, abs=0.05)
    assert site["shares"][3] == pytest.approx(expected["counts"][7, 6:8].sum() / expected["counts"][7].sum(), rel=0.05)
    assert (site["low"], site["high"]) == pytest.approx((expected["edges"][7, 0], expected["edges"][7, -1]), rel=1e-3)
    np.testing.assert_allclose(site["levels"], np.sort(expected["levels"][7, :16]), rtol=1e-3)
    assert shown[1]["sites"][0]["unused"] is None


def test_pictures_of_other_probes_are_on_the_page(probed: Store) -> None:
    df = report.table(probed, "demo")
    # Runs that differ by the seed alone share a picture; the store of this test has one seed.
    signatures = [str(name) for name in df.loc[df["state"] == "done", "signature"]]
    for number, name in enumerate(signatures[:6]):
        probed.run(name).write_probe("hessian", {"trace": np.array(float(number))}, f"picture {number}".encode())
    (group,) = probe_pictures.probe_pictures(probed, df)
    assert group["title"] == "Hessian"
    shown = [base64.b64decode(picture["png"]) for picture in group["pictures"]]
    assert shown == [f"picture {number}".encode() for number in range(probe_pictures.MOST)]
    assert "of 6 probed runs" in group["note"]
    text = report.build(probed, "demo", ["html"])["html"].read_text()
    assert text.count("data:image/png;base64,") == probe_pictures.MOST


def test_many_probed_runs_are_cut_and_the_page_says_so(seeded: Store) -> None:
    df = report.table(seeded, "demo")
    done = df.loc[df["state"] == "done", "signature"]
    for index, signature in enumerate(done):
        probe(seeded.run(str(signature)), index)
    probed = read_probe(seeded, df, "landscape")
    ((_, runs, total),) = by_model(df, probed, MOST)
    assert total == len(runs) < len(done), "one of the seeds"
    ((_, few, same),) = by_model(df, probed, 2)
    assert (len(few), same) == (2, total)
    assert len(histograms(df, read_probe(seeded, df, "distributions"))) == 8
    path = report.build(seeded, "demo", ["html"])["html"]
    assert path.stat().st_size < 5e6
    assert f"the first 8 of {total} probed runs" in path.read_text()


def test_without_probes_the_page_has_no_such_sections(store: Store) -> None:
    text = report.build(store, "demo", ["html"])["html"].read_text()
    assert "Loss landscapes" not in text
    assert 'id="distribution-plot"' not in text


def test_a_damaged_probe_is_left_out(probed: Store) -> None:
    df = report.table(probed, "demo")
    first = next(iter(read_probe(probed, df, "landscape")))
    probed.run(first).probe_path("landscape").write_bytes(b"PK")
    assert len(read_probe(probed, df, "landscape")) == 2


def test_surfaces_hold_the_losses_and_infinite_ones_a_ceiling() -> None:
    arrays = landscape(1.0, 5)
    arrays["random.loss"] = arrays["random.loss"].copy()
    arrays["random.loss"][0, 0] = np.inf
    shown = dict(surfaces(arrays))
    assert list(shown) == ["random", "block_channel", "block_tensor"]
    z = np.array(shown["random"].data[0].z)
    assert z[0, 0] == z.max()
    assert z[2, 2] == pytest.approx(0)
    assert (logarithm(np.array([np.inf, np.inf])) == 0).all()
    figure = surface(arrays["random.axis"], arrays["random.axis"], arrays["random.loss"], "a")
    assert figure.data[0].type == "surface"
