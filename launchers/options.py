"""`launcher.options`, checked against the dataclass of a launcher's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from vitq.option_errors import option_problems

T = TypeVar("T")


class OptionsOf(Generic[T]):
    """Reads `launcher.options` as a T."""

    def __init__(self, dataclass: type[T]):
        self._dataclass = dataclass
        self._adapter: TypeAdapter[T] = TypeAdapter(dataclass)

    def check(self, options: Mapping[str, Any]) -> list[str]:
        """Problems of `launcher.options`, one line each."""
        try:
            self._adapter.validate_python(dict(options))
        except ValidationError as error:
            return option_problems(error, "launcher.options", self._dataclass, "key")
        return []

    def parse(self, options: Mapping[str, Any]) -> T:
        """Checked options. Raises pydantic.ValidationError where `check` finds problems."""
        return self._adapter.validate_python(dict(options))
