"""What planning and launching ask of the engine. Importing this module imports neither torch nor images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitq.config import ModelConfig, RunConfig
from vitq.errors import ConfigError, Problem

if TYPE_CHECKING:
    from vitq.data import DataFacts
    from vitq.progress import Progress
    from vitq.store import RunDir
    from vitq.store.result import Result
    from vitq.track import Tracker


class Engine:
    """The engine of this package. Tests put one of their own in its place (`ENGINE`)."""

    def identify(self, model: ModelConfig) -> ModelConfig:
        """The config with `weights`, what stands for the weights in a run's identity. Raises ModelError."""
        from vitq.models.load import identify

        return identify(model)

    def describe(self, config: RunConfig) -> DataFacts:
        """Counts, classes and fingerprint of a run's images. Raises DataError."""
        from vitq.data import describe

        return describe(config)

    def data_problems(self, config: RunConfig) -> list[Problem]:
        """Where config and images do not fit each other, one line each."""
        from vitq.data import problems

        return problems(config)

    def recipe_problems(self, config: RunConfig) -> list[Problem]:
        """What is wrong with method, bits and probes, one line each."""
        from vitq.registry import discover

        discover("vitq.quant")  # the first import of torch: its errors become VitqErrors here
        from vitq.engine.recipe_checks import problems
        from vitq.probes.probe import problems as probe_problems

        return [*problems(config), *probe_problems(config)]

    def network_problems(self, config: RunConfig) -> list[Problem]:
        """Why the network cannot be built, filled with its weights or given its images; else []."""
        from vitq.engine.network_checks import network_problems

        return network_problems(config)

    def misfits(self, config: RunConfig) -> list[Problem]:
        """Where bits and recipe do not fit a network that has no `network_problems`."""
        from vitq.engine.network_checks import misfits

        return misfits(config)

    def warnings(self, config: RunConfig) -> list[str]:
        """What is done to images and weights that a config without problems does not ask for, one line each."""
        from vitq.data import warnings
        from vitq.engine.network_checks import weight_warnings

        return [*warnings(config), *weight_warnings(config)]

    def device_problems(self, name: str) -> list[Problem]:
        """Why this process has no such device; else []."""
        from vitq.device import resolve

        try:
            resolve(name)
        except ConfigError as error:
            return error.problems
        return []

    def idle_steps(self, config: RunConfig) -> list[str]:
        """Steps that do nothing in the config's network, one line each; `config` has no problems."""
        from vitq.engine.network_checks import idle_steps

        return idle_steps(config)

    def room(self, config: RunConfig) -> int | None:
        """Bytes for which a detector's run needs room between two segments; None for other runs. No problems."""
        if config.task == "classification" or not config.method.quantizes:
            return None
        from vitq.engine.stream_size import stream_bytes

        return stream_bytes(config)

    def iterates(self, config: RunConfig) -> bool:
        """Whether an enabled step of the recipe reads `method.iterations`."""
        try:
            return bool(self.learning(config))
        except ConfigError:
            return True  # nothing is taken away from a recipe whose problems are about to be listed

    def learning(self, config: RunConfig) -> list[str]:
        """Names of the enabled steps that read `method.iterations`. Raises ConfigError for one that is wrong."""
        if not config.method.steps:
            return []
        from vitq.steps.step import enabled_steps

        return [step.name for step in enabled_steps(config) if step.iterates]

    def execute(self, run_dir: RunDir, progress: Progress, tracker: Tracker, group: str | None = None) -> Result:
        """One planned run, from its stored config to its result. Raises whatever stopped it."""
        from vitq.job.execute import execute

        return execute(run_dir, progress, tracker, group)


ENGINE = Engine()


def engine() -> Engine:
    """The engine in use."""
    return ENGINE
