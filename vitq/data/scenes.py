"""Images with objects in them: what a data set for detection tells beside its pixels, in COCO's own format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vitq.data.source import Source
from vitq.errors import Problem


class SceneSource(Source):
    """A split whose images hold objects.

    ids: int64 (N,), the data set's own numbers. objects: how many there are in all images, at least. categories:
    COCO's, in the order of the labels. Labels of images are all 0: they have no class, so that whoever chooses images
    chooses among all of them.
    """

    def __init__(
        self,
        ids: Sequence[int],
        objects: int,
        categories: list[dict[str, Any]],
        fingerprint: str,
        image: Callable[[int], Any],
        name: Callable[[int], str],
        read: Callable[[int], bytes] | None = None,
        sizes: np.ndarray | None = None,
    ):
        labels = np.zeros(len(ids), dtype=np.int64)
        super().__init__(labels, fingerprint, image, name, read, sizes, classes=len(categories))
        self.ids = np.asarray(ids, dtype=np.int64)
        self.objects, self.categories = objects, categories

    def truth(self, indices: np.ndarray) -> dict[str, Any]:
        """`images`, `annotations` and `categories` of the images at these positions, as COCO's files have them."""
        raise NotImplementedError

    def counted(self, indices: np.ndarray) -> int:
        """How many objects, at least, a detector is scored by in the images at these positions. Crowds are not."""
        return self.objects if len(indices) else 0

    def unusable(self, indices: np.ndarray, workers: int) -> list[Problem]:
        """What is wrong with the files of the images at these positions, looked at by so many threads."""
        return []
