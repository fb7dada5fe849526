"""A killed reconstruction goes on from its last finished segment and ends with the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import SwiGLU
from torch import Tensor

from tests.tiny import images, run, tiny, uniform
from vitq.progress import Progress
from vitq.steps import Workspace
from vitq.steps.checkpoint import Checkpoint

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
STEPS: list[dict[str, Any]] = [
    {"do": "calibrate"},
    {
        "do": "reconstruct",
        "iterations": 10,
        "batch_size": 8,
        "learn": ["rounding", "activation_scales", "zero_points", "bias"],
        "input": "qdrop",
        "lr_scales": 1e-3,
        "lr_zero_points": 0.2,
        "lr_rounding": 0.05,
    },
]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the engine catches it."""


class Killer(Progress):
    """Dies after a number of iterations, and counts those that ran."""

    def __init__(self, after: int | None = None):
        self.after, self.computed = after, 0

    def advance(self, units: int = 1, note: str = "") -> None:
        if units == 1:
            self.computed += 1
        if self.computed == self.after:
            raise Killed


def finished(
    workspace: Make,
    family: str,
    folder: Path | None,
    killer: Killer,
    method: dict[str, Any] = UNIFORM,
    steps: list[dict[str, Any]] = STEPS,
    **kwargs: Any,
) -> tuple[Tensor, Workspace]:
    work = workspace(tiny(family, **kwargs), method, weight=3, activation=4)
    work.progress = killer
    work.checkpoint = Checkpoint(folder) if folder else None
    run(work, *steps)
    with torch.no_grad():
        return work.model(images(work)), work


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_second_attempt_continues_and_ends_the_same(workspace: Make, tmp_path: Path, family: str) -> None:
    whole = Killer()
    expected, undisturbed = finished(workspace, family, None, whole)
    first = Killer(after=whole.computed - 4)
    with pytest.raises(Killed):
        finished(workspace, family, tmp_path, first)
    second = Killer()
    found, resumed = finished(workspace, family, tmp_path, second)
    assert torch.equal(found, expected), "bit for bit"
    assert second.computed < whole.computed / 2, "finished segments are not computed again"
    assert resumed.checkpoint is not None
    assert resumed.checkpoint.restored, "its seconds are not those of the whole recipe"
    assert {k: [c.tolist() for c in v] for k, v in resumed.curves.items()} == {
        k: [c.tolist() for c in v] for k, v in undisturbed.curves.items()
    }


def test_layers_behind_one_norm_go_on_with_a_scale_each(workspace: Make, tmp_path: Path) -> None:
    """Folding gives both layers of a gated MLP one range; then each learns its own."""
    channelwise = {"granularity": "channel", "options": {"include_zero": False}}
    method = {"kinds": {**UNIFORM["kinds"], "post_norm": channelwise}}
    learn = {"do": "reconstruct", "learn": ["activation_scales"], "iterations": 10, "batch_size": 8, "lr_scales": 1e-2}
    steps: list[dict[str, Any]] = [{"do": "calibrate"}, {"do": "reparameterize"}, learn]

    def go(folder: Path | None) -> tuple[Tensor, list[float]]:
        found, work = finished(workspace, "vit", folder, Killer(), method, steps, mlp_layer=SwiGLU)
        return found, [float(uniform(work, f"blocks.0.mlp.{name}.input").scale) for name in ("fc1_g", "fc1_x")]

    expected, scales = go(None)
    assert scales[0] != scales[1]
    for _ in range(2):  # the second takes what the first stored
        found, again = go(tmp_path)
        assert torch.equal(found, expected)
        assert again == scales


def test_damaged_or_foreign_state_is_computed_again(workspace: Make, tmp_path: Path) -> None:
    whole = Killer()
    expected, _ = finished(workspace, "vit", tmp_path, whole)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [
        f"test-{name}.safetensors" for name in ("blocks.0", "blocks.1", "head", "patch_embed")
    ]
    files[0].write_bytes(b"damaged")
    files[1].write_bytes(files[2].read_bytes())
    again = Killer()
    found, _ = finished(workspace, "vit", tmp_path, again)
    assert torch.equal(found, expected)
    assert 20 <= again.computed < whole.computed
