"""Every command that the documents show is a command that exists."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitq.cli import COMMANDS
from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath, sweep_file
from vitq.errors import ConfigError
from vitq.planning import compose

REPO = Path(__file__).resolve().parents[2]
# These make what they name, and are followed by tests of their own. Notes say what was typed then.
FOLLOWED = ("extending.md", "own.md", "days.md")
PAGES = [
    page
    for page in (REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md")))
    if page.exists() and page.name not in FOLLOWED and page.parent.name != "notes"
]


def shown(program: str) -> list[str]:
    """Commands of one program in the shell blocks of all pages, continued lines joined, comments removed."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"```(?:bash|sh|console|shell)\n(.*?)```", page.read_text(), flags=re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            command = line.strip().removeprefix("$ ")
            if command.split(" ")[0] == program:
                found.append(command)
    return list(dict.fromkeys(found))


def test_readme_shows_the_main_commands() -> None:
    text = (REPO / "README.md").read_text()
    for command in ("make sweep", "make test", "vitq run", "vitq sweep", "vitq status", "vitq report"):
        assert command in text


@pytest.mark.parametrize("command", shown("make"))
def test_make_targets_exist(command: str) -> None:
    makefile = (REPO / "Makefile").read_text()
    for word in shlex.split(command, comments=True)[1:]:
        assert "=" in word or re.search(rf"^{re.escape(word)}:", makefile, flags=re.MULTILINE), word


@pytest.mark.parametrize("command", shown("vitq"))
def test_vitq_commands_parse_and_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    words = shlex.split(re.split(r"\s[|>&;]", command)[0], comments=True)[1:]
    if words[0].startswith("-"):
        return
    assert words[0] in COMMANDS
    args = importlib.import_module(f"vitq.cli.{words[0]}").parser().parse_intermixed_args(words[1:])
    if words[0] not in ("run", "sweep") or args.config_dir:
        return
    if words[0] == "run":
        file, roots = compose.root_config(args.config_dir, args.config_name)
        primary = compose.load(file, roots, args.overrides, multirun=args.multirun)
    else:
        try:
            file = sweep_file(args.sweep)
        except ConfigError:
            assert "/" in args.sweep, "a sweep named in the documents is not shipped"
            return
        primary = compose.load(file, ConfigPath.of(), args.overrides, multirun=True)
    for cell in cells(primary):
        assert cell.problem is None
        config, problems = RunConfig.parse(cell.raw)
        assert config is not None, problems


def cells(primary: compose.Primary) -> Iterator[compose.ConfigCell]:
    """As many as the longest axis has values: each value of each axis once. Pages repeat the sweeps that are shipped,
    whose whole products tests/planning/test_shipped_configs.py plans."""
    for i in range(max(map(len, primary.axes.values()), default=1)):
        yield from compose.expand(
            dataclasses.replace(primary, axes={key: [values[i % len(values)]] for key, values in primary.axes.items()})
        )
