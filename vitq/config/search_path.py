"""Where the config groups and the sweeps lie: the user's folders, plug-ins, then vitq, installed or in a checkout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import vitq
from vitq.errors import ConfigError, Problem, unknown
from vitq.plugins import plugins


def shipped(folder: str) -> Path:
    """`conf` or `sweeps` as vitq ships it. Raises ConfigError when the installation lacks it."""
    package = Path(vitq.__file__).resolve().parent
    for path in (package / folder, package.parent / folder):
        if path.is_dir():
            return path
    raise ConfigError([f"vitq at {package} has no {folder}/ folder; reinstall vitq, or install it from its checkout"])


def installed(folder: str) -> tuple[Path, ...]:
    """The folders `conf` or `sweeps` of all plug-ins, then vitq's own.

    Raises ConfigError for a file that two of them have: what its name meant would depend on what else is installed.
    """
    folders = (*(path for plugin in plugins() for path in plugin.folders(folder)), shipped(folder))
    owner: dict[Path, Path] = {}
    problems = []
    for path in folders if len(folders) > 1 else ():
        for file in sorted(path.rglob("*.yaml")):
            name = file.relative_to(path)
            first = owner.setdefault(name, path)
            if first != path:
                text = f"{name} lies in {first} and in {path}; rename that of the plug-in, or uninstall it"
                problems.append(Problem(text, str(name), (str(first), str(path))))
    if problems:
        raise ConfigError(problems)
    return folders


@dataclass(frozen=True)
class ConfigPath:
    """Folders in which config groups are looked up, the first hit wins."""

    folders: tuple[Path, ...]

    @staticmethod
    def of(config_dir: str | os.PathLike[str] | None = None) -> ConfigPath:
        """A folder of the user's before those that plug-ins and vitq ship. Raises ConfigError where it is none."""
        own = (Path(config_dir).resolve(),) if config_dir else ()
        if own and not own[0].is_dir():
            text = f"config folder {str(config_dir)!r} does not exist; --config-dir names an existing folder"
            raise ConfigError([Problem(text, "--config-dir", str(config_dir))])
        return ConfigPath((*own, *installed("conf")))

    def is_group(self, name: str) -> bool:
        """True for `model`, `bits`, … and for folders that the user's own config dirs add."""
        return any((folder / name).is_dir() for folder in self.folders)

    def files(self, group: str) -> dict[str, Path]:
        """Option name → YAML file of a group, sorted by name."""
        files: dict[str, Path] = {}
        for folder in reversed(self.folders):
            files.update({path.stem: path for path in (folder / group).glob("*.yaml")})
        return dict(sorted(files.items()))

    def get_group_options(self, group: str, results_filter: object = None) -> list[str]:
        """Names of a group's options; the method's name is Hydra's, whose `glob(*)` sweeps call it."""
        return list(self.files(group))


def sweep_file(name: str) -> Path:
    """File of a sweep: a path, or a name of `sweep_files`. Raises ConfigError when unknown."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name).expanduser()
        if path.is_file():
            return path.resolve()
        valid = sweep_files()
        text = f"sweep file {name!r} does not exist; give the path of a YAML file, or one of: {', '.join(valid)}"
        raise ConfigError([Problem(text, "sweep", name, valid)])
    files = sweep_files()
    if name not in files:
        raise ConfigError([unknown("sweep", name, files, "Or give the path of a YAML file.", key="sweep")])
    return files[name]


def sweep_files() -> dict[str, Path]:
    """Name → file of every sweep under `./sweeps` and of those that plug-ins and vitq ship; the former win."""
    folders = (*installed("sweeps"), Path("sweeps"))
    files = {path.stem: path.resolve() for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(files.items()))


def headline(path: Path) -> str:
    """First line of a YAML file's leading comment; '' when it has none."""
    with path.open(encoding="utf-8") as lines:
        first = next(lines, "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""
