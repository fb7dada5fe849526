"""Behaviour registered by name. A duplicate name raises; an unknown one lists what exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

from vitq.errors import VitqError, unknown

T = TypeVar("T")
C = TypeVar("C")


class Registry(Generic[T]):
    """Names → objects of one kind.

    >>> shapes = Registry[type]("shape")
    >>> @shapes.register("round")
    ... class Round: ...
    >>> shapes["round"] is Round
    True
    """

    def __init__(self, what: str):
        self.what = what
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator that stores the object under `name`. Raises ValueError when the name is taken.

        It takes any type: mypy loses a class's own type where pydantic's `dataclass` stands between it and this.
        """

        def add(item: C) -> C:
            if name in self._items:
                raise ValueError(
                    f"{self.what} {name!r} is already registered by {self._items[name]!r}; pick another name"
                )
            self._items[name] = cast(T, item)
            return item

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise VitqError(unknown(self.what, name, self._items))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))
