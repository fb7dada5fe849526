"""Images one by one, as PIL, whatever they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from vitq.data.pixels import to_mode
from vitq.errors import DataError, problem_of

if TYPE_CHECKING:
    from PIL.Image import Image

UNKNOWN = -1  # label of an image whose source has none before it is read


class Source:
    """Random access to the images of one split.

    labels: int64 (N,). fingerprint: 16 hex digits that stand for all images and labels. image: position → PIL image.
    name: position → what to call it. read, sizes: the stored bytes of an image and how many they are, where they can be
    asked without decoding it. classes: how many labels exist, None: not known; names: its class folders.
    left_out: what of the split is not taken, in words. deep: how many images are known to be gray with 16 bits, before
    they are read. labelled: whether a label file says the classes. white: the value of white in such images; None: not
    known. newest: when an image changed last, seconds since 1970, where names and sizes alone stand for the images and
    an edit of the same size would not be seen; else 0.
    """

    threads = True  # whether `image` may run in several
    white: int | None = None
    newest = 0.0

    def __init__(
        self,
        labels: Any,
        fingerprint: str,
        image: Callable[[int], Any] | None,
        name: Callable[[int], str] | None = None,
        read: Callable[[int], bytes] | None = None,
        sizes: np.ndarray | None = None,
        classes: int | None = None,
        names: frozenset[str] = frozenset(),
        left_out: tuple[str, ...] = (),
        deep: int = 0,
        labelled: bool = False,
    ):
        self.labels = np.asarray(labels, dtype=np.int64)
        self.fingerprint = fingerprint
        self._image = image
        self.name = name or (lambda index: f"number {index}")
        self.read, self.sizes = read, sizes
        self.digests: dict[int, bytes] = {}  # of stored bytes, as far as somebody asked
        self.labelled = labelled
        self.classes, self.names, self.left_out, self.deep = classes, names, left_out, deep

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int, mode: str = "RGB") -> Image:
        """Image at a position, `RGB` or `L`. Raises DataError naming the file when it cannot be decoded."""
        assert self._image is not None
        try:
            return to_mode(self._image(index), mode, self.white)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # each decoder has its own errors for a broken or an enormous image
            name, inner = self.name(index), problem_of(error)
            if inner.key:  # it can be decoded by another config
                raise DataError(inner.reworded(f"image {name}: {inner}")) from error
            text = f"image {name} cannot be decoded: {error}; replace it or take it out of the split"
            raise DataError(text, value=name) from error


class StreamedSource(Source):
    """A split that can only be read from its start (WebDataset, TFDS, iterable HF datasets); labels are UNKNOWN."""

    threads = False

    def __init__(self, dataset: Any, fingerprint: str, count: int):
        super().__init__(np.full(count, UNKNOWN), fingerprint, None)
        self._dataset = dataset

    def pick(self, indices: np.ndarray, mode: str = "RGB") -> Iterator[tuple[int, Image, int]]:
        """(slot in `indices`, image, label) in stream order; reading stops after the last one wanted.

        Raises DataError when the stream ends early.
        """
        slots = {int(index): slot for slot, index in enumerate(indices)}
        for index, (image, label) in enumerate(self._dataset):
            if index in slots:
                try:
                    yield slots.pop(index), to_mode(image, mode, self.white), int(label)
                except ValueError as error:
                    text = f"image {self.name(index)} of the stream cannot be used: {error}"
                    raise DataError(text, value=self.name(index)) from error
            if not slots:
                return
        text = (
            f"the stream ended {len(slots)} images early, its info says {len(self)}; correct that count (undecodable "
            "images are skipped by timm's reader and also look like this)"
        )
        raise DataError(text, value=len(self) - len(slots), valid=[len(self)])
