"""`vitq published`: formats, filters, refusals."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.errors import command_refuses
from vitq.cli import main
from vitq.cli import published as command
from vitq.published import Figures, figures, render


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["published", *words]) == 0
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(run(capsys, *words, "--format", "json"))


def test_json_of_one_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, "qdrop", "--model", "vit_base", "--bits", "w3a3")
    assert [cell["value"] for cell in answer["cells"]] == [73.79, 74.75, 8.0]
    assert {cell["source"]: cell["run_by"] for cell in answer["cells"]} == {
        "aphq_vit": "aphq_vit",
        "glf_q": "fima_q",
        "ias_vit": "ias_vit",
    }
    (spread,) = answer["spreads"]
    assert (spread["spread"], spread["bits"], len(spread["rows"])) == (66.75, "W3A3", 3)
    fields = [difference["field"] for difference in spread["differences"]]
    assert fields[:2] == ["run_by", "checkpoint"]
    assert answer["claims"] == []


def test_json_of_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys)
    assert answer["cells"] == len(Figures.load().cells)
    assert answer["sources"] + answer["claims_only"] == len(Figures.load().sources)
    assert [entry["spread"] for entry in answer["widest"]][:2] == [73.6, 71.47]
    assert len(answer["widest"]) == 10


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "qdrop", "--model", "vit_base", "--bits", "W3A3").splitlines()
    assert [line.split()[-1] for line in lines[2:7]] == ["74.75", "73.79", "8.00", "66.75", "84.54"]


def test_docs_show_the_overview(capsys: pytest.CaptureFixture[str], repo: Path) -> None:
    overview = run(capsys).strip()
    assert overview.split()[0] == str(len(Figures.load().cells))
    assert overview in (repo / "docs" / "published.md").read_text()


def test_claims_of_a_method_without_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_json(capsys, "scale_predictor")
    assert answer["cells"] == []
    assert [(claim["source"], claim["tags"]) for claim in answer["claims"]] == [("scale_predictor", ["3"])]
    assert run(capsys, "scale_predictor").startswith("no figure")


def test_csv_parses(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "repq_vit", "--task", "detection", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert out.count("\n") == len(rows) + 1, "no empty line behind them"
    assert {row["metric"] for row in rows} == {"ap_box", "ap_mask"}
    (cell,) = [
        row for row in rows if (row["model"], row["bits"], row["metric"]) == ("mask_rcnn_swin_tiny", "W6A6", "ap_box")
    ]
    assert (cell["value"], cell["full_precision"], cell["protocol.calibration_images"]) == ("45.1", "46.0", "1")
    widest = list(csv.DictReader(io.StringIO(run(capsys, "--format", "csv"))))
    assert [row["spread"] for row in widest][:2] == ["73.60", "71.47"]


@pytest.mark.parametrize("words", [[], ["glf_q"], ["--bits", "W4A4"]])
def test_latex_parses(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    out = run(capsys, *words, "--format", "latex")
    tables = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n\\toprule\n(.*?)\\bottomrule\n\\end\{tabular\}", out, re.DOTALL)
    assert len(tables) == out.count(r"\begin{table}") > 0
    for columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)}
    assert not re.search(r"(?<!\\)[_#%]|±", out)


@pytest.mark.parametrize(
    ("words", "key", "value", "valid"),
    [
        (["qdrob"], "method", "qdrob", "qdrop"),
        (["qdrop", "--model", "vit_bse"], "model", "vit_bse", "vit_base"),
        (["qdrop", "--bits", "w9a9"], "bits", "W9A9", "W4A4"),
        (["qdrop", "--bits", ""], "bits", "", "W4A4"),
        (["--model", ""], "model", "", "vit_base"),
        ([""], "method", "", "qdrop"),
    ],
)
def test_bad_names_end_with_2_and_the_valid_ones(words: list[str], key: str, value: str, valid: str) -> None:
    command_refuses(["published", *words], key, value, [valid])


def test_choices_are_those_of_the_package() -> None:
    assert (command.FORMATS, command.TASKS) == (render.FORMATS, figures.TASKS)
