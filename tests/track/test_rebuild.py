"""A mirror that is rebuilt from runs/ says what the live one said: both are read by W&B's own reader."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.errors import command_refuses, refuses
from tests.job.planner import CONF, Planner
from tests.track.runs import make_config, records, summary_in
from vitq import report, track
from vitq.cli import main
from vitq.config import RunConfig, signature
from vitq.errors import ModelError, StoreError
from vitq.job import execute
from vitq.plots import bit_allocation
from vitq.progress import Progress
from vitq.report.allocation import heat_maps
from vitq.store import RunDir, Store, mirror_record
from vitq.store.status import Status
from vitq.store.sweeps import SweepRecord
from vitq.track import loss_curves
from vitq.track.content import with_sensitivity
from vitq.track.loss_curves import thinned
from vitq.track.rebuild import rebuild

pytestmark = pytest.mark.xdist_group("rebuild")  # what it makes first is made once

# What differs between any two W&B runs: where and when, and the random names of what they upload.
_OF_THE_ATTEMPT = ("file", "last_write", "start_time")
_OF_THE_CLOCK = ("_timestamp", "_runtime")
_RANDOM = ("artifact_path", "_latest_artifact_path")

TRACKED: dict[str, Any] = {"calib": {"size": 8, "batch_size": 8}, "tracker": {"name": "wandb"}}


def said(folder: Path) -> dict[str, Any]:
    """All that leet reads of a run, less what belongs to the attempt."""
    seen = {key: value for key, value in summary_in(folder).items() if key not in _OF_THE_ATTEMPT}
    seen["summary"] = _steady(seen["summary"])
    (run,) = (entry["run"] for entry in records(folder) if entry["type"] == "run")
    seen["run"] = {key: run.get(key) for key in ("run_group", "job_type", "display_name", "tags")}
    seen["history"] = [_steady(entry["history"]["item"]) for entry in records(folder) if entry["type"] == "history"]
    return seen


def _steady(values: dict[str, Any]) -> dict[str, Any]:
    """Values less clock and random names, which in history are `sites.artifact_path` and the like."""
    return {
        key: _steady(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _OF_THE_CLOCK and key.rpartition(".")[2] not in _RANDOM
    }


def live(run_dir: RunDir, group: str | None = "paper") -> Path:
    """Execute a planned run with its tracker; its W&B folder."""
    config, _ = RunConfig.parse(run_dir.read_config())
    assert config is not None
    execute.execute(run_dir, Progress(), track.make(config.tracker), group)
    return mirror_of(run_dir)


def mirror_of(run_dir: RunDir) -> Path:
    known = mirror_record.read(run_dir)
    assert known is not None
    return Path(known.sync_dir)


@pytest.fixture(scope="module")
def allocated(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of Greedy MP on a small random ViT, tracked offline."""
    run_dir = Planner(tmp_path_factory.mktemp("greedy")).plan("mixed_precision", **TRACKED)
    live(run_dir)
    assert "W&B" not in run_dir.log_path.read_text()
    return run_dir


def test_a_rebuilt_run_says_what_the_live_one_said(allocated: RunDir) -> None:
    first = mirror_of(allocated)
    before = said(first)
    second = rebuild(allocated, None)
    assert second != first
    assert said(second) == before
    assert not first.exists()
    assert said(second)["exit_code"] == 0
    assert said(second)["run"]["run_group"] == "paper"
    assert mirror_of(allocated) == second


def test_it_needs_nothing_but_the_run(allocated: RunDir, tmp_path: Path) -> None:
    expected = said(mirror_of(allocated))
    moved = Store(tmp_path / "elsewhere").run(allocated.signature)
    shutil.copytree(allocated.path, moved.path)
    moved.tracker_path.unlink()
    folder = rebuild(moved, "paper")
    assert folder.is_relative_to(tmp_path / "elsewhere" / "wandb")
    assert said(folder) == expected


def test_allocation_as_table_chart_path_and_wandb_table_agree(allocated: RunDir) -> None:
    """One allocation: sites.parquet, the path replayed, W&B's table, W&B's chart, the report's chart."""
    folder = mirror_of(allocated)
    summary = summary_in(folder)["summary"]
    sites = allocated.read_sites().set_index("site")["bits"].astype(int).to_dict()
    assert len(set(sites.values())) > 2, "a trivial allocation proves nothing"

    table = json.loads((folder / "files" / summary["sites"]["path"]).read_text())
    column = table["columns"].index
    assert {row[column("site")]: row[column("bits")] for row in table["data"]} == sites

    path = allocated.read_artifact("allocation_path")
    widths = dict.fromkeys(path["site"].dropna(), 8)
    steps = path.dropna(subset=["site"])
    for site, old, new in zip(steps["site"], steps["from_bits"], steps["to_bits"], strict=True):
        assert widths[site] == old
        widths[site] = new
    assert {name: sites[name] for name in widths} == widths

    logged = json.loads((folder / "files" / summary["allocation_path"]["path"]).read_text())
    place = logged["columns"].index
    assert [row[place("site")] for row in logged["data"]] == [None, *path["site"].dropna()]

    chart = json.loads((folder / "files" / summary["bits"]["path"]).read_text())["data"][0]
    drawn = {}
    for name, line in zip(chart["y"], chart["text"], strict=True):
        for block, text in zip(chart["x"], line, strict=True):
            if text:
                drawn[f"{block}.{name}"] = 32 if text == "fp" else int(text)
    assert drawn == sites

    store = Store(allocated.path.parent)
    store.write_sweep(SweepRecord(name="greedy", signatures=[allocated.signature]))
    ((_, figure),) = heat_maps(report.table(store, "greedy"), {allocated.signature: allocated.read_sites()})
    texts = ["fp" if bits == 32 else str(bits) for bits in sites.values()]
    assert dict(zip(figure.data[0].y, (line[0] for line in figure.data[0].text), strict=True)) == dict(
        zip(sites, texts, strict=True)
    )


def test_the_path_has_an_axis_of_its_own(allocated: RunDir) -> None:
    path = allocated.read_artifact("allocation_path")
    rows = [row for row in said(mirror_of(allocated))["history"] if "allocation/step" in row]
    assert [int(row["allocation/step"]) for row in rows] == [int(path["step"].iloc[i]) for i in thinned(len(path))]
    assert float(rows[-1]["allocation/loss"]) == pytest.approx(path["loss"].iloc[-1])
    assert float(rows[-1]["allocation/mean_weight_bits"]) <= 4
    metrics = [entry["metric"] for entry in records(mirror_of(allocated)) if entry["type"] == "metric"]
    axis = {m.get("glob_name") or m.get("name"): m.get("step_metric") for m in metrics}
    assert axis["allocation/*"] == "allocation/step"


def test_reconstruction_curves_and_pictures_of_probes_reach_both(tmp_path: Path) -> None:
    from PIL import Image

    recipe = yaml.safe_load((CONF / "method" / "ias_vit.yaml").read_text())
    run_dir = Planner(tmp_path).plan(method={**recipe, "iterations": 3}, **TRACKED)
    run_dir.probes_dir.mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(run_dir.probes_dir / "landscape.png")
    first = said(live(run_dir))
    table = run_dir.read_artifact("curves")
    assert set(table["segment"]) >= {"blocks.0", "blocks.1"}
    assert len(set(table["step"])) > 1
    rows = [row for row in first["history"] if "curves/iteration" in row]
    assert [row["curves/iteration"] for row in rows] == [0, 1, 2]
    shown = {key: value for row in rows if row["curves/iteration"] == 1 for key, value in row.items()}
    for step, segment, loss in table[table["iteration"] == 1][["step", "segment", "loss"]].values.tolist():
        assert shown[f"curves/{step}/{segment.replace('.', '/')}"] == pytest.approx(loss)
    assert first["summary"]["probes/landscape"]["_type"] == "image-file"
    assert said(rebuild(run_dir, None)) == first


def test_a_failed_run_is_rebuilt_as_failed_with_its_reason(tmp_path: Path) -> None:
    planner = Planner(tmp_path)
    run_dir = planner.plan("mse", tracker={"name": "wandb"})
    planner.checkpoint.unlink()
    with pytest.raises(ModelError):
        live(run_dir)
    first = said(mirror_of(run_dir))
    assert (first["state"], first["exit_code"]) == ("failed", 1)
    assert "tiny.safetensors" in first["summary"]["error"]
    status = run_dir.read_status()
    assert status is not None
    assert (first["summary"]["error"], first["summary"]["error_stage"]) == (status.error, status.stage)
    assert said(rebuild(run_dir, None)) == first


def test_a_run_without_an_end_is_not_rebuilt(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run_dir = Store(config.runs_dir).run(signature(config))
    run_dir.write_config(config.to_dict())
    run_dir.write_status(Status(state="running", stage="weights"))
    with refuses(StoreError, key="state", value="running", valid=["done", "failed"]):
        rebuild(run_dir, None)
    assert not (run_dir.path.parent / "wandb").exists()


def test_the_command_rebuilds_a_sweep_and_says_what_it_could_not(
    allocated: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "runs")
    shutil.copytree(allocated.path, store.run(allocated.signature).path)
    config = make_config(tmp_path)
    store.run(signature(config)).write_config(config.to_dict())
    store.write_sweep(SweepRecord(name="both", signatures=[allocated.signature, signature(config)]))
    assert main(["track", "rebuild", "both", "--runs-dir", str(store.root)]) == 1
    out, err = capsys.readouterr()
    assert summary_in(Path(out.strip()))["run_id"] == allocated.signature
    assert signature(config) in err
    assert "the run is planned" in err
    assert said(Path(out.strip()))["run"]["run_group"] == "both"
    command_refuses(
        ["track", "rebuild", "bth", "--runs-dir", str(store.root)], key="sweep", value="bth", valid=["both"]
    )


def test_curves_share_their_axis_and_a_missing_point_is_no_point() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.rows: list[dict[str, float]] = []

        def define_metric(self, *args: object, **kwargs: object) -> None: ...

        def log(self, row: dict[str, float]) -> None:
            self.rows.append(row)

    one = [("s1", "blocks.0", i, 1.0 / (i + 1)) for i in range(500)]
    two = [("s1", "blocks.1", i, 2.0) for i in range(0, 500, 499)]
    frame = pd.DataFrame([*one, *two], columns=["step", "segment", "iteration", "loss"])
    run = Recorder()
    loss_curves.log(run, frame)
    assert [row["curves/iteration"] for row in run.rows] == thinned(500)
    assert run.rows[0] == {"curves/iteration": 0, "curves/s1/blocks/0": 1.0, "curves/s1/blocks/1": 2.0}
    assert run.rows[1] == {"curves/iteration": 3, "curves/s1/blocks/0": 0.25}


def test_sensitivity_is_that_of_the_width_a_site_got() -> None:
    sites = pd.DataFrame({"site": ["a", "b"], "kind": ["weight", "probs"], "elements": [6, 4], "bits": [4, 32]})
    losses = pd.DataFrame({"site": ["a", "a", "b"], "bits": [3, 4, 3], "loss": [0.5, 0.25, 0.125]})
    shown = with_sensitivity(sites, losses)
    assert list(shown["params"]) == [6, 0]
    assert shown["sensitivity"][0] == 0.25
    assert math.isnan(shown["sensitivity"][1])
    assert list(sites.columns) == ["site", "kind", "elements", "bits"]


@pytest.mark.parametrize(("length", "points"), [(1, 2), (5, 5), (6, 5), (1000, 200), (401, 200)])
def test_thinned_curves_keep_their_ends(length: int, points: int) -> None:
    chosen = thinned(length, points)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, length - 1)
    assert len(chosen) == min(length, points)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("blocks.3.attn.qkv.input", ("blocks.3", "attn.qkv.input")),
        ("layers.1.blocks.0.mlp.fc1.weight", ("layers.1.blocks.0", "mlp.fc1.weight")),
        ("patch_embed.proj.weight", ("patch_embed", "proj.weight")),
        ("head.input", ("head", "input")),
    ],
)
def test_places_of_sites(site: str, expected: tuple[str, str]) -> None:
    assert bit_allocation.block_and_place(site) == expected


def test_landscapes_reach_both_as_surfaces_and_numbers(tmp_path: Path) -> None:
    options = {"landscape": {"points": 3, "views": ["random", "block"], "block_points": 3}}
    options["sensitivity"] = {"widths": [4], "images": 4}
    options["hessian"] = {"images": 2, "min_samples": 2, "max_samples": 2, "eigen": "none"}
    run_dir = Planner(tmp_path).plan(probe={"options": options, "images": 8}, **TRACKED)
    first = said(live(run_dir))
    arrays = run_dir.read_probe("landscape")
    assert arrays is not None
    summary = first["summary"]
    for view in ("random", "block_channel", "block_tensor"):
        assert summary[f"probes/landscape/{view}"]["_type"] == "plotly-file"
    assert summary["probes/landscape/random.sharpness"] == pytest.approx(float(arrays["random.scalar.sharpness"]))
    hessian = run_dir.read_probe("hessian")
    assert hessian is not None
    assert summary["probes/hessian/model.trace"] == pytest.approx(float(hessian["model.trace"]))
    assert not [key for key in summary if "eigenvalues" in key], "they were not asked for"
    assert said(rebuild(run_dir, None)) == first
