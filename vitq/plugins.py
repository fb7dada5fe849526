"""Packages of others that add to vitq: plug-ins.

Each names a module under the entry-point group `vitq.plugins`, whose import registers quantizers, steps, probes and
model families. The folders `conf` and `sweeps` in its top-level package are searched for configs and sweeps.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from vitq.errors import VitqError, brief

GROUP = "vitq.plugins"


@dataclass(frozen=True)
class Plugin:
    """One entry point. name: its own. module: what registers on import. distribution, version: as pip knows them."""

    name: str
    module: str
    distribution: str
    version: str

    def load(self) -> None:
        """Import the module. Raises VitqError where that fails: a run that goes on without it would be another one."""
        try:
            importlib.import_module(self.module)
        except Exception as error:
            raise self._broken(f"cannot be loaded: {brief(error)}") from error

    def folders(self, name: str) -> list[Path]:
        """The folder of this name in the top-level package, where it has one. Nothing of the package is imported.

        Raises VitqError for a package that is not there.
        """
        package = self.module.partition(".")[0]
        spec = find_spec(package)
        if spec is None:
            raise self._broken(f"cannot be found: there is no package {package!r}")
        folders = [Path(location) / name for location in spec.submodule_search_locations or ()]
        return [folder for folder in folders if folder.is_dir()]

    def _broken(self, why: str) -> VitqError:
        action = f"mend it, or pip uninstall {self.distribution}"
        text = f"plug-in {self.name!r} ({self.module}) of {self.distribution} {why}; {action}"
        return VitqError(text, GROUP, self.name)


@cache
def plugins() -> tuple[Plugin, ...]:
    """All that are installed here, by distribution and name."""
    installed = []
    for point in metadata.entry_points(group=GROUP):
        owner = ("an unknown package", "unknown") if point.dist is None else (point.dist.name, point.dist.version)
        installed.append(Plugin(point.name, point.module, *owner))
    return tuple(sorted(installed, key=lambda plugin: (plugin.distribution, plugin.name)))


@cache
def load_plugins() -> None:
    """Import all of them. Raises VitqError for one that cannot be imported."""
    for plugin in plugins():
        plugin.load()
