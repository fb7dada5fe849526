"""What a probe is."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.errors import unknown
from vitq.option_errors import option_problems
from vitq.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from vitq.probes.ledger import Ledger
    from vitq.probes.subject import Subject

PROBES: Registry[type[Probe]] = Registry("probe")
_MODULES = ("distributions", "hessian", "landscape", "sensitivity")


@dataclass(frozen=True, config=RULES)
class Probe(ABC):
    """Base of all probes: a frozen config that measures and draws. Subclasses are registered by name.

    A probe leaves the model as it found it. version: raised when the same options mean other numbers.
    """

    version: ClassVar[int] = 1

    def check(self, config: RunConfig) -> list[str]:
        """Problems of this probe's options with the rest of the config, found before anything starts."""
        return []

    def applies(self, config: RunConfig) -> str | None:
        """None, or why there is nothing to look at in such a run (full precision has no quantizers)."""
        return None

    @abstractmethod
    def passes(self, config: RunConfig) -> float:
        """What it costs, in forward passes of the probe images."""

    @abstractmethod
    def measure(self, subject: Subject, ledger: Ledger) -> dict[str, np.ndarray]:
        """The arrays to store. What took long goes through the ledger, piece by piece, so that it can be resumed."""

    @abstractmethod
    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        """The picture of what `measure` returned."""


def load() -> None:
    """Register all probes."""
    for name in _MODULES:
        importlib.import_module(f"vitq.probes.{name}")


def parse_probe(name: str, options: dict[str, Any]) -> tuple[Probe | None, list[str]]:
    """An entry of `probe.options` → (probe, []) or (None, problems)."""
    load()
    place = f"probe.options.{name}"
    if name not in PROBES:
        return None, [f"probe: {unknown('probe', name, PROBES)}"]
    try:
        return TypeAdapter(PROBES[name]).validate_python(options), []
    except ValidationError as error:
        return None, option_problems(error, place, PROBES[name])
