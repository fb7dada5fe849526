"""An ablation at W&B: its variants have names, labels and figures of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.errors import refuses
from tests.fake_engine import FakeEngine
from tests.track.runs import execute, make_config, offline_runs, read_back, records
from vitq.config import RunConfig, TrackerConfig, signature
from vitq.errors import ConfigError
from vitq.planning import compose, planner
from vitq.store import Store, SweepRecord
from vitq.track.naming import notes, variant
from vitq.track.values import config_of

AXES = {
    "method": ["minmax"],
    "method.kinds.default.range": ["minmax", "mse"],
    "method.steps.weights.enabled": ["true", "false"],
    "seed": ["0", "1"],
    "model.checkpoint": ["/a/w.pth", "/b/w.pth"],
}


FIGURES = ("top1", "drop", "agreement", "quantized_bytes", "seconds")


def variants(tmp_path: Path) -> list[RunConfig]:
    return [
        make_config(
            tmp_path,
            method={
                "kinds": {"default": {"quantizer": "uniform", "range": search}},
                "steps": {"weights": {"do": "calibrate", "sites": "weights", "enabled": enabled}},
            },
        )
        for search in ("minmax", "mse")
        for enabled in (True, False)
    ]


def test_four_variants_are_told_apart(tmp_path: Path) -> None:
    configs = variants(tmp_path)
    store = Store(configs[0].runs_dir)
    names = [signature(config) for config in configs]
    store.write_sweep(SweepRecord(name="ablation", signatures=names, axes=AXES, description="what a range is worth"))
    for number, config in enumerate(configs):
        execute(config, group="ablation", top1=70.5 + number)
    runs = [read_back(config) for config in configs]
    words = [
        "default.range=minmax, weights.enabled=true", "default.range=minmax, weights.enabled=false",
        "default.range=mse, weights.enabled=true", "default.range=mse, weights.enabled=false",
    ]  # fmt: skip
    assert [run["name"] for run in runs] == [f"deit_tiny minmax W4A4 c32 s0 {word}" for word in words]
    assert [run["config"]["label"]["variant"] for run in runs] == words
    assert [run["config"]["label"]["cell"] for run in runs] == [f"deit_tiny minmax ({w}) W4A4 c32" for w in words]
    for run, word in zip(runs, words, strict=True):
        assert set(run["tags"]) == {"deit_tiny", "minmax", "W4A4", *word.split(", ")}
    for number, name in enumerate(names):
        (folder,) = (folder for folder in offline_runs(configs[0]) if folder.name.endswith(name))
        entries = records(folder)
        history = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]
        figures = {key: value for row in history for key, value in row.items() if key in FIGURES}
        assert {key: float(figures[key]) for key in FIGURES} == {
            "top1": 70.5 + number, "drop": 0.5, "agreement": 95.0, "quantized_bytes": 20.0, "seconds": 3.5
        }  # fmt: skip
        (written,) = (entry["run"] for entry in entries if entry["type"] == "run")
        assert written["run_group"] == "ablation"
        assert written["notes"].startswith("what a range is worth\n\nreport: sweeps/ablation/report.html")
        assert str(tmp_path) not in written["notes"]


def test_only_seeds_share_a_cell(tmp_path: Path) -> None:
    sweep = SweepRecord(name="s", signatures=[], axes=AXES)
    configs: list[RunConfig] = variants(tmp_path)
    small = {"name": "deit_small_patch16_224"}
    changes: list[dict[str, Any]] = [{"calib": {"size": 64}}, {"bits": {"weight": 3}}, {"model": small}]
    configs += [make_config(tmp_path, **change) for change in changes]

    def cell(config: RunConfig) -> str:
        return str(config_of(config, signature(config), variant(config, sweep))["label"]["cell"])

    assert len({cell(config) for config in configs}) == len(configs)
    assert cell(make_config(tmp_path, seed=1)) == cell(make_config(tmp_path, seed=2))


def test_the_view_groups_by_all_but_the_seed() -> None:
    pytest.importorskip("wandb_workspaces")
    from vitq.track.dashboard import GROUPS, Dashboard

    board = Dashboard("lab", "vitq", "demo")
    spec = board.spec()["workspace"]["spec"]["section"]
    (runs,) = spec["runSets"]
    # W&B keeps a run's config as key → {value: …}.
    assert [(key["section"], key["name"].replace(".value", "", 1)) for key in runs["grouping"]] == [
        ("config", key) for key in ("label.model", "method.name", "label.variant", "label.bits", "calib.size")
    ]
    assert tuple(key["name"].replace(".value", "", 1) for key in runs["grouping"]) == GROUPS
    bars = [
        json.dumps(panel["config"])
        for section in spec["panelBankConfig"]["sections"]
        for panel in section["panels"]
        if panel["viewType"] == "Bar Chart"
    ]
    assert len(bars) >= 2
    assert all("label.value.cell" in bar and "stddev" in bar for bar in bars)
    assert len(board.outline()) <= 10


def test_a_run_of_no_sweep_has_no_variant(tmp_path: Path) -> None:
    assert variant(make_config(tmp_path), None) == ""


@pytest.mark.parametrize("address", ["http://lab:8000", "https://lab.org/store/"])
def test_the_notes_link_to_where_the_store_is_served(tmp_path: Path, address: str) -> None:
    tracked = make_config(tmp_path, tracker={"store_url": address})
    assert signature(tracked) == signature(make_config(tmp_path))
    sweep = SweepRecord(name="a_b c", signatures=[], description="*what* it is")
    run_dir = Store(tracked.runs_dir).run(signature(tracked))
    base = address.rstrip("/")
    files = f"files: [{run_dir.signature}]({base}/{run_dir.signature}/)"
    assert notes(tracked, run_dir, sweep) == (
        f"*what* it is\n\nreport: [a\\_b c]({base}/sweeps/a_b%20c/report.html)\n\n{files}"
    )
    assert notes(tracked, run_dir, None) == files
    assert notes(tracked, run_dir, None, "study") is None
    assert notes(make_config(tmp_path), run_dir, None) is None


def test_the_written_notes_have_the_links(tmp_path: Path) -> None:
    config = make_config(tmp_path, tracker={"store_url": "http://lab:8000"})
    Store(config.runs_dir).write_sweep(SweepRecord(name="s", signatures=[signature(config)]))
    execute(config, group="s", top1=70.5)
    (folder,) = offline_runs(config)
    (written,) = (entry["run"] for entry in records(folder) if entry["type"] == "run")
    assert "(http://lab:8000/sweeps/s/report.html)" in written["notes"]
    assert f"(http://lab:8000/{signature(config)}/)" in written["notes"]


@pytest.mark.parametrize(
    ("value", "mode"), [("online", "online"), ("dryrun", "offline"), ("disabled", "disabled"), ("", "offline")]
)
def test_wandb_mode_is_honoured(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", value)
    file, folders = compose.root_config()
    assert planner.make(compose.load(file, folders)).runs[0].config.tracker.mode == mode
    explicit = planner.make(compose.load(file, folders, ["tracker.mode=offline"])).runs[0].config
    assert explicit.tracker.mode == "offline"


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("tracker.project='a/b'", "tracker.project"), (f"tracker.tags=[{'x' * 65}]", "tracker.tags"),
        ("tracker.store_url=/data/runs", "tracker.store_url"), ("tracker.store_url='http:lab'", "tracker.store_url"),
        ("tracker.store_url='http://a b'", "tracker.store_url"),
    ],
)  # fmt: skip
def test_what_wandb_refuses_is_refused_by_the_plan(engine: FakeEngine, word: str, key: str) -> None:
    file, folders = compose.root_config()
    with refuses(ConfigError, key=key):
        planner.make(compose.load(file, folders, [word]))


def test_stored_configs_of_before_are_read() -> None:
    """What W&B refused then made no run unreadable."""
    assert TrackerConfig(name="wandb", project="a/b").project == "a/b"
