"""Detectors compute what the original code computes: the records of a tiny configuration, tensor by tensor.

The records are no part of the project; VITQ_GOLDEN names the folder that holds them. What a network of the same shape
gives whose weights are drawn here is recorded below, so that this is tested everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from tests.models.detection.released import release
from tests.models.detection.small import small
from vitq.data.padded import Padded
from vitq.models.checkpoint import fitting
from vitq.models.detection.backbone import LEVELS
from vitq.models.detection.outputs import Detections
from vitq.models.detection.paste import paste

NAMES = ("mask_rcnn", "cascade_mask_rcnn")


def record(name: str) -> Path:
    """File of a record. Skips where there is none."""
    file = Path(os.environ.get("VITQ_GOLDEN", "")) / f"swin_od_{name}_tiny.safetensors"
    if not file.is_file():
        pytest.skip("VITQ_GOLDEN names no folder with the records of the original code")
    return file


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_names_of_the_original_code(name: str, tmp_path: Path) -> None:
    """So that files which tests write are such as the papers released."""
    want = {key.removeprefix("weights."): t.shape for key, t in load_file(record(name)).items() if "weights." in key}
    own = release(small(cascade=name.startswith("cascade")), tmp_path / "released.pth")
    assert {key: t.shape for key, t in own.items() if not key.endswith("position_index")} == want


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_tensor_of_the_original_code(name: str) -> None:
    file = record(name)
    want = load_file(file)
    network = small(cascade=name.startswith("cascade"))
    # The names of the weights are mmdet's: they pass the reader of checkpoints, strictly.
    network.load_state_dict(fitting(network, file, "weights")[0], strict=True)
    images = Padded(want["image"], want["size"][None])
    x, stages = network.backbone.body.patch_embed(images.pixels), []
    for stage in network.backbone.body.layers:
        x = stage(x)
        stages.append(x)
    for index, features in enumerate(network.backbone.features(*stages)):
        close(features, want[f"features.{index}"], 1e-5)
    pyramid = network.backbone(images.pixels)
    for index, level in enumerate(pyramid):
        close(level, want[f"pyramid.{index}"], 1e-5)
    height, width = want["size"].tolist()
    proposals, _ = network.rpn(ImageList(images.pixels, [(height, width)]), dict(zip(LEVELS, pyramid, strict=True)))
    close(proposals[0], want["proposals"][:, :4], 2e-4)
    found = by_class(network(images)[0])
    assert torch.equal(found.labels, want["labels"])
    close(found.scores, want["scores"], 1e-5)
    close(found.boxes, want["boxes"], 2e-4)
    bits = np.unpackbits(want["masks"].numpy(), axis=-1)[..., :width].astype(bool)
    assert np.array_equal(paste(found.masks, found.boxes, height, width).numpy(), bits)


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Of one shape, and no element further off than the tolerance."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance


def by_class(found: Detections) -> Detections:
    """In the record's order: class by class, best first within."""
    order = found.labels.argsort(stable=True)
    return Detections(*(part[order] for part in found))
