"""Where configs and sweeps are looked up when plug-ins are installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.errors import is_about, refuses
from vitq import plugins
from vitq.cli import main
from vitq.config.search_path import ConfigPath, shipped, sweep_file
from vitq.errors import ConfigError, VitqError, brief
from vitq.job import provenance

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """install(name, files, module) → the folder of a package with an entry point, as pip leaves it."""
    target = tmp_path / "site-packages"
    target.mkdir()
    monkeypatch.syspath_prepend(target)
    monkeypatch.chdir(tmp_path)

    def make(name: str, files: dict[str, str], module: str | None = None) -> Path:
        facts = target / f"{name}-1.5.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (facts / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {module or name}\n")
        for path, text in {"__init__.py": "", **files}.items():
            file = target / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        plugins.plugins.cache_clear()
        plugins.load_plugins.cache_clear()
        return target / name

    yield make
    plugins.plugins.cache_clear()
    plugins.load_plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith("lab_")]:
        del sys.modules[name]


def test_folders_of_plugins_stand_between_those_of_the_user_and_of_vitq(install: Install, tmp_path: Path) -> None:
    package = install("lab_a", {"conf/method/ours.yaml": "name: ours\n", "sweeps/ours.yaml": ""})
    mine = tmp_path / "mine"
    (mine / "method").mkdir(parents=True)
    assert ConfigPath.of(mine).folders == (mine, package / "conf", shipped("conf"))
    assert ConfigPath.of().files("method")["ours"] == package / "conf" / "method" / "ours.yaml"
    assert sweep_file("ours") == package / "sweeps" / "ours.yaml"
    for name in ("ours", "minmax"):
        (mine / "method" / f"{name}.yaml").write_text("name: mine\n")
        assert ConfigPath.of(mine).files("method")[name].parent == mine / "method"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "ours.yaml").write_text("")
    assert sweep_file("ours") == tmp_path / "sweeps" / "ours.yaml"


def test_looking_for_configs_imports_nothing_of_a_plugin(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("lab_b", {"__init__.py": "raise RuntimeError", "conf/method/ours.yaml": "# Of a lab\nname: ours\n"})
    assert main(["list", "methods"]) == 0
    assert "Of a lab" in capsys.readouterr().out
    assert "lab_b" not in sys.modules


@pytest.mark.parametrize("other", ["vitq", "lab_d"])
def test_a_name_belongs_to_one_plugin_or_to_vitq(install: Install, other: str) -> None:
    name = "minmax" if other == "vitq" else "ours"
    packages = [install("lab_c", {f"conf/method/{name}.yaml": ""})]
    if other != "vitq":
        packages.append(install(other, {f"conf/method/{name}.yaml": ""}))
    folders = [shipped("conf"), packages[0] / "conf"] if other == "vitq" else [package / "conf" for package in packages]
    with pytest.raises(ConfigError) as error:
        ConfigPath.of()
    (problem,) = error.value.problems
    assert is_about(problem, f"method/{name}.yaml")
    assert {*cast(tuple[str, str], problem.value)} == {*map(str, folders)}


def test_a_plugin_that_cannot_be_imported_stops(install: Install) -> None:
    install("lab_e", {"wrong.py": "raise RuntimeError('out of luck')"}, "lab_e.wrong")
    with refuses(VitqError, key=plugins.GROUP, value="lab_e") as error:
        plugins.load_plugins()
    cause = error.value.__cause__
    assert isinstance(cause, RuntimeError)
    assert brief(cause) in error.value.problems[0]


def test_a_plugin_whose_package_is_gone_stops(install: Install) -> None:
    install("lab_f", {}, "lab_g.plugin")
    with refuses(VitqError, key=plugins.GROUP, value="lab_f"):
        ConfigPath.of()


def test_a_plugin_registers_and_its_version_is_recorded(install: Install) -> None:
    text = "from vitq.steps.step import STEPS\nSTEPS.register('lab_step')(object)\n"
    install("lab_h", {"plugin.py": text}, "lab_h.plugin")
    from vitq.steps import STEPS

    try:
        assert "lab_step" in STEPS
    finally:
        STEPS._items.pop("lab_step", None)
    assert provenance.versions()["lab_h"] == "1.5"
