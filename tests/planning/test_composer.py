"""Configs that are put together are those that Hydra composes, and Hydra composes each option once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from vitq.config.search_path import ConfigPath
from vitq.planning.compose_errors import HYDRA_ERRORS
from vitq.planning.composer import Composer
from vitq.planning.session import Session, hydra_session

PLAIN = {
    "config.yaml": "defaults: [{a: x}, {b: x}, _self_]\nseed: 0\na: {own: 1}\n",
    "a/x.yaml": "name: ax\ncrop: 0.9\n",
    "a/y.yaml": "name: ay\ncrop: 0.8\nmore: [1, 2]\n",
    "b/x.yaml": "name: bx\n",
    "b/y.yaml": "name: by\n",
    "b/z.yaml": "name: bz\nkinds: {probs: 8}\n",
}
CELLS = [(f"a={a}", f"b={b}") for a, b in itertools.product("xy", "xyz")]
CHOICE = "defaults: [{a: x}, {b: x}, {optional both: '${a}_${b}'}, _self_]\nseed: 0\n"
TRAPS = {
    # Of y and x alone, each of these shows nothing that y and y together does.
    "a package": {"b/y.yaml": "# @package _global_\nb: {name: by}\na: {crop: 0.9}\n"},
    "a package of the first option": {"b/x.yaml": "# @package _global_\nb: {name: bx}\na: {crop: 0.9}\n"},
    "defaults": {"b/y.yaml": "defaults: [z, _self_]\nname: by\n"},
    "an option of two groups": {"config.yaml": CHOICE, "both/y_y.yaml": "name: yy\n", "both/x_x.yaml": "name: xx\n"},
    "a value of another group": {"b/y.yaml": "name: '${a.name}'\n"},
    "a missing value": {"b/y.yaml": "name: ???\n"},
    "an environment variable": {"b/y.yaml": "name: '${oc.env:HOME}'\n"},
    "a package in the defaults": {"config.yaml": "defaults: [{a: x}, {b@a.part: x}, {b: x}, _self_]\nseed: 0\n"},
}


def _write(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "config.yaml"


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Gets an entry for each composition by Hydra."""
    calls: list[list[str]] = []
    real = Session.compose

    def counted(self: Session, words: list[str]) -> Any:
        calls.append(words)
        return real(self, words)

    monkeypatch.setattr(Session, "compose", counted)
    return calls


@pytest.mark.parametrize("trap", [None, *TRAPS])
def test_equal_to_hydras(trap: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _write(PLAIN | TRAPS.get(trap or "", {}), tmp_path)
    with hydra_session(file, ConfigPath.of(tmp_path)) as session:
        calls = _counted(monkeypatch)
        composer = Composer(session)
        made = {cell: composer.compose(cell) for cell in CELLS}
        composed = list(calls)
        for cell, one in made.items():
            if list(cell) in composed:
                continue
            wanted = session.compose(list(cell))
            choices = {k: v for k, v in wanted.hydra.runtime.choices.items() if not k.startswith("hydra/")}
            OmegaConf.set_struct(wanted, False)
            del wanted["hydra"]
            assert one.choices == choices
            assert one.whole() == wanted
            if one.plain is not None:
                assert one.plain == OmegaConf.to_container(wanted, resolve=True)
    if trap is None:
        assert len(composed) == 1 + 1 + 2  # of six cells: the first, and every other option once


def test_an_option_that_does_not_compose_costs_its_own_cells_alone(tmp_path: Path) -> None:
    file = _write(PLAIN | {"b/y.yaml": "defaults: [nothing]\n"}, tmp_path)
    with hydra_session(file, ConfigPath.of(tmp_path)) as session:
        composer = Composer(session)
        for cell in CELLS:
            if "b=y" in cell:
                with pytest.raises(HYDRA_ERRORS):
                    composer.compose(cell)
            else:
                assert (composer.compose(cell).plain or {})["b"]["name"] == f"b{cell[1][-1]}"
