"""Classes that are registered by name and whose fields are options of a config: steps, probes, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.registry import Registry

C = TypeVar("C")


def registered(registry: Registry[Any], name: str) -> Callable[[type[C]], type[C]]:
    """Decorator: the class becomes a frozen, validated dataclass and is registered under `name`.

    Raises ValueError when the name is taken. A decorator made of this one says of itself that it is a
    `dataclass_transform(frozen_default=True)`.
    """

    def add(cls: type[C]) -> type[C]:
        # mypy loses the class's own type where pydantic's `dataclass` returns it.
        return registry.register(name)(cast(type[C], dataclass(frozen=True, config=RULES)(cls)))

    return add
