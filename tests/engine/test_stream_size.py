"""How much waits between segments, computed from shapes alone, is what steps really keep at once."""

from __future__ import annotations

import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.job.test_detectors import LEARNING, Detectors
from vitq.data.digit_scenes import COUNTS, draw
from vitq.engine.stream_size import stream_bytes
from vitq.steps import Workspace

CANVAS = (128, 160)  # the largest one of the scenes
SIZE = (384, 480)  # enlarged to it, backbone and pyramid keep more than the heads' objects
IMAGES = 2
RANGES = {"ranges": {"do": "calibrate"}}
SEARCH = {"do": "hessian_search", "rounds": 1, "candidates": 2, "coarse": 2}


class Meter:
    """Stands for `room`: counts the bytes that wait, and the most that ever did."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def room(self, work: Workspace, shape: tuple[int, ...]) -> Tensor:
        values = torch.empty(shape)
        self.now += values.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(values, self._free, values.nbytes)
        return values

    def _free(self, size: int) -> None:
        self.now -= size


def learning(**options: Any) -> dict[str, Any]:
    learn = LEARNING["steps"]["learn"] | {"iterations": 1} | options
    return LEARNING | {"steps": RANGES | {"learn": learn}}


def searching(**options: Any) -> dict[str, Any]:
    return LEARNING | {"steps": RANGES | {"search": SEARCH | options}}


RECIPES = {
    "calibrate": LEARNING | {"steps": RANGES},
    "reconstruct": learning(),
    "reconstruct from fp": learning(input="fp"),
    "fisher_diag": learning(loss="fisher_diag"),
    "perturbation_hessian": learning(loss="perturbation_hessian", input="fp"),
    "global_local": learning(loss="global_local"),
    "relu_mlp": LEARNING | {"steps": {"mlp": {"do": "relu_mlp", "iterations": 1, "batch_size": 1}} | RANGES},
    "hessian_search": searching(),
    "hessian_search of one": searching(images=1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_shapes_say_what_is_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detectors, meter = Detectors(tmp_path), Meter()
    alike = (index for index in range(COUNTS["calib"]) if draw("calib", index).pixels.shape == CANVAS)
    calib = {"size": IMAGES, "batch_size": 1, "cache": "disk", "ids": list(islice(alike, IMAGES))}
    # Layers of the heads run for as many boxes as an image has: those of the estimate are the most there may be.
    bits = {"weight": 4, "activation": 4, "scope": "backbone"}
    sides = {"input_size": list(SIZE), "short_side": SIZE[0], "long_side": SIZE[1]}
    model = detectors.config().to_dict()["model"] | sides
    config = detectors.config(RECIPES[name], calib=calib, bits=bits, model=model)
    for module in ("stream", "value_stream"):
        monkeypatch.setattr(f"vitq.steps.{module}.room", meter.room)
    detectors.workspace(config)
    assert meter.most == stream_bytes(config) > 0
