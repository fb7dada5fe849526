"""What Hydra users type to choose a launcher, as in `hydra/launcher=vitq_local`, turned into vitq's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitq.errors import ConfigError, unknown

# Names in Hydra's launcher group → vitq's launchers. `basic` is Hydra's own: this process.
LAUNCHERS = {"vitq_local": "local", "vitq_slurm": "slurm", "basic": "inline"}

# Settings of Hydra's own that count. Where results lie, how jobs log and what hooks they call is vitq's.
_HEEDED = ("hydra.launcher.", "hydra.mode", "hydra.searchpath", "hydra.sweeper.params")
_INSTEAD = "results go to runs_dir=DIR, each run has a log.txt there, and launcher=… says how runs are started"


def unheeded(settings: Mapping[str, Any]) -> list[str]:
    """A line for each setting of a file's `hydra:` section that has no effect."""
    keys = [f"hydra.{key}" for key in settings if key != "sweeper"]
    sweeper = settings.get("sweeper")
    keys += [f"hydra.sweeper.{key}" for key in sweeper if key != "_target_"] if isinstance(sweeper, Mapping) else []
    return [f"{key}: vitq does not heed it; {_INSTEAD}" for key in keys if not f"{key}.".startswith(_HEEDED)]


def launcher_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides with Hydra's launcher group turned into `launcher=` and `launcher.options.`.

    Raises ConfigError for a launcher and for settings that would be ignored: vitq launches its runs itself.
    """
    found = []
    for override in overrides:
        key, equals, value = override.partition("=")
        plain = key.lstrip("+")
        if plain == "hydra/launcher":
            if value not in LAUNCHERS:
                raise ConfigError([unknown("hydra/launcher", value, LAUNCHERS, "vitq launches its runs itself.")])
            found.append(f"launcher={LAUNCHERS[value]}")
        elif plain.lstrip("~").startswith(("hydra.", "hydra/")) and not plain.startswith(_HEEDED):
            raise ConfigError([f"{override}: vitq does not heed it; {_INSTEAD}"])
        elif plain.startswith("hydra.launcher."):
            found.append(f"++launcher.options.{plain.removeprefix('hydra.launcher.')}{equals}{value}")
        else:
            found.append(override)
    return found
