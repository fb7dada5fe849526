"""Behaviour registered by name, and where the names come from: vitq's own packages, then plug-ins of other packages."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Generic, TypeVar, cast

from vitq.errors import Problem, VitqError, unknown
from vitq.plugins import load_plugins

T = TypeVar("T")
C = TypeVar("C")


class Registry(Generic[T]):
    """Names → objects of one kind.

    packages: where modules register such objects. The first look-up imports them all, and the plug-ins.

    >>> shapes = Registry[type]("shape")
    >>> @shapes.register("round")
    ... class Round: ...
    >>> shapes["round"] is Round
    True
    """

    def __init__(self, what: str, *packages: str):
        self.what = what
        self._packages = packages
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator that stores the object under `name`. Raises ValueError when the name is taken.

        It takes any type: mypy loses a class's own type where pydantic's `dataclass` stands between it and this.
        """

        def add(item: C) -> C:
            if name in self._items:
                text = f"{self.what} {name!r} is already registered by {self._items[name]!r}; pick another name"
                raise ValueError(Problem(text, self.what, name))
            self._items[name] = cast(T, item)
            return item

        return add

    def load(self) -> None:
        """Import what registers here. Every look-up does so first."""
        for package in self._packages:
            discover(package)
        if self._packages:
            load_plugins()

    def __getitem__(self, name: str) -> T:
        self.load()
        if name not in self._items:
            raise VitqError(unknown(self.what, name, self._items))
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(sorted(self._items))


@cache
def discover(package: str) -> None:
    """Import every module of a package and of the packages in it, so that all of them have registered. Errors raise.

    Raises VitqError where torch cannot make the folder of its compiler, which it does when it is imported.
    """
    try:
        root = importlib.import_module(package)
        for module in pkgutil.iter_modules(root.__path__, f"{package}."):
            if module.ispkg:
                discover(module.name)
            else:
                importlib.import_module(module.name)
    except OSError as error:
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        if folder is None:
            raise
        raise VitqError(
            f"TORCHINDUCTOR_CACHE_DIR={folder}: {error.strerror}; name a folder that can be written, or unset it",
            "TORCHINDUCTOR_CACHE_DIR",
            folder,
        ) from error
