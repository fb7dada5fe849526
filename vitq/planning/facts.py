"""What a plan asks of disks and of the engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vitq.config import RunConfig
from vitq.errors import DataError, ModelError, Problem
from vitq.planning.engine import Engine
from vitq.planning.launcher import LAUNCHERS

if TYPE_CHECKING:
    from vitq.data import DataFacts

T = TypeVar("T")


class Facts:
    """Each question is put once per sweep."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._answers: dict[str, Any] = {}

    def complete(self, config: RunConfig) -> tuple[RunConfig, list[Problem]]:
        """The config with `model.weights` and `data.fingerprint` as far as they can be known, and what is wrong."""
        problems: list[Problem] = []
        try:
            model = self._once("model", config.model, lambda: self.engine.identify(config.model))
            config = dataclasses.replace(config, model=model)
        except ModelError as error:
            problems += error.problems
        asked = (config.task, config.model, config.data, config.calib, config.seed, config.method.quantizes)
        problems += self._once("fit", asked, lambda: self.engine.data_problems(config))
        try:
            facts = self._data(config)
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, fingerprint=facts.fingerprint))
        except DataError as error:
            problems += [problem for problem in error.problems if problem not in problems]
        return config, problems

    def scored_images(self, config: RunConfig) -> int:
        """How many images a run scores."""
        return self._data(config).eval_images

    def newest_image(self, config: RunConfig) -> float:
        """When an image changed last that names and sizes alone stand for, seconds since 1970; 0: no such images."""
        return self._data(config).newest

    def check(self, config: RunConfig) -> list[Problem]:
        """Problems that only the engine sees (method, steps, quantizers, the network's shapes); imports torch."""
        parts = (config.model, config.method, config.bits, config.calib, config.data, config.device, config.probe)
        asked = (config.task, *parts)
        recipe: list[Problem] = self._once("recipe", asked, lambda: self.engine.recipe_problems(config))
        network_key = (config.task, config.model, config.data.num_classes)
        network: list[Problem] = self._once("network", network_key, lambda: self.engine.network_problems(config))
        return [*recipe, *network] or self._once("misfits", asked, lambda: self.engine.misfits(config))

    def device_problems(self, config: RunConfig) -> list[Problem]:
        """Why the device is not there where the launcher computes, as far as this machine can know; else []."""
        name, launcher = config.device, config.launcher.name
        if name in ("auto", "cpu") or launcher not in LAUNCHERS or not LAUNCHERS[launcher].is_here:
            return []
        wrong: list[Problem] = self._once("device", name, lambda: self.engine.device_problems(name))
        if not wrong and LAUNCHERS[launcher].sees_one_gpu and name not in ("cuda", "cuda:0"):
            why = f"each process of launcher={launcher} sees one GPU, as cuda; valid: auto, cpu, cuda"
            return [Problem(f"device={name!r}: {why}", "device", name, ["auto", "cpu", "cuda"])]
        return wrong

    def warnings(self, config: RunConfig) -> tuple[str, ...]:
        """What is done to images and weights that a config does not ask for, and what a recipe leaves undone."""
        asked = (config.model, config.data, config.calib, config.seed, config.method.quantizes)
        done: list[str] = self._once("warnings", asked, lambda: self.engine.warnings(config))
        recipe = (config.model, config.data.num_classes, config.method, config.bits.kinds)
        return *done, *self._once("idle", recipe, lambda: self.engine.idle_steps(config))

    def room(self, config: RunConfig) -> tuple[int, str] | None:
        """Bytes for which a run needs room between two segments, and where: disk, host or device; None: not asked."""
        asked = (config.task, config.model, config.data.num_classes, config.calib, config.method, config.bits)
        needed: int | None = self._once("room", asked, lambda: self.engine.room(config))
        return None if needed is None else (needed, config.calib.cache)

    def _data(self, config: RunConfig) -> DataFacts:
        """Facts of the data, whether or not they have been filled in."""
        asked = dataclasses.replace(config.data, fingerprint=None)
        return self._once("data", asked, lambda: self.engine.describe(config))

    def _once(self, what: str, asked: Any, answer: Callable[[], T]) -> T:
        """The answer to a question already put, or the same error again."""
        key = what + json.dumps(asked, default=dataclasses.asdict, sort_keys=True)
        if key not in self._answers:
            try:
                self._answers[key] = answer()
            except (ModelError, DataError) as error:
                self._answers[key] = error
        known = self._answers[key]
        if isinstance(known, Exception):
            raise known
        return known  # type: ignore[no-any-return]
