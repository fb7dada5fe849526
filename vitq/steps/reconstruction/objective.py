"""Losses that know the network behind a segment: prepared once for each segment, some of them anew while it learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.config.options import registered
from vitq.config.problems import parse_options
from vitq.errors import Problem
from vitq.registry import Registry
from vitq.steps.reconstruction.loss import divergence
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Network, Workspace
from vitq.steps.waiting import Waiting

# Least first value that a term is divided by (GLF-Q's).
_LEAST = 1e-12


class Measure(ABC):
    """How far the outputs of one segment are from their targets: Σ wₖ·Lₖ/Lₖ⁰, Lₖ⁰ of the first batch.

    So a weight of the rounding regularizer means the same whatever the network's units are. weights: wₖ. relative:
    False where terms are not divided. first: (terms,) Lₖ⁰; None where the next batch gives it.
    """

    weights: tuple[float, ...] = (1.0,)
    relative: ClassVar[bool] = True

    def __init__(self) -> None:
        self.first: Tensor | None = None

    def due(self, number: int, iterations: int) -> bool:
        """Whether `refresh` is called before iteration `number` (from 0) of so many."""
        return False

    def refresh(self) -> None:  # noqa: B027 - most measures stay as they began
        """Measure anew what the loss is made of, on the segment as it is at present, everything quantized."""

    @abstractmethod
    def terms(self, output: Any, target: Any, chosen: Tensor) -> Tensor:
        """(terms,) Lₖ, means over images: of outputs and targets (B, …), float32, of the images at positions (B,).

        Of a detector: of one image, the segment's values (`onto` and `pairs` in object_curvature.py).
        """

    def loss(self, terms: Tensor) -> Tensor:
        """Scalar Σ wₖ·Lₖ/Lₖ⁰."""
        if self.first is not None:
            terms = terms / self.first.clamp(min=_LEAST)
        return torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()


class Divergence(Measure):
    """KL(softmax(target) ‖ softmax(output)) of logits, nats: what the head learns in public code since AdaLog."""

    relative: ClassVar[bool] = False

    def terms(self, output: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        return divergence(target, output).unsqueeze(0)


@dataclass(frozen=True, config=RULES)
class Objective(ABC):
    """A loss by name, with its options as fields (`loss_options` of the step)."""

    def begin(self, work: Workspace, task: SegmentTask) -> Measure:
        """The measure of one segment, whose sites are on. The last segment, the head, has KL of its logits."""
        # The gradients that are taken through the full-precision network reach no parameter of it.
        work.teacher.model.requires_grad_(False)
        if work.teacher.comparison is not None:
            return self.of_objects(work, task)
        if task.index == len(work.teacher.segments) - 1:
            return Divergence()
        return self.of(work, task)

    @abstractmethod
    def of(self, work: Workspace, task: SegmentTask) -> Measure:
        """The measure of a segment before the head."""

    @abstractmethod
    def of_objects(self, work: Workspace, task: SegmentTask) -> Measure:
        """The same in a detector, whose images have their own sizes."""

    def waiting(self, waiting: Waiting, index: int) -> int:
        """Bytes of one image of a detector that wait while segment `index` learns, beside its inputs and targets."""
        return 0

    def check(self, config: RunConfig) -> list[Problem]:
        """Problems of its options with the config, keys below the step's."""
        return []


OBJECTIVES: Registry[type[Objective]] = Registry("loss", "vitq.steps.reconstruction", "vitq.methods")
ObjectiveT = TypeVar("ObjectiveT", bound=Objective)


@dataclass_transform(frozen_default=True)
def register_objective(name: str) -> Callable[[type[ObjectiveT]], type[ObjectiveT]]:
    """Decorator: the class becomes a frozen, validated dataclass, a loss of `reconstruct` of that name.

    Raises ValueError when the name is taken.
    """
    return registered(OBJECTIVES, name)


def objective_of(loss: str, options: dict[str, Any]) -> tuple[Objective | None, list[Problem]]:
    """The loss of that name with its options → (objective, []), or (None, problems). None too for a plain loss."""
    if loss not in OBJECTIVES:
        if not options:
            return None, []
        text = f"loss={loss} has no options; leave loss_options out, or take one of {', '.join(OBJECTIVES)}"
        return None, [Problem(text, "loss_options", options, list(OBJECTIVES))]
    return parse_options(OBJECTIVES[loss], options, "loss_options")


def kept_by(loss: str, options: dict[str, Any], network: Network, waiting: Waiting) -> dict[int, int]:
    """Bytes of one image that the loss keeps while segment i learns, beside its inputs and targets; a segment without
    quantized sites does not."""
    objective, _ = objective_of(loss, options)
    if objective is None:
        return {}
    owners = [site.owner for site in network.model.quantized()]
    return {
        index: objective.waiting(waiting, index)
        for index, segment in enumerate(network.model.structure.segments)
        if segment.learned and any(map(segment.holds, owners))
    }
