"""Where the config groups and the sweeps lie: inside an installed vitq, or beside it in a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import vitq
from vitq.errors import ConfigError, Problem, unknown


def shipped(folder: str) -> Path:
    """`conf` or `sweeps` as vitq ships it. Raises ConfigError when the installation lacks it."""
    package = Path(vitq.__file__).resolve().parent
    for place in (package / folder, package.parent / folder):
        if place.is_dir():
            return place
    raise ConfigError([f"vitq at {package} has no {folder}/ folder; reinstall vitq, or install it from its checkout"])


@dataclass(frozen=True)
class ConfigPath:
    """Folders in which config groups are looked up, the first hit wins."""

    folders: tuple[Path, ...]

    @staticmethod
    def of(*extra: str | Path) -> ConfigPath:
        """`extra` folders before the shipped `conf/`. Raises ConfigError for a folder that does not exist."""
        missing = [str(e) for e in extra if not Path(e).is_dir()]
        if missing:
            action = "--config-dir names an existing folder"
            raise ConfigError(
                [Problem(f"config folder {m!r} does not exist; {action}", "--config-dir", m) for m in missing]
            )
        return ConfigPath((*(Path(e).resolve() for e in extra), shipped("conf")))

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
    """File of a sweep: a path, a name under `./sweeps`, or a name that vitq ships. Raises ConfigError when unknown."""
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
    """Name → file of every sweep under `./sweeps` and of those that vitq ships; the former win."""
    found = {
        path.stem: path.resolve() for folder in (shipped("sweeps"), Path("sweeps")) for path in folder.glob("*.yaml")
    }
    return dict(sorted(found.items()))


def headline(path: Path) -> str:
    """First line of a YAML file's leading comment; '' when it has none."""
    with path.open(encoding="utf-8") as lines:
        first = next(lines, "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""
