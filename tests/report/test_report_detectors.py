"""Detectors in tables, sentences and lists: by their average precision, never in a column with a classifier's."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from tests.report.conftest import correct, finish
from vitq import report
from vitq.cli import main
from vitq.config import RunConfig, signature
from vitq.config.labels import star_note
from vitq.report.ablation import waterfalls
from vitq.report.accuracy_table import fidelities, matrices
from vitq.report.answer import which_method
from vitq.report.comparison import pairwise
from vitq.report.numbers import scores
from vitq.report.wording import FIDELITY
from vitq.store import Run, Store, SweepRecord
from vitq.store.metrics import DetectionMetrics
from vitq.store.status import State, Status
from vitq.tasks.detection import SURE

IMAGES = 50
CONF = Path(__file__).resolve().parents[2] / "conf"
FIGURES = [name for name, field in DetectionMetrics.model_fields.items() if field.is_required()]


def found(store: Store, config: RunConfig, ap: float, masks: bool = True, **others: float | None) -> str:
    """Record a detector's run: this average precision of the set, and about this of each image; `others`: figures."""
    figures: dict[str, Any] = dict.fromkeys(FIGURES, 0.0) | {"ap_box": ap + 1, "fp_ap_box": 61.0, "n_eval": IMAGES}
    figures |= {"ap_mask": ap, "fp_ap_mask": 60.0, "drop_mask": 60 - ap} if masks else {}
    figures |= others
    name = finish(store, config, correct(0), metrics=figures)
    own = np.clip(ap + np.random.default_rng(0).normal(0, 2, IMAGES), 0, 100)
    arrays = {"id": np.arange(IMAGES), "image_ap_box": own + 1} | ({"image_ap_mask": own} if masks else {})
    store.run(name).write_predictions(arrays)
    return name


@pytest.fixture
def mixed(make_config: Callable[..., RunConfig], tmp_path: Path) -> Store:
    """Three methods on a detector, and one on a classifier."""
    store = Store(tmp_path / "runs")
    detector = {"task": "segmentation", "model__name": "mask_rcnn"}
    names = [found(store, make_config(m, 4, **detector), ap) for m, ap in (("a", 40.0), ("b", 55.0), ("c", 55.0))]
    names.append(finish(store, make_config("a", 4), correct(2)))
    store.write_sweep(SweepRecord(name="mixed", signatures=names))
    return store


def test_the_first_sentence_says_average_precision(mixed: Store) -> None:
    df = report.table(mixed, "mixed")
    (line,) = which_method(df, pairwise(mixed, df))
    assert line.startswith("mask_rcnn at W4A4, 32 calibration images: b is highest (AP mask 55.00), ")
    assert "no difference is shown to c" in line
    assert line.endswith("it is better than 1 other")


def test_the_best_is_the_best_of_the_figures_that_are_compared(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The set's average precision may rank two methods otherwise than the images' own does."""
    store = Store(tmp_path / "runs")
    detector = {"task": "detection", "model__name": "mask_rcnn"}
    first, second = (found(store, make_config(m, 4, **detector), 50.0, masks=False) for m in "ab")
    arrays = store.run(second).read_predictions()
    store.run(second).write_predictions(arrays | {"image_ap_box": arrays["image_ap_box"] + 10})
    store.write_sweep(SweepRecord(name="two", signatures=[first, second]))
    df = report.table(store, "two")
    (line,) = which_method(df, pairwise(store, df))
    assert "b is best (AP box 51.00), +10.00 points" in line


def test_status_and_lists_name_what_they_show(mixed: Store, capsys: pytest.CaptureFixture[str]) -> None:
    names = mixed.read_sweep("mixed").signatures
    states = [Run(mixed.run(name)).read_state() for name in names]
    assert [state.value for state in states] == [40.0, 55.0, 55.0, 97.5]
    assert [state.score for state in states] == [*["AP mask"] * 3, "top-1"]
    assert main(["list", "runs", "--json", "method=a", "model=mask_rcnn", "--runs-dir", str(mixed.root)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["top1"], row["score"], row["value"]) == (None, "AP mask", 40.0)
    for words in (["status", "mixed"], ["list", "runs"]):
        assert main([*words, "--runs-dir", str(mixed.root)]) == 0
        out = capsys.readouterr().out
        assert "AP mask 40.00" in out
        assert "top-1 97.50" in out


@pytest.mark.parametrize(("scope", "said"), [("backbone", True), ("all", False)])
def test_tables_say_what_a_star_is_where_they_show_one(
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scope: str,
    said: bool,
) -> None:
    store = Store(tmp_path / "runs")
    run = make_config("a", 8, task="segmentation", model__name="mask_rcnn", bits__scope=scope)
    store.write_sweep(SweepRecord(name="one", signatures=[found(store, run, 40.0)]))
    tables = [_terminal(store, "one", 80)]
    for words in (["list", "runs"], ["status", "one"]):
        assert main([*words, "--runs-dir", str(store.root)]) == 0
        tables.append(capsys.readouterr().out)
    for text in tables:
        assert ("W8A8*" in text, star_note(["W8A8*"]) in " ".join(text.split())) == (said, said), text


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("W8A8*", True),
        ("swin w8a8* bits.scope=backbone", True),
        ("W4A4* (kinds.probs=8)", True),
        ("W4A4", False),
        ("vit_digits minmax w4a4 bits.sites=*.weight", False),
        ("", False),
    ],
)
def test_a_star_behind_bits_alone_is_explained(label: str, said: bool) -> None:
    assert bool(star_note(["W3A3", label])) is said
    assert "exceptions" in star_note(["W8A8*"])


@pytest.mark.parametrize(
    ("task", "score"), [("segmentation", "AP mask"), ("detection", "AP box"), ("classification", "top-1")]
)
def test_runs_without_a_result_are_listed_below_the_score_of_their_task(
    make_config: Callable[..., RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, score: str
) -> None:
    store = Store(tmp_path / "runs")
    names = []
    ends: list[tuple[int, State | None]] = [(8, None), (4, "interrupted"), (3, "failed")]
    for bits, state in ends:
        run = make_config("a", bits, task=task, model__name="mask_rcnn")
        folder = store.run(signature(run))
        folder.write_config(run.to_dict())
        if state:
            folder.write_status(Status(state=state))
        names.append(folder.signature)
    store.write_sweep(SweepRecord(name="cut", signatures=names))
    states = [Run(store.run(name)).read_state() for name in names]
    assert [(one.state, one.score, one.value) for one in states] == [
        ("planned", score, None), ("interrupted", score, None), ("failed", score, None)
    ]  # fmt: skip
    for words in (["list", "runs"], ["status", "cut"]):
        assert main([*words, "--runs-dir", str(store.root)]) == 0
        (head,) = [line for line in capsys.readouterr().out.splitlines() if "signature" in line]
        assert score in head


def test_one_kind_of_score_is_the_heading() -> None:
    assert scores([("AP box", 41.0), ("", None), ("AP box", 40.0)]) == ("AP box", ["41.00", "", "40.00"])
    assert scores([("AP mask", None), ("AP mask", None)]) == ("AP mask", ["", ""])
    assert scores([("top-1", 90.0), ("AP mask", None)]) == ("score", ["top-1 90.00", ""])
    assert scores([("", None)]) == ("score", [""])
    heading, cells = scores([("top-1", 90.0), ("AP box", 40.0)])
    assert (heading, cells) == ("score", ["top-1 90.00", "AP box 40.00"])


def test_variants_of_a_method_are_drawn_by_their_average_precision(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    store = Store(tmp_path / "runs")
    detector = {"task": "segmentation", "model__name": "mask_rcnn"}
    configs = [make_config("m", 4, method__steps={"a": {"do": "calibrate", "images": n}}, **detector) for n in (4, 8)]
    names = [found(store, config, ap) for config, ap in zip(configs, (40.0, 45.0), strict=True)]
    store.write_sweep(SweepRecord(name="two", signatures=names))
    ((_, figure),) = waterfalls(report.table(store, "two"))
    (bars,) = figure.data
    assert list(bars.x) == [40.0, 5.0, 45.0]
    assert figure.layout.xaxis.title.text == "AP mask, %"


@pytest.fixture
def near(make_config: Callable[..., RunConfig], tmp_path: Path) -> Store:
    """Full precision, two methods with two seeds at W8A8, one run at W4A4 where no mask was found and one planned."""
    store = Store(tmp_path / "runs")
    detector = {"task": "segmentation", "model__name": "mask_rcnn"}
    names = [found(store, make_config("fp32", **detector), 60.0, fidelity_box=100.0, fidelity_mask=99.0)]
    for method, box, mask in (("a", 90.0, 95.0), ("b", 92.0, 91.0)):
        for seed in (0, 1):
            run = make_config(method, 8, seed, **detector)
            names.append(found(store, run, 50.0, fidelity_box=box + seed, fidelity_mask=mask + seed))
    names.append(found(store, make_config("a", 4, **detector), 20.0, fidelity_box=12.5, fidelity_mask=None))
    planned = make_config("b", 4, **detector)
    store.run(signature(planned)).write_config(planned.to_dict())
    store.write_sweep(SweepRecord(name="near", signatures=[*names, signature(planned)]))
    return store


def _terminal(store: Store, sweep: str, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(report.rich_table(report.table(store, sweep)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_fidelity_has_a_table_of_its_own(near: Store) -> None:
    df = report.table(near, "near")
    ((box, mask),) = fidelities(df)
    assert [(m.score, m.fp_top1, m.bits) for m in (box, mask)] == [
        ("fidelity box", 100.0, ["W8A8", "W4A4"]), ("fidelity mask", 99.0, ["W8A8", "W4A4"])
    ]  # fmt: skip
    assert [cell.top1 if cell else None for cell in box.rows[0].cells] == [90.5, 12.5]
    assert [[cell.best if cell else None for cell in row.cells] for row in box.rows] == [[False, True], [True, False]]
    assert [row.cells[0].best if row.cells[0] else None for row in mask.rows] == [True, False]
    # Runs are ranked by average precision alone.
    assert [m.score for m in matrices(df)] == ["AP box", "AP mask"]
    section = report.render(df).partition("### mask_rcnn on digits, fidelity\n")[2].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "--" not in line] == [
        ["method", "W8A8", "W4A4"],
        ["full precision", "100.00 / 99.00", "100.00 / 99.00"],
        ["a", "90.50 ± 0.71 / **95.50 ± 0.71**", "**12.50** / –"],
        ["b", "**92.50 ± 0.71** / 91.50 ± 0.71", "pending"],
    ]
    assert FIDELITY in section
    assert f"at least {SURE}" in FIDELITY


@pytest.mark.parametrize("width", [60, 80])
def test_the_terminal_shows_fidelity_below_average_precision(near: Store, width: int) -> None:
    out = _terminal(near, "near", width)
    _, title, section = out.partition("mask_rcnn on digits, fidelity\n")
    assert title
    assert max(map(len, out.splitlines())) <= width
    words = section.split()
    for word in ("90.50", "95.50", "92.50", "91.50", "12.50", "99.00", "pending"):
        assert word in words, word
    assert words.count("0.71") == 4
    assert "–" in words


def test_boxes_alone_and_classifiers(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    run = make_config("a", 4, task="detection", model__name="yolos")
    names = [found(store, run, 40.0, masks=False, fidelity_box=88.0), finish(store, make_config("a", 4), correct(2))]
    store.write_sweep(SweepRecord(name="both", signatures=names))
    df = report.table(store, "both")
    assert [[(m.model, m.score) for m in own] for own in fidelities(df)] == [[("yolos", "fidelity box")]]
    assert "| a      | 88.00 |" in report.render(df)
    assert fidelities(df[df["task"] == "classification"]) == []


def _of(name: str, **more: Any) -> dict[str, Any]:
    raw = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    return {"task": "segmentation", "model__name": raw["name"], "model__kwargs": raw["kwargs"], **more}


def test_detectors_are_called_as_their_configs(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    models = ("mask_rcnn_swin_tiny", "mask_rcnn_swin_small", "cascade_mask_rcnn_swin_tiny", "mask_rcnn_digits")
    names = [found(store, make_config("m", 4, **_of(name)), 50.0) for name in models]
    names.append(found(store, make_config("m", 4, **_of(models[0]) | {"model__kwargs": {"embed_dim": 8}}), 50.0))
    store.write_sweep(SweepRecord(name="four", signatures=names))
    labels = [*models, "mask_rcnn"]
    assert report.table(store, "four")["model"].tolist() == labels
    assert [Run(store.run(name)).label.split()[0] for name in names] == labels


def test_full_precision_stands_in_the_table_of_the_runs_that_it_scored_the_images_of(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Papers calibrate on another split than full precision's own, which it does not read."""
    store = Store(tmp_path / "runs")
    shared = {"data__calib_split": "val", "data__allow_overlap": True, "data__fingerprint": "bb-bb"}
    runs = {
        "one": [make_config("fp32", **_of("mask_rcnn_swin_tiny", data__fingerprint="aa-bb")),
                make_config("m", 4, **_of("mask_rcnn_swin_tiny", **shared))],
        "other images": [make_config("fp32", **_of("mask_rcnn_swin_tiny", data__fingerprint="aa-cc")),
                         make_config("m", 4, **_of("mask_rcnn_swin_tiny", **shared))],
    }  # fmt: skip
    tables = {}
    for name, configs in runs.items():
        store.write_sweep(SweepRecord(name=name, signatures=[found(store, config, 50.0) for config in configs]))
        tables[name] = matrices(report.table(store, name))
    assert [(m.data, m.score) for m in tables["one"]] == [("digits", "AP box"), ("digits", "AP mask")]
    assert len({m.data for m in tables["other images"]}) == 2
