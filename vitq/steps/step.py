"""What a step is, and what it works on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from torch import Tensor

from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.errors import unknown
from vitq.models.anatomy import Anatomy, Segment
from vitq.option_errors import option_problems
from vitq.progress import Progress
from vitq.quant.model import QuantizedModel
from vitq.quant.site import Site
from vitq.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from vitq.blueprint import Blueprint
    from vitq.data import ImageSet
    from vitq.shelf import Shelf
    from vitq.steps.checkpoint import Checkpoint

STEPS: Registry[type[Step]] = Registry("step")


@dataclass
class Workspace:
    """What the steps of one run share.

    model: what they change. calib, config: what they only read. teacher: a copy of the model as it was before the first
    step. checkpoint: where finished segments are kept for a later attempt. step: name of the step that runs now.
    curves: reconstruction losses of every segment, one tensor (iterations,) for each stage. artifacts: tables
    that a step leaves for later reports; the job stores each under its name beside the result. shelf: where the
    full-precision network's activations are kept for later steps and runs.
    """

    model: QuantizedModel
    calib: ImageSet
    config: RunConfig
    device: torch.device
    progress: Progress
    teacher: Anatomy | None = None
    checkpoint: Checkpoint | None = None
    step: str = ""
    curves: dict[str, list[Tensor]] = field(default_factory=dict)
    artifacts: dict[str, pd.DataFrame] = field(default_factory=dict)
    shelf: Shelf | None = None

    def teacher_segments(self) -> list[Segment]:
        """The chain of the untouched full-precision model, kept where a step of the recipe needs it."""
        if self.teacher is None:
            raise RuntimeError("the recipe's steps declare no need of the full-precision model; set needs_teacher")
        return self.teacher.segments

    @torch.no_grad()
    def teach(self, batch: Tensor) -> Tensor:
        """Logits (B, classes) of the full-precision model for normalized images (B, 3, H, W)."""
        for segment in self.teacher_segments():
            batch = segment.forward(batch)
        return batch

    def batches(self, images: int | None = None) -> Iterator[Tensor]:
        """Normalized calibration images (B, 3, H, W) on the device: all of them, or the first `images`."""
        left = len(self.calib) if images is None else images
        for batch, _ in self.calib.batches(self.config.calib.batch_size, self.device):
            yield batch[:left]
            left -= len(batch)
            if left <= 0:
                return


@validated(frozen=True, config=RULES)
class Step(ABC):
    """Base of all steps: a frozen config with a `run`. Subclasses are registered by the name that `do` gives.

    enabled: an ablation switches a step off without removing it from the recipe.
    """

    do: str
    enabled: bool = True
    # Steps that change the model's full-precision weights must come before weights are calibrated.
    changes_weights: ClassVar[bool] = False
    # Steps that compare with the untouched full-precision model.
    needs_teacher: ClassVar[bool] = False
    # Steps after which the network no longer runs segment by segment.
    last: ClassVar[bool] = False
    # Steps whose result a packed checkpoint (vitq/deploy/packed.py) can hold.
    packable: ClassVar[bool] = True

    @abstractmethod
    def run(self, work: Workspace) -> None:
        """Change `work.model`."""

    @property
    def iterates(self) -> bool:
        """Whether it heeds `method.iterations`: one with an option of that name does unless it says otherwise."""
        return hasattr(self, "iterations")

    def fits(self) -> Collection[str]:
        """Kinds of sites whose quantizers this step fits."""
        return ()

    def check(self, config: RunConfig) -> list[str]:
        """Problems of this step's options with the rest of the config, found before anything starts."""
        return []

    def check_network(self, blueprint: Blueprint) -> list[str]:
        """Problems of this step with the run's network, found before anything starts."""
        return []


def parse_step(name: str, raw: dict[str, Any], steps: Collection[str] = ()) -> tuple[Step | None, list[str]]:
    """A recipe's entry → (step, []) or (None, problems). steps: names of the recipe's steps, for the problems."""
    place = f"method.steps.{name}"
    do = raw.get("do")
    if do is None:
        others = [other for other in steps if other != name]
        if not others:
            return None, [f"{place}.do: missing; valid: {', '.join(STEPS)}"]
        # Most often an override of a step under a name that the recipe does not have.
        action = f"A new step says what it does, {place}.do=…: {', '.join(STEPS)}."
        return None, [f"{place}: {unknown('step of the recipe', name, others, action)}"]
    if do not in STEPS:
        return None, [f"{place}.do: {unknown('step', do, STEPS)}"]
    try:
        return TypeAdapter(STEPS[do]).validate_python(raw), []
    except ValidationError as error:
        return None, option_problems(error, place, STEPS[do])


def select(sites: list[Site], which: str, kinds: tuple[str, ...] = ()) -> list[Site]:
    """Sites of a step: those whose kind it `covers`."""
    return [site for site in sites if covers(site.kind, which, kinds)]


def covers(kind: str, which: str, kinds: tuple[str, ...] = ()) -> bool:
    """Whether a step that works on `weights`, `activations` or `all`, narrowed to `kinds` where given, works on one."""
    return (which == "all" or (kind == "weight") == (which == "weights")) and (not kinds or kind in kinds)
