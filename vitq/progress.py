"""How a long operation reports its progress. The engine calls it; the terminal and `status.json` listen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar("T")


class Progress:
    """Listener with no effect; subclasses override what they need. Calls are cheap, so engine code calls freely."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins, e.g. `steps.activations`; `total` is its number of units where that is known."""

    def advance(self, units: int = 1, note: str = "") -> None:
        """`units` of the current stage are done; `note` says where it stands, e.g. `blocks.3`."""

    def iterating(self) -> AbstractContextManager[None]:
        """Around the iterations of a step that learns, so that their seconds are known apart from its preparations.

        The losses are taken to the CPU within it: a device works behind the program until its values are asked for.
        """
        return nullcontext()

    def over(self, items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
        """Yield the items of a stage, advancing by one after each."""
        if total is None:
            try:
                total = len(items)  # type: ignore[arg-type]
            except TypeError:
                total = None
        self.stage(name, total)
        for item in items:
            yield item
            self.advance()
