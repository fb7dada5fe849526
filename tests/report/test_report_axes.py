"""Comparison along any axis, all else equal, seeds as replicates; which method is best, in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.errors import refuses
from tests.report.test_report_detectors import found
from vitq import report
from vitq.cli import main
from vitq.config import RunConfig
from vitq.errors import VitqError
from vitq.report.answer import which_method
from vitq.report.axes import along, figures, groups
from vitq.report.comparison import pairwise
from vitq.store import Store, SweepRecord

Make = Callable[..., RunConfig]
Sweep = Callable[..., Store]


@pytest.fixture
def sizes(make_config: Make, make_sweep: Sweep) -> Store:
    """Two methods × two bit-widths × three calibration sizes × two seeds; more images, fewer mistakes."""
    runs = [
        (make_config(method, bits, seed, calib), base + 8 - bits + 100 // calib + seed)
        for method, base in (("minmax", 60), ("repq_vit", 20))
        for bits in (8, 4)
        for calib in (16, 32, 128)
        for seed in (0, 1)
    ]
    return make_sweep(*runs)


def test_groups_agree_in_all_but_the_axis_and_the_seed(sizes: Store) -> None:
    found = groups(sizes, "demo", "calib.size")
    assert [group.where for group in found] == [
        "vit_digits minmax W8A8", "vit_digits minmax W4A4", "vit_digits repq_vit W8A8", "vit_digits repq_vit W4A4",
    ]  # fmt: skip
    assert {tuple(group.runs) for group in found} == {("16", "32", "128")}
    assert {len(seeds) for group in found for seeds in group.runs.values()} == {2}
    by_method = groups(sizes, "demo", "method")
    assert {group.where for group in by_method} == {
        f"vit_digits {bits}, {calib} calibration images" for bits in ("W8A8", "W4A4") for calib in (16, 32, 128)
    }


def test_every_pair_of_values_is_compared_on_the_same_images(sizes: Store) -> None:
    found = along(sizes, "demo", "calib.size")
    assert len(found) == 4 * 3
    assert set(found["family"]) == {12}
    row = found[(found["where"] == "vit_digits minmax W4A4") & (found["b"] == "calib.size=128")].iloc[0]
    assert row["a"] == "calib.size=16"
    assert row["difference"] == pytest.approx(-100 * (100 // 16) / 400, abs=1e-9)
    assert (row["seeds"], row["n"]) == (2, 400)


def test_only_what_is_asked_is_corrected_for(sizes: Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = along(sizes, "demo", "calib.size", ["128", "16"])
    assert len(found) == 4
    assert set(found["family"]) == {4}
    assert (found["difference"] > 0).all()
    words = ["report", "demo", "--along", "calib.size", "--compare", "128", "16", "--runs-dir", str(sizes.root)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("calib.size=128" in line and "; of 4: p (Holm) " in line for line in lines)


@pytest.mark.parametrize(
    ("key", "asked", "named", "value"),
    [
        ("calib.sizee", (), "--along", "calib.sizee"),
        ("model", (), "--along", "model"),
        ("calib.size", ("16", "64"), "--compare", "64"),
    ],
)
def test_what_no_run_has(sizes: Store, key: str, asked: tuple[str, ...], named: str, value: str) -> None:
    with refuses(VitqError, named, value):
        along(sizes, "demo", key, asked)


def test_what_is_no_comparison(sizes: Store) -> None:
    with refuses(VitqError, "--along", "seed"):
        along(sizes, "demo", "seed")
    with refuses(VitqError, "--compare", ("16", "16"), ["16", "128"]):
        along(sizes, "demo", "calib.size", ["16", "16"])


def test_a_switch_is_an_axis(make_config: Make, make_sweep: Sweep) -> None:
    def steps(on: bool) -> dict[str, Any]:
        return {"method__steps": {"a": {"do": "calibrate", "enabled": on}, "b": {"do": "calibrate"}}}

    store = make_sweep(
        *((make_config("m", 4, seed, **steps(on)), 10 + 40 * on) for on in (True, False) for seed in (0, 1)),
        (make_config("m", 3, 0, **steps(True)), 99),
    )
    (row,) = along(store, "demo", "method.steps.a.enabled").to_dict("records")
    assert (row["where"], row["a"], row["b"]) == (
        "vit_digits m W4A4, 32 calibration images", "method.steps.a.enabled=true", "method.steps.a.enabled=false",
    )  # fmt: skip
    assert row["difference"] == pytest.approx(-10.0)
    assert row["family"] == 1
    assert row["p"] == row["p_holm"]


def test_a_figure_for_each_numeric_axis(sizes: Store) -> None:
    record = sizes.read_sweep("demo")
    axes = {"method": ["minmax", "repq_vit"], "calib.size": ["16", "32", "128"], "seed": ["0", "1"]}
    sizes.write_sweep(SweepRecord(name="demo", signatures=record.signatures, axes=axes))
    ((key, figure),) = figures(sizes, "demo")
    assert key == "calib.size"
    lines, bands = ([trace for trace in figure.data if (trace.fill == "toself") is filled] for filled in (False, True))
    assert [list(trace.x) for trace in lines] == [[16.0, 32.0, 128.0]] * 4
    trace, band = lines[0], bands[0]
    df = report.table(sizes, "demo")
    runs = df[(df["method"] == "minmax") & (df["bits"] == "W8A8") & (df["calib"] == 16)]["top1"]
    assert trace.y[0] == pytest.approx(runs.mean())
    # Around the line and back: above it at the first value, below it at the last point.
    assert list(band.x) == [16.0, 32.0, 128.0, 128.0, 32.0, 16.0]
    assert (band.y[0], band.y[-1]) == pytest.approx((trace.y[0] + runs.std(ddof=1), trace.y[0] - runs.std(ddof=1)))
    assert (len(bands), {trace.legendgroup for trace in lines}) == (4, {trace.legendgroup for trace in bands})
    html = report.build(sizes, "demo", ["html"])["html"].read_text()
    assert "Along an axis" in html
    assert 'id="pivot-pool"' in html


def test_which_method(make_config: Make, make_sweep: Sweep) -> None:
    store = make_sweep(
        (make_config("a", 4), 5), (make_config("b", 4), 90), (make_config("c", 4), 120),
        (make_config("a", 3), 60), (make_config("b", 3), 61), (make_config("c", 3), 300),
        (make_config("a", 8), 1),
    )  # fmt: skip
    df = report.table(store, "demo")
    four, three = which_method(df, pairwise(store, df))
    assert four.startswith("vit_digits at W4A4, 32 calibration images: a is best (96.75 %), +21.25 points [")
    assert "from b, p <0.001, corrected for 3 pairs" in four
    assert three.startswith(
        "vit_digits at W3A3, 32 calibration images: a is highest (83.00 %), and no difference is shown to b: "
    )
    assert three.endswith("it is better than 1 other")
    # The text and the page begin with it.
    assert f"- {four}" in report.build(store, "demo", ["md"])["md"].read_text()
    assert (
        "<li>vit_digits at W4A4, 32 calibration images: a is best"
        in report.build(store, "demo", ["html"])["html"].read_text()
    )


def test_no_interval_contradicts_its_verdict_in_silence(make_config: Make, make_sweep: Sweep) -> None:
    """Of many methods that are nearly equal: where the interval of p (Holm) excludes 0, the verdict is a difference,
    or the line says that it is at the margin."""
    rng = np.random.default_rng(5)
    store = make_sweep(*((make_config(f"m{k}", 4), int(rng.integers(20, 60))) for k in range(8)))
    pairs = pairwise(store, report.table(store, "demo"))
    from vitq.report.comparison import SAME, sentence, verdict

    assert len({verdict(row) for row in pairs.to_dict("records")}) > 1, "some differ, some do not"
    for row in pairs.to_dict("records"):
        excludes = row["low_holm"] > 0 or row["high_holm"] < 0
        assert excludes == (verdict(row) != SAME) or "at the margin" in sentence(row)


def test_a_key_that_records_leave_out_where_it_has_its_default(make_config: Make, tmp_path: Path) -> None:
    """`all` is in no record."""
    detector = {"task": "segmentation", "model__name": "mask_rcnn"}
    configs = [
        make_config("m", bits, bits__scope=scope, **detector) for bits in (8, 4) for scope in ("all", "backbone")
    ]
    store = Store(tmp_path / "runs")
    names = [found(store, config, ap) for config, ap in zip(configs, (50.0, 52.0, 40.0, 49.0), strict=True)]
    axes = {"bits.scope": ["all", "backbone"], "calib.size": ["32"]}
    store.write_sweep(SweepRecord(name="scopes", signatures=names, axes=axes))
    rows = along(store, "scopes", "bits.scope")
    assert rows["where"].tolist() == [f"mask_rcnn m {bits}, 32 calibration images" for bits in ("W8A8", "W4A4")]
    assert {*rows["a"], *rows["b"]} == {"bits.scope=all", "bits.scope=backbone"}
    assert rows["difference"].tolist() == pytest.approx([-2.0, -9.0])


def test_bits_of_one_width_with_and_without_exceptions_are_two_values(make_config: Make, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    detector = {"task": "segmentation", "model__name": "mask_rcnn"}
    names = [found(store, make_config("m", bits__scope=s, **detector), 50.0) for s in ("all", "backbone")]
    store.write_sweep(SweepRecord(name="two", signatures=names))
    (group,) = groups(store, "two", "bits")
    assert {value: list(runs.values()) for value, runs in group.runs.items()} == {
        "W8A8": [names[0]], "W8A8*": [names[1]]
    }  # fmt: skip


def test_detectors_are_drawn_by_their_average_precision(make_config: Make, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    detector = {"task": "segmentation", "model__name": "mask_rcnn"}
    runs = [(make_config("m", 4, calib=size, **detector), ap) for size, ap in ((4, 40.0), (8, 45.0))]
    names = [found(store, config, ap) for config, ap in runs]
    store.write_sweep(SweepRecord(name="sizes", signatures=names, axes={"calib.size": ["4", "8"]}))
    ((_, figure),) = figures(store, "sizes")
    assert list(figure.data[0].y) == [40.0, 45.0]
    assert figure.layout.yaxis.title.text == "AP mask, %"
