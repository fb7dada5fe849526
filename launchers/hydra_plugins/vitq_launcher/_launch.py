"""What both launchers do around their jobs: check the options, set up logs, gather the errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, filter_overrides
from hydra_plugins.vitq_launcher import VitqLauncher
from hydra_plugins.vitq_launcher._errors import with_errors

from vitq.errors import ConfigError, Problem
from vitq.launchers import LAUNCHERS

log = logging.getLogger(__name__)


def launch(launcher: VitqLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """See VitqLauncher.launch."""
    assert launcher.config is not None
    problems = LAUNCHERS[launcher.name].check(launcher.options)
    if problems:
        ours, hydras = "launcher.options.", "hydra.launcher."
        raise ConfigError(
            [Problem(p.replace(ours, hydras, 1), p.key.replace(ours, hydras, 1), p.value, p.valid) for p in problems]
        )
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    log.info(f"Launching {len(job_overrides)} jobs ({launcher.name})")
    for number, overrides in enumerate(job_overrides, first):
        log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
    if launcher.name == "slurm":
        from hydra_plugins.vitq_launcher._array import launch as execute
    else:
        from hydra_plugins.vitq_launcher._slots import launch as execute
    return list(with_errors(execute(launcher, job_overrides, first), first))
