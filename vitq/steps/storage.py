"""Where activations wait between two segments: on the device, on the host, or on disk."""

from __future__ import annotations

import math
import os
import tempfile

import numpy as np
import torch
from torch import Tensor

from vitq.errors import VitqError
from vitq.steps.step import Workspace


def room(work: Workspace, shape: tuple[int, ...]) -> Tensor:
    """An empty float32 tensor of a shape, where `calib.cache` says. Raises VitqError where the disk has no room."""
    cache = work.config.calib.cache
    if cache == "disk":
        # Unlinked while it is mapped: the space is free again as soon as the stream is, whatever ends the process.
        with tempfile.TemporaryFile(prefix="vitq-stream-") as file:
            _reserve(file.fileno(), 4 * math.prod(shape))
            return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="w+", shape=shape))
    return torch.empty(shape, device=work.device if cache == "device" else "cpu")


def _reserve(file: int, size: int) -> None:
    """Take the disk's space now: a write into a mapped file that finds no space ends the process with SIGBUS."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise VitqError(
            f"calib.cache=disk: {size / 1e6:.1f} MB for one stream of activations do not fit into "
            f"{tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a folder with more space, take "
            "calib.cache=host, or fewer images (calib.size)",
            "calib.cache",
            "disk",
            ["host"],
        ) from error
