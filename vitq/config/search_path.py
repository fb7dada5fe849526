"""Where the config groups and the sweeps lie: the user's folders, plug-ins, then vitq, installed or in a checkout."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import vitq
from vitq.errors import ConfigError, Problem, unknown
from vitq.plugins import plugins

# Folders of configs of the user's own, separated as those of PATH.
CONFIG_DIR = "VITQ_CONFIG_DIR"

SUFFIXES = (".yaml", ".yml")


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
        for file in _yaml_files(path, "**/"):
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
    """Folders in which config groups are looked up, the first hit wins. notes: what is left out of them, for people."""

    folders: tuple[Path, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @staticmethod
    def of(config_dir: str | os.PathLike[str] | None = None) -> ConfigPath:
        """The user's folders before those that plug-ins and vitq ship: `config_dir` (`--config-dir`), those of the
        environment variable VITQ_CONFIG_DIR, then `./conf`.

        A `./conf` with a `config.yaml` of another program is left out. Raises ConfigError for a folder that does not
        exist, and for an option of which one folder has two files.
        """
        named = [("--config-dir", Path(config_dir))] if config_dir else []
        environment = os.environ.get(CONFIG_DIR, "").split(os.pathsep)
        named += [(CONFIG_DIR, Path(folder)) for folder in environment if folder]
        missing = [(key, str(folder)) for key, folder in named if not folder.is_dir()]
        if missing:
            action = "it names an existing folder"
            raise ConfigError([Problem(f"config folder {m!r} does not exist; {k}: {action}", k, m) for k, m in missing])
        here, notes = Path("conf").resolve(), tuple[str, ...]()
        user = [folder.resolve() for _, folder in named]
        if here.is_dir() and here not in (*user, shipped("conf")):
            if (foreign := _foreign(here)) is None:
                user.append(here)
            else:
                notes = (f"{foreign} is of another program: {here} is not searched (--config-dir conf searches it)",)
        _check_twins(user)
        return ConfigPath(tuple(dict.fromkeys((*user, *installed("conf")))), notes)

    def is_group(self, name: str) -> bool:
        """True for `model`, `bits`, … and for folders that the user's own config dirs add."""
        return any((folder / name).is_dir() for folder in self.folders)

    def files(self, group: str) -> dict[str, Path]:
        """Option name → YAML file of a group, sorted by name."""
        files: dict[str, Path] = {}
        for folder in reversed(self.folders):
            files.update({path.stem: path for path in _yaml_files(folder / group)})
        return dict(sorted(files.items()))

    def file(self, group: str, option: str) -> Path | None:
        """The file of an option; of a primary config where the group is ''. None where there is none."""
        return self.files(group or ".").get(option)

    def hidden(self, group: str, option: str) -> list[Path]:
        """The files of an option in the order of search, where the first one says something else than the next."""
        files = [path for folder in self.folders for path in _yaml_files(folder / group, option)]
        return files if len(files) > 1 and files[0].read_bytes() != files[1].read_bytes() else []

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
    _check_twins([Path("sweeps")])
    files = {path.stem: path.resolve() for folder in folders for path in _yaml_files(folder)}
    return dict(sorted(files.items()))


def _yaml_files(folder: Path, name: str = "*") -> list[Path]:
    """Files of a folder, sorted; name: a pattern without the suffix."""
    name = f"{name}*" if name.endswith("/") else name
    return sorted(path for suffix in SUFFIXES for path in folder.glob(name + suffix) if path.is_file())


def _check_twins(folders: Iterable[Path]) -> None:
    """Raises ConfigError for an option with two files in one folder: which one is meant?"""
    problems = []
    for folder in folders:
        for file in (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}.yml")):
            if file.with_suffix(".yaml").is_file():
                text = f"{file} lies beside {file.stem}.yaml, and both are the option {file.stem!r}; remove one of them"
                problems.append(Problem(text, file.stem, str(file)))
    if problems:
        raise ConfigError(problems)


def _foreign(folder: Path) -> Path | None:
    """The primary config of a folder where it is no vitq's: its defaults choose no method."""
    for file in _yaml_files(folder, "config"):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            return None  # whoever composes it says what is wrong
        defaults = content.get("defaults") if isinstance(content, dict) else None
        entries = [key for entry in defaults or () if isinstance(entry, dict) for key in entry]
        if not any(str(key).split()[-1].lstrip("/") == "method" for key in entries):
            return file
    return None


def headline(path: Path) -> str:
    """First line of a YAML file's leading comment; '' when it has none."""
    with path.open(encoding="utf-8") as lines:
        first = next(lines, "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""
