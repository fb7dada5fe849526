"""What a probe is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from pydantic.dataclasses import dataclass

from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.config.options import registered
from vitq.config.problems import parse_options
from vitq.errors import Problem, under, unknown
from vitq.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from vitq.probes.budget import PartialResults
    from vitq.probes.probed_model import Subject

PROBES: Registry[type[Probe]] = Registry("probe", "vitq.probes")


@dataclass(frozen=True, config=RULES)
class Probe(ABC):
    """Base of all probes: a frozen config that measures and draws. Subclasses are registered by name.

    A probe leaves the model as it was. version: raised when the same options mean other numbers.
    """

    version: ClassVar[int] = 1
    # Whether it looks at detectors too, whose images have no label.
    detectors: ClassVar[bool] = False

    def check(self, config: RunConfig) -> Sequence[str]:
        """Problems of this probe's options with the other sections of the config, reported before anything starts.

        Texts, or `Problem`s with a key below the probe's options: `bad("images", 0, "at least 1 is needed")`.
        """
        return []

    def applies(self, config: RunConfig) -> str | None:
        """None, or why there is nothing to look at in such a run (full precision has no quantizers)."""
        return None

    @abstractmethod
    def passes(self, config: RunConfig) -> float:
        """What it costs, in forward passes of the probe images."""

    @abstractmethod
    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        """The arrays to store. partial: what took long goes into it piece by piece, so that it can be resumed."""

    @abstractmethod
    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        """The picture of what `measure` returned."""


ProbeT = TypeVar("ProbeT", bound=Probe)


@dataclass_transform(frozen_default=True)
def register_probe(name: str) -> Callable[[type[ProbeT]], type[ProbeT]]:
    """Decorator: the class becomes a frozen, validated dataclass, the probe of this name; its fields are the options.

    Raises ValueError when the name is taken.
    """
    return registered(PROBES, name)


def parse_probe(name: str, options: dict[str, Any]) -> tuple[Probe | None, list[Problem]]:
    """An entry of `probe.options` → (probe, []) or (None, problems)."""
    if name not in PROBES:
        return None, [under("probe", unknown("probe", name, PROBES))]
    return parse_options(PROBES[name], options, f"probe.options.{name}")


def problems(config: RunConfig) -> list[Problem]:
    """Problems of a config's `probe`, one line each."""
    lines: list[Problem] = []
    for name, options in config.probe.wanted.items():
        probe, wrong = parse_probe(name, options)
        lines += wrong
        if probe is not None and config.task == "features":
            text = f"probe={name}: probes look at labels or detections, task=features has neither; probe=none"
            lines.append(Problem(text, "probe", name, []))
        elif probe is not None and config.task != "classification" and not probe.detectors:
            valid = [other for other in PROBES if PROBES[other].detectors]
            text = (
                f"probe={name}: it looks at the loss of class labels, which images of task={config.task} do not have; "
                f"probes of detectors: {', '.join(valid)}"
            )
            lines.append(Problem(text, "probe", name, valid))
        elif probe is not None:
            lines += [under(f"probe.options.{name}", problem) for problem in probe.check(config)]
    return lines
