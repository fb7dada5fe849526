"""Where the config groups and the sweeps lie: the user's folders, plug-ins, then vitq, installed or in a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import vitq
from vitq.errors import ConfigError, Problem, unknown
from vitq.plugins import plugins


def shipped(folder: str) -> Path:
    """`conf` or `sweeps` as vitq ships it. Raises ConfigError when the installation lacks it."""
    package = Path(vitq.__file__).resolve().parent
    for place in (package / folder, package.parent / folder):
        if place.is_dir():
            return place
    raise ConfigError([f"vitq at {package} has no {folder}/ folder; reinstall vitq, or install it from its checkout"])


def installed(folder: str) -> tuple[Path, ...]:
    """The folders `conf` or `sweeps` of all plug-ins, then vitq's own.

    Raises ConfigError for a file that two of them have: what its name meant would depend on what else is installed.
    """
    folders = (*(place for plugin in plugins() for place in plugin.folders(folder)), shipped(folder))
    owner: dict[Path, Path] = {}
    problems = []
    for place in folders if len(folders) > 1 else ():
        for file in sorted(place.rglob("*.yaml")):
            name = file.relative_to(place)
            first = owner.setdefault(name, place)
            if first != place:
                text = f"{name} lies in {first} and in {place}; rename that of the plug-in, or uninstall it"
                problems.append(Problem(text, str(name), (str(first), str(place))))
    if problems:
        raise ConfigError(problems)
    return folders


@dataclass(frozen=True)
class ConfigPath:
    """Folders in which config groups are looked up, the first hit wins."""

    folders: tuple[Path, ...]

    @staticmethod
    def of(*extra: str | Path) -> ConfigPath:
        """`extra` folders before those that plug-ins and vitq ship. Raises ConfigError for one that does not exist."""
        missing = [str(e) for e in extra if not Path(e).is_dir()]
        if missing:
            action = "--config-dir names an existing folder"
            raise ConfigError(
                [Problem(f"config folder {m!r} does not exist; {action}", "--config-dir", m) for m in missing]
            )
        return ConfigPath((*(Path(e).resolve() for e in extra), *installed("conf")))

    def is_group(self, name: str) -> bool:
        """True for `model`, `bits`, … and for folders that the user's own config dirs add."""
        return any((folder / name).is_dir() for folder in self.folders)

    def files(self, group: str) -> dict[str, Path]:
        """Option name → YAML file of a group, sorted by name."""
        found: dict[str, Path] = {}
        for folder in reversed(self.folders):
            found.update({path.stem: path for path in (folder / group).glob("*.yaml")})
        return dict(sorted(found.items()))

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
    found = {path.stem: path.resolve() for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def headline(path: Path) -> str:
    """First line of a YAML file's leading comment; '' when it has none."""
    with path.open(encoding="utf-8") as lines:
        first = next(lines, "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""
