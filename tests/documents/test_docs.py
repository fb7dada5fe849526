"""The documents say what is there: files, names and overrides that they show exist; pages have their limits."""

from __future__ import annotations

import copy
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from vitq.config import RunConfig
from vitq.engine.recipe_checks import problems
from vitq.planning import compose

REPO = Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (REPO / "conf" / "method").glob("*.yaml"))
# What was true when it was written, and is not mended.
DATED = REPO / "docs" / "notes"
PAGES = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    *sorted(page for page in (REPO / "docs").rglob("*.md") if not page.is_relative_to(DATED)),
]
OVERRIDE = re.compile(r"`([+~]?(?:method|bits|calib)\.[a-z_0-9.]+(?:=[^`]*)?)`")


def test_readme_is_short() -> None:
    assert len((REPO / "README.md").read_text().splitlines()) <= 150


def test_every_recipe_has_a_short_page() -> None:
    pages = {path.stem: path for path in (REPO / "docs" / "methods").glob("*.md")}
    assert set(RECIPES) == set(pages) - {"index", "steps"}
    assert {name: lines for name, path in pages.items() if (lines := len(path.read_text().splitlines())) > 40} == {}


def test_changelog_gives_a_release_one_screen() -> None:
    releases = (REPO / "CHANGELOG.md").read_text().split("\n## ")[1:]
    assert len(releases) >= 2
    assert {release.splitlines()[0]: size for release in releases if (size := len(release.splitlines())) > 60} == {}


def _switches(page: Path) -> Iterator[list[str]]:
    """Overrides of a page, those together that stand together in the first cell of a table."""
    for line in page.read_text().splitlines():
        first, *rest = line.strip("|").split(" | ") if line.startswith("|") else ["", line]
        if together := OVERRIDE.findall(first):
            yield together
        yield from ([override] for cell in rest for override in OVERRIDE.findall(cell) if "=" in override)


def _apply(raw: dict[str, Any], override: str) -> None:
    """Change composed values as Hydra would."""
    key, _, value = override.lstrip("+~").partition("=")
    *parents, leaf = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
    if override[0] == "~":
        del raw[leaf]
    else:
        raw[leaf] = yaml.safe_load(value)


def _composed(*overrides: str) -> dict[str, dict[str, Any]]:
    """Recipe → the composed values of a run."""
    file, roots = compose.root_config()
    cells = list(compose.expand(compose.load(file, roots, overrides, multirun=True)))
    assert [cell.problem for cell in cells if cell.problem is not None] == []
    return {cell.choices["method"]: cell.raw for cell in cells}


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Any]]:
    return _composed(f"method={','.join(RECIPES)}")


@pytest.mark.parametrize("name", RECIPES)
def test_the_switches_of_a_recipe_exist(name: str, plain: dict[str, dict[str, Any]]) -> None:
    for switches in _switches(REPO / "docs" / "methods" / f"{name}.md"):
        base = [switch for switch in switches if switch.startswith("method.base=")]
        raw = _composed(f"method={name}", *base)[name] if base else copy.deepcopy(plain[name])
        for switch in switches:
            if switch not in base:
                _apply(raw, switch)
        config, unread = RunConfig.parse(raw)
        assert config is not None, (switches, unread)
        assert problems(config) == [], switches


def test_the_recipe_that_the_documents_write_can_be_built(plain: dict[str, dict[str, Any]]) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (REPO / "docs" / "own_recipe.md").read_text(), re.DOTALL)
    config, wrong = RunConfig.parse({**plain["minmax"], "method": yaml.safe_load(text)})
    assert config is not None, wrong
    assert problems(config) == []


def _texts() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        yield page, page.read_text()
    for folder in ("conf", "sweeps"):
        for path in sorted((REPO / folder).rglob("*.yaml")):
            yield path, path.read_text()


def test_files_that_the_documents_name_exist() -> None:
    """Paths of the checkout with a known first folder, in documents and in the headers of configs."""
    path = re.compile(r"(?<![\w./-])((?:vitq|launchers|tests|benchmarks|conf|sweeps|docs)/[\w./-]*\w/?)")
    missing = {
        (page.name, found)
        for page, text in _texts()
        for found in path.findall(text)
        if page.name not in ("extending.md", "own.md", "days.md")  # they make the files that they name
        and not re.search(r"\b[A-Z]{4,}\b", found)  # NAME, SWEEP
        and not any((REPO / found.rstrip("/")).with_name(name).exists() for name in _names(found))
    }
    assert missing == set()


def _names(path: str) -> list[str]:
    name = Path(path).name
    return [name, f"{name}.yaml", f"{name}.py"]


def test_modules_that_the_documents_name_exist() -> None:
    dotted = re.compile(r"(?<![\w./-])(vitq(?:\.\w+)+)(?!\w*/)")
    for page, text in _texts():
        for name in set(dotted.findall(text)):
            assert _importable(name), f"{page.name}: {name}"


def _importable(name: str) -> bool:
    """Whether `name` is a module, an attribute of one (methods of classes too), or an entry-point group of vitq's."""
    if name in ("vitq.plugins", "vitq.egg"):
        return True
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
