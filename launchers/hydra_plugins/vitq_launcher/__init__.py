"""vitq's launchers for any Hydra application: `hydra/launcher=vitq_local` and `hydra/launcher=vitq_slurm`.

Hydra imports this module at the start of every application of its environment: no torch, no submitit, no wandb here.
`vitq run -m hydra/launcher=…` needs none of it; there the names stand for `launcher=local` and `launcher=slurm`.
"""

# No `from __future__ import annotations`: Hydra executes a plugin before it is in sys.modules, where dataclasses look.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class VitqLauncher(Launcher):
    """Each job in a process of its own; returns when all have ended.

    The jobs of a failed process do not stop the others. Where jobs failed, `return_value` of each of them raises one
    error that lists all: Hydra's own sweeper does so at the end of its batch.

    name: of the launcher in vitq. Hydra may execute this module more than once, so that equal classes differ.
    """

    name: ClassVar[str]

    def __init__(self, **options: Any):
        self.options = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }
        self.config: DictConfig | None = None
        self.task_function: TaskFunction | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Execute one job per list of overrides. Raises ConfigError when an option of the launcher is wrong."""
        from hydra_plugins.vitq_launcher import _launch

        return list(_launch.launch(self, job_overrides, initial_job_idx))


class VitqLocalLauncher(VitqLauncher):
    """A slot for each visible GPU, or several on CPU (`launchers/local.py`)."""

    name = "local"


class VitqSlurmLauncher(VitqLauncher):
    """An array of SLURM jobs through submitit (`launchers/slurm.py`)."""

    name = "slurm"


@dataclass
class LocalConf:
    """Options of `launchers/local.py` that make sense for any application."""

    _target_: str = "hydra_plugins.vitq_launcher.VitqLocalLauncher"
    slots: int | None = None
    threads: int | None = None


@dataclass
class SlurmConf:
    """Options of `launchers/slurm.py` that make sense for any application: its docstring says what they mean."""

    _target_: str = "hydra_plugins.vitq_launcher.VitqSlurmLauncher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    mem: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    time: int = 240
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    max_parallel: int | None = None
    poll: float = 2.0
    ask: float = 15.0


ConfigStore.instance().store(group="hydra/launcher", name="vitq_local", node=LocalConf, provider="vitq")
ConfigStore.instance().store(group="hydra/launcher", name="vitq_slurm", node=SlurmConf, provider="vitq")
