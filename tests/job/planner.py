"""Runs of the real engine for tests: a small random ViT on the digits, planned without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from tests.tiny import tiny
from vitq import data, track
from vitq.config import RunConfig, signature
from vitq.job import execute
from vitq.models.load import identify
from vitq.progress import Progress
from vitq.store import RunDir, Store

CONF = Path(__file__).resolve().parents[2] / "conf"
KWARGS = {"depth": 2, "img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3}


class Planner:
    """Plans runs of a small random ViT on the digits."""

    def __init__(self, folder: Path):
        self.store = Store(folder / "runs")
        self.cache = folder / "cache"
        self.checkpoint = folder / "tiny.safetensors"
        save_file(tiny("vit", num_classes=10).state_dict(), self.checkpoint)

    def plan(self, recipe: str = "repq_vit", **more: Any) -> RunDir:
        raw: dict[str, Any] = {
            "model": {
                "name": "vit_tiny_patch16_224",
                "kwargs": KWARGS,
                "checkpoint": str(self.checkpoint),
                "input_size": 32,
                "crop_pct": 1.0,
            },
            "data": yaml.safe_load((CONF / "data" / "digits.yaml").read_text()),
            "method": yaml.safe_load((CONF / "method" / f"{recipe}.yaml").read_text()),
            "bits": {"weight": 4, "activation": 4},
            "device": "cpu",
            "runs_dir": str(self.store.root),
            "cache_dir": str(self.cache),
            **more,
        }
        config, problems = RunConfig.parse(raw)
        assert config is not None, problems
        plain = config.to_dict()
        plain["model"]["weights"] = identify(config.model).weights
        plain["data"]["fingerprint"] = data.describe(config).fingerprint
        final, problems = RunConfig.parse(plain)
        assert final is not None, problems
        run_dir = self.store.run(signature(final))
        run_dir.write_config(final.to_dict())
        return run_dir

    def execute(self, run_dir: RunDir) -> Any:
        return execute.execute(run_dir, Progress(), track.Tracker())
