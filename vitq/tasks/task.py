"""What a task is: how a network's outputs are kept, scored and recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from vitq.config import RunConfig
from vitq.data.location import SCENES
from vitq.errors import Problem
from vitq.progress import Progress
from vitq.registry import Registry
from vitq.store.metrics import Metrics

if TYPE_CHECKING:
    from vitq.data import Images

# What a network gives for all images of a set, as tensors by name: the form in which it is cached.
Outputs = Mapping[str, Tensor]


class Task(ABC):
    """One for each kind of network. Registered by its name in `task`; made once for a run."""

    # The figure that tables and tests compare by: its name in `Metrics`.
    primary: ClassVar[str]
    # Names of the networks that are of this task, where no others are.
    models: ClassVar[tuple[str, ...]] = ()

    def images(self, config: RunConfig, progress: Progress) -> Images:
        """The images that are scored."""
        from vitq import data

        return data.eval_set(config, progress)

    @abstractmethod
    def keep(self, given: Any, images: Images, start: int) -> Outputs:
        """What a network gave for images `start` and following, on the CPU."""

    @abstractmethod
    def join(self, parts: Sequence[Outputs], images: Images, stage: str) -> Outputs:
        """The parts of `keep`, in order, as one. Raises ValueError, naming the stage, where one is not finite."""

    @abstractmethod
    def metrics(self, quantized: Outputs, reference: Outputs, images: Images) -> Metrics:
        """Figures of a run. reference: outputs of the full-precision network."""

    @abstractmethod
    def predictions(self, outputs: Outputs, images: Images) -> dict[str, np.ndarray]:
        """What is kept of each image, from which runs are compared."""

    def divergences(self, quantized: Outputs, reference: Outputs) -> dict[str, np.ndarray]:
        """How far each image's answer is from the full-precision network's, kept beside `predictions`; {} where the
        task has no measure of one image alone."""
        return {}

    def samples(self, quantized: Outputs, reference: Outputs, images: Images) -> dict[str, np.ndarray]:
        """A few images with the answers of both networks, to be looked at; {} where there is nothing to see."""
        return {}

    @abstractmethod
    def differs(self, now: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> str | None:
        """How two `predictions` of the same images show that the models are not the same, in words; else None."""

    @abstractmethod
    def problems(self, config: RunConfig) -> list[Problem]:
        """Why a config is not of this task; [] where it is."""


def without_classes(config: RunConfig) -> list[Problem]:
    """Why a config's images have no class each, or its network gives none; [] where they have one."""
    if config.data.dataset in SCENES:
        text = f"data.dataset={config.data.dataset!r} holds objects, no classes; set task=segmentation or detection"
        return [Problem(text, "task", config.task, ["segmentation", "detection"])]
    finders = [name for name in TASKS if config.model.name in TASKS[name].models]
    if finders:
        valid = " or ".join(finders)
        text = (
            f"task={config.task}: model.name={config.model.name!r} finds objects; set task={valid}, and data of objects"
        )
        return [Problem(text, "task", config.task, finders)]
    return []


TASKS: Registry[type[Task]] = Registry("task", "vitq.tasks")


def task_of(config: RunConfig) -> Task:
    """The task of a run."""
    return TASKS[config.task]()
