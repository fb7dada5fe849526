"""What is installed: one package, with its configs inside, that works from an empty folder."""

from __future__ import annotations

import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.environments import environment

pytestmark = pytest.mark.xdist_group("packaging")  # what it makes first is made once


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())


def test_every_package_folder_is_listed(project: dict[str, Any], repo: Path) -> None:
    code = {"vitq": "vitq", "launchers": "vitq.launchers"}
    folders = {path.parent.relative_to(repo) for root in code for path in (repo / root).rglob("*.py")}
    wanted = {".".join([code[folder.parts[0]], *folder.parts[1:]]) for folder in folders} | {"vitq.conf", "vitq.sweeps"}
    # Hydra looks for plugins in a namespace of its own; the plugin lies with the other launchers.
    plugin = "hydra_plugins.vitq_launcher"
    wanted = wanted - {f"vitq.launchers.{plugin}"} | {"hydra_plugins", plugin}
    assert set(project["tool"]["setuptools"]["packages"]) == wanted, (
        "list it in pyproject.toml, [tool.setuptools] packages"
    )


def test_interpreters_and_hydra(project: dict[str, Any]) -> None:
    assert project["project"]["requires-python"] == ">=3.11,<3.14"
    assert "hydra-core>=1.3.8,<2" in project["project"]["dependencies"]


def test_wheel_installs_one_name_and_ships_all_files(wheel: Path, repo: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vitq", "hydra_plugins"}
    assert {name.split("/")[1] for name in names if name.startswith("hydra_plugins/")} == {"vitq_launcher"}
    wanted = {
        f"vitq/{path.relative_to(repo)}"
        for folder in ("conf", "sweeps", "launchers")
        for path in (repo / folder).rglob("*")
        if path.suffix in (".yaml", ".py") and "hydra_plugins" not in path.parts
    }
    wanted |= {
        str(path.relative_to(repo))
        for path in (repo / "vitq").rglob("*")
        if path.suffix in (".py", ".j2", ".typed", ".yaml")
    }
    assert wanted <= names
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("elsewhere") / "env", wheel)


def call(installed: Path, folder: Path, *words: str) -> str:
    """Standard output of an installed command, run in an empty folder."""
    done = subprocess.run([installed / words[0], *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_vitq_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = call(
        installed, tmp_path, "python", "-c", "import vitq, vitq.launchers as l; print(vitq.__file__, l.__file__)"
    )
    assert all(path.startswith(str(installed.parent)) for path in where.split())
    assert "repq_vit" in call(installed, tmp_path, "vitq", "list", "methods")
    assert "demo" in call(installed, tmp_path, "python", "-m", "vitq", "list", "sweeps")
    assert "3 runs, 0 finished before" in call(
        installed,
        tmp_path,
        "vitq",
        "sweep",
        "demo",
        "--dry-run",
        "model=vit_digits",
        "bits=w8a8",
        "method=fp32,minmax,mse",
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["launchers", "conf", "sweeps", "tests"])
def test_no_generic_name_is_installed(installed: Path, tmp_path: Path, name: str) -> None:
    found = call(installed, tmp_path, "python", "-c", f"import importlib.util as u; print(u.find_spec({name!r}))")
    assert found.strip() == "None"
