"""Subjects for probes: a small random ViT or Swin on the digits, quantized by a real recipe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.job.planner import Planner
from tests.tiny import tiny
from vitq.config import RunConfig
from vitq.engine import recipe
from vitq.models.load import load_model
from vitq.probes.budget import PartialResults
from vitq.probes.probed_model import Subject
from vitq.progress import Progress
from vitq.steps.checkpoint import Checkpoint


def partial(max_seconds: float = 1e9) -> PartialResults:
    """One that forgets."""
    return PartialResults("key", None, lambda arrays: None, max_seconds, Progress())


@pytest.fixture
def subject(planner: Planner, tmp_path: Path) -> Callable[..., Subject]:
    """subject(recipe, family, config changes…) → what a probe looks at."""

    def make(recipe_name: str = "repq_vit", family: str = "vit", **more: Any) -> Subject:
        if family == "swin":
            path = tmp_path / "swin.safetensors"
            save_file(tiny("swin", num_classes=10).state_dict(), path)
            kwargs = {"depths": [2, 2], "num_heads": [2, 4], "embed_dim": 16, "window_size": 4, "patch_size": 4}
            more["model"] = {
                "name": "swin_tiny_patch4_window7_224",
                "kwargs": {**kwargs, "img_size": 32},
                "checkpoint": str(path),
                "input_size": 32,
                "crop_pct": 1.0,
            }
        more = {"calib": {"size": 32, "batch_size": 16}, "probe": {"images": 24}, **more}
        config, problems = RunConfig.parse(planner.plan(recipe_name, **more).read_config())
        assert config is not None, problems
        model = load_model(config.model, config.data, config.cache_dir, Progress()).eval()
        kept = Checkpoint(tmp_path / "state")
        work = recipe.apply(config, model, torch.device("cpu"), Progress(), kept, lambda name: nullcontext())
        return Subject.of(config, work.model, torch.device("cpu"), Progress())

    return make
