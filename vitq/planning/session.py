"""Hydra's `compose` over the search folders in their order, the user's first, with `.yml` read as `.yaml`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.version import VersionBase
from omegaconf import DictConfig, ListConfig, OmegaConf

from vitq.config.search_path import ConfigPath

VERSION_BASE = "1.3"


@dataclass(frozen=True)
class Session:
    """Hydra, initialized with a primary config.

    name: of that config. gone: folders of its own searchpath that do not exist. search: override of the search path.
    """

    name: str
    gone: tuple[str, ...]
    search: str

    def compose(self, overrides: list[str]) -> Any:
        """The primary config with overrides, Hydra's own node included. Raises what Hydra and OmegaConf raise."""
        return hydra.compose(self.name, [self.search, *overrides], return_hydra_config=True)

    def stays_in_its_part(self, group: str, option: str) -> bool:
        """Whether an option's file can change the part of a config that is named as its group and nothing else.

        It does so without a package header and without a defaults list. For groups of the search path of `compose`.
        """
        if not self._repository.group_exists(group):
            return False
        loaded = self._repository.load_config(f"{group}/{option}")
        return loaded is not None and loaded.header["package"] is None and not loaded.defaults_list

    @cached_property
    def _repository(self) -> Any:
        """The files that `compose` reads, each read once."""
        loader: Any = GlobalHydra.instance().config_loader()
        return loader._parse_overrides_and_create_caching_repo(self.name, [self.search])[1]


@contextmanager
def hydra_session(file: Path, search_path: ConfigPath) -> Iterator[Session]:
    """Hydra with `file` as primary config; Hydra's global state is put back afterwards.

    Hydra looks into the folder of the primary config before those of `hydra.searchpath`. Where that folder is one of
    the search path, the folders ahead of it come first here too. The searchpath of the file itself stays in front of
    the folders behind.
    """
    with tempfile.TemporaryDirectory(prefix="vitq-") as made, _beside_a_program(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="provider=.*is not available")  # see `gone`
        # Hydra 1.4 warns that the argument goes away in 1.5; 1.3 needs it.
        warnings.filterwarnings("ignore", message="The version_base parameter is deprecated")
        folders, here = search_path.folders, file.parent
        ahead = folders[: folders.index(here)] if here in folders else ()
        behind = [folder for folder in folders if folder not in ahead and folder != here]
        twins = {folder: _twin(folder, Path(made)) for folder in (*folders, here)}
        main = twins[here][0] if file.suffix == ".yml" else here
        content = OmegaConf.load(file)
        if not isinstance(content, DictConfig):
            raise ConfigCompositionException("a config is a mapping, and this is a list")
        own = OmegaConf.select(content, "hydra.searchpath", default=None) or []
        if not isinstance(own, ListConfig | list):
            raise ConfigCompositionException(f"hydra.searchpath is a list of folders, and this is {own!r}")
        gone = [path for path in own if str(path).startswith("file://") and not Path(path[7:]).is_dir()]
        after = [*_urls([here, *twins[here]]), *own]
        after += _urls([directory for folder in behind for directory in (folder, *twins[folder])])
        after = [url for url in after if url != f"file://{main}"]
        with hydra.initialize_config_dir(config_dir=str(main), job_name="vitq", version_base=VERSION_BASE):
            path = GlobalHydra.instance().config_loader().get_search_path()
            for url in _urls([directory for folder in ahead for directory in (folder, *twins[folder])]):
                path.prepend("vitq", url, anchor="main")
            yield Session(file.stem, tuple(gone), "hydra.searchpath=[" + ",".join(map(_quoted, after)) + "]")


@contextmanager
def _beside_a_program() -> Iterator[None]:
    """Hydra as if nobody used it; what an `@hydra.main` program that calls vitq has of it is back afterwards."""
    instance, base = GlobalHydra.instance(), VersionBase.instance()
    program, version = instance.hydra, base.version_base
    instance.clear()
    try:
        yield
    finally:
        # Hydra puts copies of both in their place when it is done.
        GlobalHydra.instance().hydra, VersionBase.instance().version_base = program, version


def _twin(folder: Path, made: Path) -> list[Path]:
    """A folder in `made` with a link NAME.yaml for each NAME.yml of a folder and its groups: Hydra reads .yaml alone.

    Nothing where there is no such file. Hydra's messages name the files that the links lead to.
    """
    files = [file for depth in ("*.yml", "*/*.yml", "*/*/*.yml") for file in folder.glob(depth)]
    if not files:
        return []
    twin = made / str(len(list(made.iterdir())))
    for file in files:
        link = twin / file.relative_to(folder).with_suffix(".yaml")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return [twin]


def _urls(folders: list[Path]) -> list[str]:
    return [f"file://{folder}" for folder in folders]


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "\\'") + "'"
