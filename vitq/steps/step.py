"""What a step is, and what it works on."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from torch import Tensor

from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.config.problems import option_problems
from vitq.errors import unknown
from vitq.models.structure import Segment, Structure
from vitq.progress import Progress
from vitq.quant.model import QuantizedModel
from vitq.quant.site import Site
from vitq.quant.site_table import blank, shapes_of, site_table
from vitq.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from vitq.data import ImageSet
    from vitq.steps.checkpoint import Checkpoint


class ActivationCache(Protocol):
    """Keeps full-precision activations for later steps and runs of the process, as far as memory allows."""

    def tensor(self, group: Hashable, key: Hashable) -> Tensor | None:
        """A tensor of `put`, to be read only; None where it is not kept."""

    def put(self, group: Hashable, key: Hashable, value: Tensor) -> None:
        """Keep a tensor that nobody changes any more, where there is room."""


STEPS: Registry[type[Step]] = Registry("step", "vitq.steps", "vitq.methods")


@dataclass
class Workspace:
    """What the steps of one run share.

    model: what they change. calib, config: what they only read. teacher: a copy of the model as it was before the first
    step. checkpoint: where finished segments are kept for a later attempt. step: name of the step that runs now.
    curves: reconstruction losses of every segment, one tensor (iterations,) for each stage. artifacts: tables
    that a step leaves for later reports; the job stores each under its name beside the result. memory: where the
    full-precision network's activations are kept for later steps and runs. coordinates: what turned the channels of the
    teacher's activations since it was loaded (step `rotate`).
    """

    model: QuantizedModel
    calib: ImageSet
    config: RunConfig
    device: torch.device
    progress: Progress
    teacher: Structure | None = None
    checkpoint: Checkpoint | None = None
    step: str = ""
    curves: dict[str, list[Tensor]] = field(default_factory=dict)
    artifacts: dict[str, pd.DataFrame] = field(default_factory=dict)
    memory: ActivationCache | None = None
    coordinates: tuple[Hashable, ...] = ()

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

    def check_network(self, network: Network) -> list[str]:
        """Problems of this step with the run's network, found before anything starts."""
        return []


class Network:
    """A config's quantized network without its weights, on torch's `meta` device: names and shapes, no numbers.

    build: makes the network, all sites off; called when something of it is asked for first. Raises what that raises.
    """

    def __init__(self, config: RunConfig, build: Callable[[], QuantizedModel]):
        self.config = config
        self._build = build

    @cached_property
    def model(self) -> QuantizedModel:
        """All sites off. Raises ModelError: unsupported network. ConfigError: a recipe that does not fit it."""
        return self._build()

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Of every site's tensor for one image, by name."""
        return shapes_of(self.model, blank(self.config, torch.device("meta")))

    def fitted(self, before: Step) -> list[Site]:
        """Quantized sites whose quantizers the enabled steps before this one fit."""
        kinds = {kind for step in enabled_steps(self.config, before) for kind in step.fits()}
        return [site for site in self.model.quantized() if site.kind in kinds]

    def sites(self) -> pd.DataFrame:
        """The sites that the config would have (vitq.quant.site_table.COLUMNS); `mse` and `sqnr_db` are null."""
        return site_table(self.model, [blank(self.config, torch.device("meta"))], planned=True)


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


def steps_before(config: RunConfig, last: Step | None = None) -> list[dict[str, Any]]:
    """The options of `enabled_steps`."""
    return [json.loads(json.dumps(asdict(step))) for step in enabled_steps(config, last)]


def enabled_steps(config: RunConfig, last: Step | None = None) -> list[Step]:
    """The enabled steps of a recipe in order, those before `last` where given. A switched-off step leaves no trace."""
    found = []
    for name, raw in config.method.steps.items():
        step, _ = parse_step(name, raw)
        if step is None or not step.enabled:
            continue
        if step == last:
            break
        found.append(step)
    return found


def select(sites: list[Site], which: str, kinds: tuple[str, ...] = ()) -> list[Site]:
    """Sites of a step: those whose kind it `covers`."""
    return [site for site in sites if covers(site.kind, which, kinds)]


def covers(kind: str, which: str, kinds: tuple[str, ...] = ()) -> bool:
    """Whether a step that works on `weights`, `activations` or `all`, narrowed to `kinds` where given, works on one."""
    return (which == "all" or (kind == "weight") == (which == "weights")) and (not kinds or kind in kinds)
