"""Full-precision logits from the cache: only where the same network saw the same numbers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny
from vitq.config import RunConfig
from vitq.data.images import ImageSet
from vitq.engine import fp_outputs
from vitq.progress import Progress
from vitq.tasks.task import task_of


def test_another_normalization_is_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images' fingerprint is that of their pixels; two configs may differ in data.mean and data.std alone."""
    raw = {
        "model": {"name": "tiny"},
        "data": {"name": "random", "num_classes": 5},
        "method": {"name": "fp32", "kinds": {}},
        "cache_dir": str(tmp_path),
    }
    config, problems = RunConfig.parse(raw)
    assert config is not None, problems
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=random).numpy()
    labels = torch.zeros(6, dtype=torch.int64).numpy()
    images = ImageSet(pixels, labels, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "ab" * 32)
    others = dataclasses.replace(images, mean=(0.1, 0.2, 0.3))
    model, cpu = tiny("vit").eval(), torch.device("cpu")

    def logits(chosen: ImageSet) -> torch.Tensor:
        return fp_outputs.reference_outputs(config, task_of(config), model, chosen, cpu, Progress())["logits"]

    first = logits(images)
    assert not torch.allclose(logits(others), first)

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(fp_outputs, "outputs", fail)
    assert torch.equal(logits(images), first)
