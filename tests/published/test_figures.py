"""The files of published figures: their schema, what is derived from them, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.errors import is_about, refuses
from vitq.config.search_path import ConfigPath
from vitq.errors import ConfigError, VitqError
from vitq.published import Figures, Spread
from vitq.published.cell import MODELS

GOOD = """\
source: {name: Mine, about: a test}
protocols:
  classification:
    all: {crop: {deit: 0.875, vit: 0.9}}
    mine: {calibration_images: 32, iterations: {W4A4: 1000}}
    mine/longer: {calibration_images: 64}
tables:
  - metric: top1
    bits: W4A4
    tags: [S]
    run_by: {mine: mine, mine/longer: mine}
    models: [vit_small, deit_tiny]
    full_precision: [81.39, 72.21]
    rows:
      mine: [70.5, null]
      mine/longer: [71.25±.5, 60]
      other: [1.5, 2.5]
"""


def read(tmp_path: Path, text: str) -> Figures:
    (tmp_path / "mine.yaml").write_text(text)
    return Figures.load.__wrapped__(tmp_path)


def test_cells_of_a_table(tmp_path: Path) -> None:
    cells = {(cell.method, cell.variant, cell.model): cell for cell in read(tmp_path, GOOD).cells}
    assert len(cells) == 5
    short, longer = cells["mine", None, "vit_small"], cells["mine", "longer", "vit_small"]
    assert (short.value, short.std, short.full_precision, short.run_by) == (70.5, None, 81.39, "mine")
    assert short.facts == {"crop": 0.9, "calibration_images": 32, "iterations": 1000}
    assert (longer.value, longer.std, longer.text, longer.facts["calibration_images"]) == (71.25, 0.5, "71.25±0.50", 64)
    assert cells["mine", "longer", "deit_tiny"].facts["crop"] == 0.875
    # Whoever ran it is not stated: nothing of this source's protocol holds for it.
    assert (cells["other", None, "vit_small"].run_by, cells["other", None, "vit_small"].facts) == (None, {})


@pytest.mark.parametrize(
    ("good", "bad", "key", "value"),
    [
        ("metric: top1", "metrik: top1", "tables.0.metrik", "metrik"),
        ("about: a test", "abuot: a test", "source.abuot", "abuot"),
        ("crop: {deit", "crop_pct: {deit", "protocols.classification.all.crop_pct", "crop_pct"),
        ("{deit: 0.875", "{diet: 0.875", "protocols.classification.all.crop", {"diet": 0.875, "vit": 0.9}),
        ("tags: [S]", "tags: [X]", "tables.0.tags.0", "X"),
        ("tags: [S]", "tags: []", "tables.0.tags", []),
        ("bits: W4A4", "bits: W4A", "tables.0.bits", "W4A"),
        ("[vit_small, deit_tiny]", "[vit_smal, deit_tiny]", "tables.0.models", ["vit_smal", "deit_tiny"]),
        ("[vit_small, deit_tiny]", "[vit_small, vit_small]", "tables.0.models", ["vit_small", "vit_small"]),
        ("[70.5, null]", "[70.5]", "tables.0.rows.mine", [70.5]),
        ("[81.39, 72.21]", "[81.39]", "tables.0.full_precision", [81.39]),
        ("[70.5, null]", "[70.5, 170.5]", "tables.0.rows.mine", 170.5),
        ("[70.5, null]", "[70.5, 70.555]", "tables.0.rows.mine", 70.555),
        ("[70.5, null]", "[70.5, 37.5/36.6]", "tables.0.rows.mine", "37.5/36.6"),
        ("[70.5, null]", "[70.5, about 3]", "tables.0.rows.mine", "about 3"),
        ("mine/longer: mine}", "mine/lnoger: mine}", "tables.0.run_by", ["mine/lnoger"]),
        ("mine/longer: mine}", "mine/longer: yours}", "run_by", "yours"),
        ("      other:", "      mine:", "YAML", "mine.yaml"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, good: str, bad: str, key: str, value: object) -> None:
    assert good in GOOD
    with pytest.raises(ConfigError) as error:
        read(tmp_path, GOOD.replace(good, bad, 1))
    assert {problem.where for problem in error.value.problems} == {"mine.yaml"}
    assert any(is_about(problem, key, value) for problem in error.value.problems), error.value.problems


def test_shipped_figures_name_their_sources() -> None:
    figures = Figures.load()
    assert len(figures.cells) > 900
    assert len({cell.source for cell in figures.cells}) > 25
    for cell in figures.cells:
        assert cell.tags
        assert cell.metric == "minutes" or 0 <= cell.value <= 100
        assert cell.full_precision is None or cell.metric == "minutes" or cell.value < cell.full_precision + 2
    # One source says one thing of a row: the same place never twice, unless the tables or their notes differ.
    places = [
        (c.source, c.table, c.note, c.tags, c.baseline, c.run_by, c.model, c.bits, c.metric) for c in figures.cells
    ]
    assert len(set(places)) == len(places)


def test_names_are_those_of_vitq() -> None:
    figures, roots = Figures.load(), ConfigPath.of()
    own = set(roots.files("method"))
    assert {"repq_vit", "ias_vit", "qdrop", "brecq", "erq", "adalog", "ptq4vit", "aocq", "mptq_vit", "fq_vit"} <= own
    assert {*figures.methods} >= {"repq_vit", "ias_vit", "qdrop", "brecq", "erq", "adalog", "ptq4vit", "fq_vit"}
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in figures.methods)
    unpublished = {"timm", "yolos_tiny", "yolos_small"}  # no paper quantizes YOLOS
    assert {name for name in roots.files("model") if "digits" not in name} - unpublished <= set(MODELS)


def spread(method: str, model: str, bits: str) -> Spread:
    (found,) = Figures.load().select(method, model, bits, "classification").spreads()
    return found


def test_spread_of_qdrop() -> None:
    found = spread("qdrop", "vit_base", "W3A3")
    assert [(cell.label, cell.value) for cell in found.cells] == [
        ("fima_q in glf_q", 74.75),
        ("aphq_vit", 73.79),
        ("ias_vit", 8.00),
    ]
    assert found.width == 66.75
    reasons = {difference.field: difference for difference in found.differences()}
    assert set(reasons["run_by"].values) == {"ias_vit", "aphq_vit", "fima_q"}
    assert reasons["checkpoint"].values["vit_base_patch16_224.augreg_in21k_ft_in1k"] == ["ias_vit"]
    # I&S-ViT's authors do not say how they calibrated QDrop: a possible reason, no known one.
    assert (reasons["transform"].settled, reasons["transform"].unknown) == (False, ["ias_vit"])
    assert "full_precision" not in reasons


def test_reasons_of_equal_labels_are_kept_apart() -> None:
    (reason,) = spread("glf_q", "deit_tiny", "W3A3").differences()
    assert (reason.field, list(reason.values), reason.unknown) == ("seeds", ["3"], ["glf_q"])


def test_widest_are_ten_and_sorted() -> None:
    widest = Figures.load().widest()
    assert len(widest) == 10
    assert [s.width for s in widest] == sorted((s.width for s in widest), reverse=True)
    assert len({(s.cells[0].baseline, s.cells[0].bits) for s in widest}) == 10
    every = [s.width for s in Figures.load().spreads() if s.cells[0].metric == "top1"]
    assert widest[0].width == max(every)


def test_select_refuses_names_that_no_source_has() -> None:
    figures = Figures.load()
    assert figures.select(bits="w2a3").cells == figures.select(bits="W2A3").cells != ()
    for what, name in {"method": "qdrob", "model": "vit_bse", "bits": "W9A9", "task": "segmentation"}.items():
        with refuses(VitqError, key=what, value=name):
            figures.select(**{what: name})
