"""The embedded detector as it is trained: packed and read back, it finds the same objects bit for bit."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from vitq.config import RunConfig
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.engine import evaluate
from vitq.engine.recipe import apply
from vitq.models.load import load_model
from vitq.planning import compose
from vitq.progress import Progress
from vitq.quant.site_table import model_bytes
from vitq.steps.checkpoint import Checkpoint
from vitq.tasks.task import task_of

OVERRIDES = ["task=segmentation", "model=mask_rcnn_digits", "data=digit_scenes", "method=repq_vit", "bits=w4a4",
             "calib.size=2", "calib.batch_size=1", "data.eval_limit=6", "device=cpu"]  # fmt: skip


def _config() -> RunConfig:
    file, roots = compose.root_config()
    (cell,) = compose.expand(compose.load(file, roots, OVERRIDES))
    config, problems = RunConfig.parse(cell.raw)
    assert config is not None, problems
    return config


def test_a_trained_detector_is_packed_exactly(tmp_path: Path) -> None:
    config = _config()
    folder = Path(config.cache_dir).expanduser() / "models"
    if not list(folder.glob("mask_rcnn-*.safetensors")):
        pytest.skip(
            f"no trained detector in {folder}; `vitq run task=segmentation model=mask_rcnn_digits …` trains one"
        )
    network = load_model(config.model, config.data, config.cache_dir, Progress())
    work = apply(config, network, torch.device("cpu"), Progress(), Checkpoint(tmp_path / "s"), lambda _: nullcontext())
    path = tmp_path / "packed.safetensors"
    size = save_packed(work.model.eval(), config, model_bytes(work.model.model), path)
    packed = load_packed(path)
    assert size < 0.2 * packed.float_bytes
    task = task_of(config)
    images = task.images(config, Progress())
    own, again = (
        evaluate.outputs(task, model, images, 1, torch.device("cpu"), Progress(), "evaluate")
        for model in (work.model, packed.model)
    )
    assert len(own["score"]) >= 6
    assert {name: torch.equal(value, again[name]) for name, value in own.items()} == dict.fromkeys(own, True)
