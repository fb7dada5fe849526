"""Detectors from a config to a record: planned, calibrated, learned, scored, reported; on a tiny network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.errors import is_about, refuses
from tests.models.detection.small import sharp
from vitq import data, track
from vitq.config import RunConfig, signature
from vitq.engine.network_checks import misfits, network_problems
from vitq.engine.recipe import apply
from vitq.engine.recipe_checks import problems
from vitq.errors import ModelError
from vitq.job import execute
from vitq.job.requantize import requantize
from vitq.models.load import identify, load_model
from vitq.probes.probe import problems as probe_problems
from vitq.progress import Progress
from vitq.report.accuracy_table import matrices
from vitq.report.runs_table import table
from vitq.report.wording import caution
from vitq.steps import Workspace
from vitq.steps.checkpoint import Checkpoint
from vitq.steps.stream import ImageStream, through
from vitq.steps.value_stream import ValueStream
from vitq.store import Run, RunDir, Store
from vitq.store.metrics import DetectionMetrics
from vitq.store.result import Result
from vitq.store.sweeps import SweepRecord

CONF = Path(__file__).resolve().parents[2] / "conf"
KWARGS = {
    "embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 7, "pyramid": 16, "hidden": 32,
}  # fmt: skip
LEARNING: dict[str, Any] = {
    "name": "learning",
    "kinds": {"default": {"quantizer": "uniform"}, "weight": {"quantizer": "uniform", "granularity": "channel"}},
    "steps": {
        "ranges": {"do": "calibrate"},
        "learn": {"do": "reconstruct", "iterations": 3, "batch_size": 2, "lr": 1e-4, "learn": ["weights"]},
    },
}


class Detectors:
    """Plans runs of a tiny detector with random weights on a few scenes of digits."""

    def __init__(self, folder: Path):
        self.store, self.cache = Store(folder / "runs"), folder / "cache"
        self.checkpoint = folder / "tiny.safetensors"
        network = sharp(classes=10)
        save_file(network.state_dict(), self.checkpoint)

    def config(self, recipe: str | dict[str, Any] = "minmax", **more: Any) -> RunConfig:
        if isinstance(recipe, str):
            recipe = yaml.safe_load((CONF / "method" / f"{recipe}.yaml").read_text())
        scenes = yaml.safe_load((CONF / "data" / "digit_scenes.yaml").read_text())
        raw: dict[str, Any] = {
            "task": "segmentation",
            "model": {
                "name": "mask_rcnn", "kwargs": KWARGS, "checkpoint": str(self.checkpoint), "pretrained": False,
                "input_size": [96, 128],
            },
            "data": scenes | {"eval_limit": 2, "eval_choice": "first"},
            "method": recipe,
            "bits": {"weight": 8, "activation": 8},
            "calib": {"size": 2, "batch_size": 1},
            "device": "cpu",
            "runs_dir": str(self.store.root),
            "cache_dir": str(self.cache),
        }  # fmt: skip
        config, wrong = RunConfig.parse(raw | more)
        assert config is not None, wrong
        return config

    def plan(self, recipe: str | dict[str, Any] = "minmax", **more: Any) -> RunDir:
        config = self.config(recipe, **more)
        plain = config.to_dict()
        plain["model"]["weights"] = identify(config.model).weights
        plain["data"]["fingerprint"] = data.describe(config).fingerprint
        final, wrong = RunConfig.parse(plain)
        assert final is not None, wrong
        run_dir = self.store.run(signature(final))
        run_dir.write_config(final.to_dict())
        return run_dir

    def execute(self, run_dir: RunDir) -> Result:
        return execute.execute(run_dir, Progress(), track.Tracker())

    def workspace(self, config: RunConfig) -> Workspace:
        network = load_model(config.model, config.data, config.cache_dir, Progress())
        return apply(config, network, torch.device("cpu"), Progress(), Checkpoint(self.cache / "state"), _untimed)


def _untimed(_: str) -> Any:
    from contextlib import nullcontext

    return nullcontext()


@pytest.fixture
def detectors(tmp_path: Path) -> Detectors:
    return Detectors(tmp_path)


def _metrics(result: Result) -> DetectionMetrics:
    assert isinstance(result.metrics, DetectionMetrics)
    return result.metrics


def test_a_run_leaves_a_complete_record(detectors: Detectors) -> None:
    full = _metrics(detectors.execute(detectors.plan("fp32")))
    assert (full.drop_box, full.drop_mask) == (0, 0)
    assert full.fidelity_box in (None, 100)
    run_dir = detectors.plan("minmax")
    result = detectors.execute(run_dir)
    assert run_dir.is_done()
    metrics = _metrics(result)
    assert metrics.n_eval == 2
    assert metrics.fp_ap_box == full.ap_box
    again = run_dir.read_result()
    assert again == result
    sites = run_dir.read_sites()
    assert set(sites.loc[sites["kind"] == "dense", "bits"]) == {8}
    assert sites["mse"].notna().sum() > 100
    arrays = run_dir.read_predictions()
    assert arrays["id"].tolist() == [0, 1]
    assert len(arrays["box"]) == len(arrays["score"]) == len(arrays["mask_end"]) > 0
    requantize(run_dir, Run(run_dir).config, Progress())  # raises where it is another model


def test_the_backbone_alone(detectors: Detectors) -> None:
    run_dir = detectors.plan("minmax", bits={"weight": 4, "activation": 4, "scope": "backbone"})
    detectors.execute(run_dir)
    sites = run_dir.read_sites().set_index("site")
    outside = [site for site in sites.index if not site.startswith("backbone.body.")]
    assert set(sites.loc[outside, "bits"]) == {32}
    inside = sites.drop(outside)
    assert set(inside.loc[inside["kind"] != "patch", "bits"]) == {4}


def test_every_calibrating_recipe(detectors: Detectors) -> None:
    """Those whose steps work on detectors give all sites codes."""
    for recipe in ("repq_vit", "fq_vit"):
        config = detectors.config(recipe)
        assert problems(config) == []
        assert network_problems(config) == []
        assert misfits(config) == []
        work = detectors.workspace(config)
        left = [s.name for s in work.model.quantized() if not (s.on and s.quantizer is not None and s.quantizer.fitted)]
        assert left == []


def test_streams_hold_one_tuple_for_each_image(detectors: Detectors) -> None:
    config = detectors.config()
    work = detectors.workspace(config)
    work.model.switch(work.model.sites.values(), on=False)
    inputs: Any = ImageStream(work)
    for segment in work.model.structure.segments[:-1]:
        inputs = through(segment.forward, inputs, work)
        assert isinstance(inputs, ValueStream)
        assert len(inputs) == 2
    (*pyramid, sizes), _ = list(inputs.batches())
    with torch.no_grad():
        batch: Any = next(work.batches())
        want = work.model.model.get_submodule("backbone")(batch.pixels)
    assert torch.equal(sizes, batch.sizes)
    assert all(torch.equal(a, b) for a, b in zip(pyramid, want, strict=True))
    chosen = inputs.select(torch.tensor([0]))
    assert all(torch.equal(a, b) for a, b in zip(chosen, (*pyramid, sizes), strict=True))


@pytest.mark.parametrize("cache", ["host", "disk", "device"])
def test_where_activations_wait_changes_nothing(detectors: Detectors, cache: str) -> None:
    size = {"size": 2, "batch_size": 1}
    one, other = (
        detectors.workspace(detectors.config(calib=size | {"cache": where})).model.model.state_dict()
        for where in ("host", cache)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_reconstruction_learns_backbone_and_pyramid(detectors: Detectors) -> None:
    config = detectors.config(LEARNING, bits={"weight": 4, "activation": 4})
    assert problems(config) == []
    work = detectors.workspace(config)
    curves = {name: losses[0] for name, losses in work.curves.items()}
    names = [segment.name for segment in work.model.structure.segments]
    assert list(curves) == names[:-1]
    assert all(len(curve) == 3 and bool(curve.isfinite().all()) for curve in curves.values())
    before = load_model(config.model, config.data, config.cache_dir, Progress()).state_dict()
    after = {name.replace("weight_site.", ""): value for name, value in work.model.model.state_dict().items()}
    changed = {name for name, value in before.items() if name in after and not torch.equal(value, after[name])}
    assert any("fpn" in name for name in changed)
    assert not any(name.startswith(("rpn", "roi_heads")) for name in changed)


def test_reconstruction_resumes_bit_for_bit(detectors: Detectors) -> None:
    config = detectors.config(LEARNING, bits={"weight": 4, "activation": 4})
    whole = detectors.workspace(config).model.model.state_dict()
    state = sorted((detectors.cache / "state").glob("learn-*"))
    assert len(state) == 13
    for file in state[5:]:  # as if it had been killed there
        file.unlink()
    again = detectors.workspace(config).model.model.state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_what_has_no_meaning_yet_is_refused_by_the_plan(detectors: Detectors) -> None:
    for name in ("hessian", "landscape"):
        (wrong,) = probe_problems(detectors.config(probe={"names": [name]}))
        assert is_about(wrong, "probe", name, ["distributions", "sensitivity"])
    assert probe_problems(detectors.config(probe={"names": ["distributions", "sensitivity"]})) == []


def test_task_data_and_model_belong_together(detectors: Detectors) -> None:
    digits = yaml.safe_load((CONF / "data" / "digits.yaml").read_text())
    assert any(is_about(p, "data.dataset", "digits") for p in problems(detectors.config(data=digits)))
    assert any(is_about(p, "task", "classification") for p in problems(detectors.config(task="classification")))
    plain = detectors.config().to_dict()
    finder = detectors.config(task="classification", data=digits)
    assert any(is_about(p, "task", "classification", ["detection", "segmentation"]) for p in problems(finder))
    boxes = detectors.config(task="features", data=digits, model=plain["model"] | {"name": "yolos"})
    assert any(is_about(p, "task", "features", ["detection"]) for p in problems(boxes))
    other = detectors.config(model={"name": "vit_digits", "pretrained": False})
    assert any(is_about(p, "model.name", "vit_digits", ["mask_rcnn"]) for p in problems(other))
    scoped = detectors.config(task="classification", bits={"scope": "backbone"})
    assert any(is_about(p, "bits.scope", "backbone") for p in problems(scoped))


@pytest.mark.parametrize(
    ("sides", "value"), [({"long_side": 96}, 96), ({"short_side": 96, "long_side": 64}, 64), ({"short_side": 96}, None)]
)
def test_sides_that_no_image_gets(detectors: Detectors, sides: dict[str, int], value: int | None) -> None:
    config = detectors.config(model=detectors.config().to_dict()["model"] | sides)
    wrong = network_problems(config)
    assert len(wrong) == (value is not None)
    assert all(is_about(problem, "model.long_side", value) for problem in wrong)


def test_weights_of_the_other_swin_are_refused_by_the_plan(detectors: Detectors) -> None:
    other = detectors.checkpoint.with_name("openmmlab.safetensors")
    name = "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"
    save_file({name: torch.zeros(3)}, other)
    plain = detectors.config().to_dict()
    config, _ = RunConfig.parse(plain | {"model": plain["model"] | {"checkpoint": str(other)}})
    assert config is not None
    (wrong,) = network_problems(config)
    assert is_about(wrong, "model.checkpoint", name)


def test_a_detector_without_weights_is_refused(detectors: Detectors) -> None:
    with refuses(ModelError, "model.train"):
        identify(dataclasses.replace(detectors.config().model, checkpoint=None))


def test_categories_of_another_model_are_refused_by_the_plan(detectors: Detectors) -> None:
    """A checkpoint of ten classes, data of seven."""
    plain = detectors.config().to_dict()
    config, _ = RunConfig.parse(plain | {"data": plain["data"] | {"num_classes": 7}})
    assert config is not None
    assert any(is_about(problem, "data.num_classes", 7, [10]) for problem in data.problems(config))
    assert any(problem.key == "model.checkpoint" for problem in network_problems(config))


def test_without_pycocotools_the_plan_says_how_to_get_it(detectors: Detectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitq.tasks.detection.available", lambda: False)
    (wrong,) = problems(detectors.config())
    assert is_about(wrong, "task", "segmentation")
    assert "vitq[detection]" in wrong.action


def test_the_report_has_a_table_for_boxes_and_one_for_masks(detectors: Detectors) -> None:
    signatures = []
    for recipe in ("fp32", "minmax"):
        run_dir = detectors.plan(recipe)
        detectors.execute(run_dir)
        signatures.append(run_dir.signature)
    detectors.store.write_sweep(SweepRecord(name="few", signatures=signatures))
    df = table(detectors.store, "few")
    boxes, masks = matrices(df)
    assert (boxes.score, masks.score) == ("AP box", "AP mask")
    result = detectors.store.run(signatures[1]).read_result()
    assert result is not None
    metrics = _metrics(result)
    (row,) = masks.rows
    (cell,) = row.cells
    assert cell is not None
    assert cell.top1 == metrics.ap_mask
    assert cell.drop == metrics.drop_mask
    assert boxes.fp_top1 == metrics.fp_ap_box
    assert caution(boxes) == ""
