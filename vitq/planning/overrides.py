"""What Hydra users type to choose a launcher, as in `hydra/launcher=vitq_local`, turned into vitq's words."""

from __future__ import annotations

from collections.abc import Sequence

from vitq.errors import ConfigError, unknown

# Names in Hydra's launcher group → vitq's launchers. `basic` is Hydra's own: this process.
LAUNCHERS = {"vitq_local": "local", "vitq_slurm": "slurm", "basic": "inline"}


def launcher_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides with Hydra's launcher group turned into `launcher=` and `launcher.options.`.

    Raises ConfigError for a launcher that would be ignored: vitq launches its runs itself.
    """
    found = []
    for override in overrides:
        key, equals, value = override.partition("=")
        plain = key.lstrip("+")
        if plain == "hydra/launcher":
            if value not in LAUNCHERS:
                action = "vitq launches its runs itself."
                raise ConfigError([unknown("hydra/launcher", value, LAUNCHERS, action, key="hydra/launcher")])
            found.append(f"launcher={LAUNCHERS[value]}")
        elif plain.startswith("hydra.launcher."):
            found.append(f"++launcher.options.{plain.removeprefix('hydra.launcher.')}{equals}{value}")
        else:
            found.append(override)
    return found
