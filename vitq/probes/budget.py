"""What a probe has measured so far: kept on disk, limited in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from vitq.progress import Progress

# Seconds between two writes of what there is.
SAVE_EVERY = 20.0
_KEY, _SECONDS = "__key__", "__seconds__"


class BudgetSpentError(Exception):
    """`probe.max_seconds` are over; what there is was kept."""


class PartialResults:
    """Named arrays that are filled piece by piece; NaN is what is missing.

    key: stands for all that the numbers depend on. What was kept under another key is forgotten.
    seconds: spent on these numbers, earlier attempts included. units: pieces measured by this attempt.
    """

    def __init__(
        self,
        key: str,
        kept: dict[str, np.ndarray] | None,
        keep: Callable[[dict[str, np.ndarray]], None],
        max_seconds: float,
        progress: Progress,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._key, self._keep, self._max, self._progress, self._clock = key, keep, max_seconds, progress, clock
        kept = kept if kept is not None and str(kept.get(_KEY)) == key else {}
        self._arrays = {name: array for name, array in kept.items() if name not in (_KEY, _SECONDS)}
        self._earlier = float(kept.get(_SECONDS, 0.0))
        self._begin = self._saved = clock()
        self.units = 0

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """float64 array to be filled in place: NaN where nothing was measured yet."""
        known = self._arrays.get(name)
        if known is None or known.shape != shape:
            known = self._arrays[name] = np.full(shape, np.nan)
        return known

    def kept(self, name: str) -> np.ndarray | None:
        """What `keep` was given under this name, by this attempt or an earlier one."""
        return self._arrays.get(name)

    def keep(self, name: str, array: np.ndarray) -> None:
        """Keep an array of any kind, for what is not filled piece by piece."""
        self._arrays[name] = array

    def tick(self, note: str = "") -> None:
        """A piece was measured. Raises BudgetSpentError when the time is over."""
        self.units += 1
        self._progress.advance(1, note)
        now = self._clock()
        if now - self._begin >= self._max:
            self.save()
            raise BudgetSpentError
        if now - self._saved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Keep what there is."""
        self._saved = self._clock()
        self._keep({**self._arrays, _KEY: np.array(self._key), _SECONDS: np.array(self.seconds)})

    @property
    def seconds(self) -> float:
        return self._earlier + self._clock() - self._begin
