"""What a step is, and what it works on."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, dataclass_transform

import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.config.options import registered
from vitq.config.problems import parse_options
from vitq.data import Images
from vitq.errors import ConfigError, Problem, under, unknown
from vitq.models.structure import Structure
from vitq.progress import Progress
from vitq.quant.model import QuantizedModel
from vitq.quant.site import Site
from vitq.quant.site_table import blank, shapes_of, site_table
from vitq.registry import Registry
from vitq.steps.checkpoint import Checkpoint
from vitq.steps.waiting import Waiting


class ActivationCache(Protocol):
    """Keeps full-precision activations for later steps and runs of the process, as far as memory allows."""

    def tensor(self, group: Hashable, key: Hashable) -> Tensor | None:
        """A tensor of `put`, to be read only; None where it is not kept."""

    def put(self, group: Hashable, key: Hashable, value: Tensor) -> None:
        """Keep a tensor that nobody changes from now on, where there is room."""


# What torch's optimizers import when the first one is made.
OPTIMIZERS = ("torch._dynamo",)
# Options that are checked when a step is parsed.
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
STEPS: Registry[type[Step]] = Registry("step", "vitq.steps", "vitq.methods")


class Workspace:
    """What the steps of one run share.

    model: what they change. calib, config: what they only read. checkpoint: where finished segments are kept for a
    later attempt; None: nowhere. memory: where the full-precision network's activations are kept for later steps and
    runs; None: nowhere. curves: reconstruction losses of every segment, one tensor (iterations,) for each stage.
    artifacts: tables that a step leaves for later reports; the job stores each under its name beside the result.
    """

    def __init__(
        self,
        model: QuantizedModel,
        calib: Images,
        config: RunConfig,
        device: torch.device,
        progress: Progress,
        teacher: Structure | None = None,
        checkpoint: Checkpoint | None = None,
        memory: ActivationCache | None = None,
    ):
        """teacher: of a copy of the model as it was before the first step; None where no step needs it."""
        self.model, self.calib, self.config, self.device, self.progress = model, calib, config, device, progress
        self.checkpoint, self.memory, self._teacher = checkpoint, memory, teacher
        # What turned the channels of the teacher's activations since it was loaded (step `rotate`).
        self.coordinates: tuple[Hashable, ...] = ()
        # What was added to outputs of layers, (O,) float64 by name, and is made good behind them (step `centre`).
        self.moved: dict[str, Tensor] = {}
        # Derivatives of the full-precision network that a later step may want too (curvature.py).
        self.derivatives: dict[Hashable, Tensor] = {}
        self.curves: dict[str, list[Tensor]] = {}
        self.artifacts: dict[str, pd.DataFrame] = {}

    @property
    def has_teacher(self) -> bool:
        """Whether a step of the recipe needs the full-precision model, so that `teacher` is there."""
        return self._teacher is not None

    @property
    def teacher(self) -> Structure:
        """The untouched full-precision model. Raises RuntimeError where no step of the recipe declares the need."""
        if self._teacher is None:
            raise RuntimeError("no step of the recipe needs the full-precision model; declare it by needs_teacher")
        return self._teacher

    @torch.no_grad()
    def teach(self, batch: Tensor) -> Tensor:
        """Logits (B, classes) of the full-precision model for normalized images (B, 3, H, W)."""
        for segment in self.teacher.segments:
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


@dataclass(frozen=True, config=RULES)
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
    # Steps that give sites other bit-widths.
    allocates_bits: ClassVar[bool] = False
    # Steps that fit weights or scales to the bit-widths they have: at any other width their work would be lost.
    depends_on_bits: ClassVar[bool] = False
    # Steps that leave weights elsewhere than rounding to the nearest code does.
    tunes_weights: ClassVar[bool] = False
    # Steps that leave undone what a network has no place for: `left_out` says what.
    adapts: ClassVar[bool] = False
    # Steps whose result a packed checkpoint (vitq/deploy/packed/) can hold.
    packable: ClassVar[bool] = True
    # Steps that compare class probabilities, which a backbone without a head does not give.
    needs_classes: ClassVar[bool] = False
    # Steps that work on detectors too, whose segments give several tensors for each image, of its own size.
    detectors: ClassVar[bool] = False
    # Why it does not, for the plan.
    no_detectors: ClassVar[str] = "its images have one size"
    # Modules that its functions import when they are first called; a run imports them before its clock starts.
    imports: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, work: Workspace) -> None:
        """Change `work.model`."""

    def rebuild(self, structure: Structure) -> None:  # noqa: B027 - most steps change numbers alone
        """What it changes of the architecture, without the numbers; packed checkpoints hold numbers alone."""

    @property
    def name(self) -> str:
        """Its key in `method.steps`; that of `do` for a step that is part of no recipe."""
        return str(getattr(self, "_name", self.do))

    @property
    def adds_ranges(self) -> bool:
        """Whether it gives weights more ranges, and so more bytes, than the recipe's quantizers have."""
        return False

    @property
    def iterates(self) -> bool:
        """Whether it heeds `method.iterations`: one with an option of that name does unless it says otherwise."""
        return hasattr(self, "iterations")

    def fits(self) -> Collection[str]:
        """Kinds of sites whose quantizers this step fits."""
        return ()

    def check(self, config: RunConfig) -> Sequence[str]:
        """Problems of this step's options with the other sections of the config, reported before anything starts.

        Texts, or `Problem`s with a key below the step's: `bad("images", 0, "at least 1 is needed")`.
        """
        return []

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        """Problems of this step with the enabled steps of its recipe before and behind it, in order."""
        problems = []
        if self.last and behind:
            later = ", ".join(step.name for step in behind)
            problems.append(Problem(f"must be the last step; move {later} before it", value=later))
        fitting = [step.name for step in before if "weight" in step.fits()]
        if self.changes_weights and fitting:
            text = f"changes weights after {fitting[-1]!r} has fitted their quantizers; move {fitting[-1]!r} behind it"
            problems.append(Problem(text, value=fitting[-1]))
        return problems

    def check_network(self, network: Network) -> Sequence[str]:
        """Problems of this step with the run's network, reported before anything starts."""
        return []

    def waiting(self, network: Network, waiting: Waiting) -> int:
        """At most so many bytes of all calibration images wait between segments at once while it runs: inputs and
        outputs of one, and as much of the full-precision network where it compares. Those that keep more say it."""
        return waiting.images * waiting.advancing * (2 if self.needs_teacher else 1)

    def left_out(self, config: RunConfig, structure: Structure) -> list[str]:
        """What a step that `adapts` leaves undone in a network of this structure, and why: notes of the plan."""
        return []


StepT = TypeVar("StepT", bound=Step)


@dataclass_transform(frozen_default=True)
def register_step(name: str) -> Callable[[type[StepT]], type[StepT]]:
    """Decorator: the class becomes a frozen, validated dataclass, a step of the name that `do` gives in recipes.

    Its fields are the options of the step; each needs a default value. `ClassVar`s of `Step` say where in a recipe it
    can stand. Raises ValueError when the name is taken.
    """
    return registered(STEPS, name)


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


def parse_step(name: str, raw: dict[str, Any], steps: Collection[str] = ()) -> tuple[Step | None, list[Problem]]:
    """A recipe's entry → (step, []) or (None, problems). steps: names of the recipe's steps, for the problems."""
    key = f"method.steps.{name}"
    do = raw.get("do")
    if do is None:
        others = [other for other in steps if other != name]
        if not others:
            return None, [Problem(f"{key}.do: missing; valid: {', '.join(STEPS)}", f"{key}.do", valid=STEPS)]
        # Most often an override of a step under a name that the recipe does not have.
        action = f"A new step says what it does, {key}.do=…: {', '.join(STEPS)}."
        return None, [under(key, unknown("step of the recipe", name, others, action))]
    if do not in STEPS:
        return None, [under(f"{key}.do", unknown("step", do, STEPS))]
    step, problems = parse_options(STEPS[do], raw, key)
    if step is not None:
        # Not a field: a name is no option of the step, and no part of what its results depend on.
        object.__setattr__(step, "_name", name)
    return step, problems


def steps_before(config: RunConfig, last: Step | None = None) -> list[dict[str, Any]]:
    """The options of `enabled_steps`, as JSON has them. Names are left out: what steps do does not depend on them."""
    return [json.loads(json.dumps(asdict(step))) for step in enabled_steps(config, last)]


def enabled_steps(config: RunConfig, before: Step | None = None) -> list[Step]:
    """The enabled steps of a recipe in order, those before the step of this name where given.

    A switched-off step leaves no trace. Raises ConfigError for a recipe with a step that cannot be parsed.
    """
    steps: list[Step] = []
    for name, raw in config.method.steps.items():
        step, problems = parse_step(name, raw)
        if step is None:
            raise ConfigError(problems)
        if before is not None and name == before.name:
            break
        if step.enabled:
            steps.append(step)
    return steps


def covers(kind: str, which: str, kinds: tuple[str, ...] = ()) -> bool:
    """Whether a step that works on `weights`, `activations` or `all`, narrowed to `kinds` where given, works on one."""
    return (which == "all" or (kind == "weight") == (which == "weights")) and (not kinds or kind in kinds)
