"""Embedded detectors, trained by vitq on first use: AdamW, warm-up, cosine; scenes as they are, one pass each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vitq.config import DataConfig, ModelConfig
from vitq.data.digit_scenes import draw
from vitq.errors import ModelError
from vitq.models.build import create
from vitq.models.descent import Descent, recipe_of
from vitq.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vitq.models.detection.detector import Detector

SAMPLES = 128  # boxes of an image that the heads learn from; a quarter of them on objects, which have masks
_NOTED = 10  # steps between two notes of the loss


def fit(
    model: ModelConfig, data: DataConfig, split: str, cache_dir: str | Path, progress: Progress
) -> dict[str, Tensor]:
    """Train from scratch on the digit scenes; the state dict, float32 on the CPU. All randomness is `train.seed`'s.

    Batches hold scenes of one size, so that nothing is padded beyond what the network needs. Raises ModelError for a
    config without a training recipe, or for other data.
    """
    import torch

    from vitq.data.sets import scenes_of

    rule = recipe_of(model)
    if data.dataset != "digit_scenes":
        text = f"{model.name!r} is trained on the digit scenes, not on {data.name!r}; set data=digit_scenes"
        raise ModelError(text, "data.dataset", data.dataset, ["digit_scenes"])
    scenes = scenes_of(model, data, split, cache_dir, progress)
    network = cast("Detector", create(model, data, seed=rule.seed)).train()
    network.sample(SAMPLES)
    generator = torch.Generator().manual_seed(rule.seed)
    batches = [b for _ in range(rule.epochs) for b in _batches(scenes.shapes, rule.batch_size, generator)]
    descent = Descent(network, rule, len(batches))
    progress.stage(f"train {model.name}", len(batches))
    # The proposals that a step learns from are drawn from torch's global generator; the fork puts its state back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rule.seed)
        for step, chosen in enumerate(batches):
            images, _ = next(scenes.take(chosen).batches(len(chosen), "cpu"))
            loss = network.losses(images, [_target(split, index, images.pixels.shape[-2:]) for index in chosen])
            descent.step(loss)
            note = f"step {step + 1}, loss {loss.item():.3f}" if step % _NOTED == 0 else ""
            progress.advance(1, note)
    return descent.result()


def _batches(shapes: Any, size: int, generator: torch.Generator) -> list[list[int]]:
    """Positions of all scenes in random order, in batches of neighbours of one padded size."""
    import torch

    from vitq.data.ragged import STRIDE

    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index in torch.randperm(len(shapes), generator=generator).tolist():
        by_shape.setdefault(tuple((-(-shapes[index] // STRIDE)).tolist()), []).append(index)
    batches = [group[start : start + size] for group in by_shape.values() for start in range(0, len(group), size)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]


def _target(split: str, index: int, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A scene's objects as torchvision's losses read them, masks padded to the batch's size."""
    import torch

    scene = draw(split, index)
    masks = torch.zeros(len(scene.labels), *shape, dtype=torch.uint8)
    height, width = scene.pixels.shape
    masks[:, :height, :width] = torch.from_numpy(scene.masks)
    return {
        "boxes": torch.from_numpy(scene.boxes),
        "labels": torch.from_numpy(scene.labels) + 1,
        "masks": masks,
    }
