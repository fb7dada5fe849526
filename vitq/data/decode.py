"""From files to uint8 pixels: timm's transforms, written image by image into one array file."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitq.config import ModelConfig
from vitq.data.source import Source, StreamedSource
from vitq.errors import DataError
from vitq.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    Transform = Callable[[Image], np.ndarray]


def decode(
    source: Source,
    indices: np.ndarray,
    model: ModelConfig,
    augment: int | None,
    path: Path,
    workers: int,
    progress: Progress,
    split: str,
) -> np.ndarray:
    """Write the images at `indices` to `path` (.npy, uint8 (N, *model.image_shape)); return int64 labels.

    augment: None for the clean evaluation transform, else the seed of timm's training augmentation.
    Raises DataError for an image that cannot be decoded, OSError when the disk is full.
    """
    progress.stage(f"decode {split}", len(indices))
    transform = transform_of(model, augment is not None)
    shape = model.image_shape
    mode = "L" if shape[0] == 1 else "RGB"
    labels: np.ndarray = source.labels[indices]
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (len(indices), *shape)}
        )
        file.flush()
        start, length = file.tell(), int(np.prod(shape))

        def write(slot: int, image: Image) -> None:
            with nullcontext() if augment is None else _seeded(augment, int(indices[slot])):
                pixels = transform(image)
            if pixels.shape != shape or pixels.dtype != np.uint8:
                raise DataError(f"the transform gave {pixels.dtype} {pixels.shape}, expected uint8 {shape}")
            # Not a writable map: on a full disk that dies by SIGBUS, this raises an error.
            _write_all(file.fileno(), pixels.tobytes(), start + slot * length)

        if isinstance(source, StreamedSource):
            for slot, image, label in source.pick(indices, mode):
                write(slot, image)
                labels[slot] = label
                progress.advance()
            return labels
        # PIL decodes and resizes outside Python's lock, so threads do. Augmentation draws from global generators.
        threads = workers if source.threads and augment is None else 1
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for _ in pool.map(lambda slot: write(slot, source.image(int(indices[slot]), mode)), range(len(indices))):
                progress.advance()
    return labels


def transform_of(model: ModelConfig, augment: bool) -> Transform:
    """PIL image → uint8 (C, H, W) by timm's evaluation transform, or its training transform with its own defaults."""
    from timm.data import create_transform

    chain = create_transform(
        # One number where it is one: a pair takes other ways in timm.
        input_size=model.input_size if isinstance(model.input_size, int) else model.image_shape,
        is_training=augment,
        interpolation=model.interpolation,
        crop_pct=model.crop_pct,
        normalize=False,
    )

    return lambda image: np.ascontiguousarray(chain(image).numpy())


@contextmanager
def _seeded(seed: int, index: int) -> Iterator[None]:
    """Python's and torch's global generators (timm's augmentation draws from them) at a known state, then put back."""
    import torch

    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        mixed = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])
        random.seed(mixed)
        torch.manual_seed(mixed)
        try:
            yield
        finally:
            random.setstate(state)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
