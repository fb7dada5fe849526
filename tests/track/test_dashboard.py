"""The saved view and the report: made and read without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.errors import refuses
from tests.track.runs import KEY, execute, make_config, read_back
from vitq.cli import main
from vitq.errors import VitqError
from vitq.track import base, dashboard

pytest.importorskip("wandb_workspaces")


def spec(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["dashboard", "--entity", "lab", "--dry-run", "--json", *words]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def panels_of_view(plain: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = plain["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def panels_of_report(plain: dict[str, Any]) -> list[dict[str, Any]]:
    grids = [block for block in plain["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]


def test_view_and_report_show_the_same_panels(capsys: pytest.CaptureFixture[str]) -> None:
    plain = spec(capsys, "--sweep", "demo")
    view = [panel["viewType"] for panels in panels_of_view(plain).values() for panel in panels]
    assert sorted(view) == sorted(panel["viewType"] for panel in panels_of_report(plain))
    assert {"Bar Chart", "Scatter Plot", "Media Browser", "Run Comparer", "Run History Line Plot"} <= set(view)


def test_both_show_one_sweep_and_without_one_the_whole_project(capsys: pytest.CaptureFixture[str]) -> None:
    def filters(plain: dict[str, Any]) -> list[Any]:
        grids = [b for b in plain["report"]["spec"]["blocks"] if b["type"] == "panel-grid"]
        sets = [*plain["workspace"]["spec"]["section"]["runSets"], *(g["metadata"]["runSets"][0] for g in grids)]
        return [[(f["key"], f["op"], f["value"]) for f in s["filters"]["filters"]] for s in sets]

    group = ({"section": "run", "name": "group"}, "=", "w4 of 'mine'")
    assert filters(spec(capsys, "--sweep", "w4 of 'mine'")) == [[group]] * 7
    assert filters(spec(capsys)) == [[]] * 7


def test_every_key_that_is_shown_is_one_that_runs_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Panels over keys that nobody logs stay empty and say nothing."""
    config = make_config(tmp_path)
    execute(config)
    run = read_back(config)
    plain = spec(capsys)
    text = json.dumps([panels_of_view(plain), panels_of_report(plain)])
    for key in ("top1", "drop", "quantized_bytes", "seconds", "mean_weight_bits", "mean_activation_bits"):
        assert key in text
        assert key in run["summary"]
    columns = plain["workspace"]["spec"]["section"]["runSets"][0]["runFeed"]["columnOrder"]
    for section, _, path in (column.partition(":") for column in columns):
        if section == "run" or path == "error":  # of failed runs
            continue
        node = run[section]
        for part in path.split("."):
            node = node[part]
    assert run["config"]["label"]["cell"] == "deit_tiny minmax W4A4 c32"
    assert "label.value.cell" in text


def test_axes_are_those_of_the_curves(capsys: pytest.CaptureFixture[str]) -> None:
    panels = panels_of_view(spec(capsys))
    (curves,) = panels["Reconstruction"]
    assert curves["config"]["xAxis"] == "curves/iteration"
    path = next(p for p in panels["Bits per layer"] if p["viewType"] == "Run History Line Plot")
    assert (path["config"]["xAxis"], path["config"]["metrics"]) == ("allocation/step", ["allocation/loss"])
    pareto = panels["Size and accuracy"][0]["config"]
    assert (pareto["xAxis"], pareto["yAxis"], pareto["showMaxYAxisLine"]) == (
        "summary:quantized_bytes",
        "summary:top1",
        True,
    )


def test_without_a_login_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--entity", "lab"]) == 2
    err = capsys.readouterr().err
    assert "wandb login" in err
    assert "--dry-run" in err


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    with refuses(VitqError, key="package", value="wandb-workspaces"):
        dashboard.need_workspaces()


def test_what_w_and_b_refuses_is_one_line_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces import workspaces

    def refuse(self: object) -> None:
        raise RuntimeError(f"lab/{KEY}")

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(workspaces.Workspace, "save", refuse)
    with refuses(VitqError, key="wandb", value="RuntimeError: lab/***") as raised:
        dashboard.Dashboard("lab", "vitq").save()
    assert KEY not in str(raised.value)
