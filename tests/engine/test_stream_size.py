"""How much waits between segments is what the streams hold, computed from shapes alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.job.test_detectors import LEARNING, Detectors
from vitq.engine.stream_size import stream_bytes
from vitq.models.load import load_model
from vitq.models.structure import structure_of
from vitq.progress import Progress


@pytest.mark.parametrize("method", ["minmax", LEARNING])
def test_shapes_say_what_streams_hold(tmp_path: Path, method: Any) -> None:
    config = Detectors(tmp_path).config(method)
    network = load_model(config.model, config.data, config.cache_dir, Progress())
    value: Any = torch.zeros(1, *config.model.image_shape)
    held = [0]
    with torch.no_grad():
        for segment in structure_of(network).segments:
            value = segment.forward(value)
            parts = value if isinstance(value, tuple) else value[0]
            held.append(sum(part.nbytes for part in parts if part.is_floating_point()))
    networks = 1 if method == "minmax" else 2
    most = max(before + behind for before, behind in pairwise(held))
    assert stream_bytes(config) == networks * 2 * most > 0
