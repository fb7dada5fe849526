"""How papers' figures are made again: their protocols as overrides of our recipes, one file a paper."""

from __future__ import annotations

from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import ConfigError, VitqError, unknown
from vitq.published.cell import Cell
from vitq.published.figures import Figures
from vitq.published.files import read_files


@dataclass(frozen=True, config=RULES)
class Setting:
    """One method under a paper's protocol.

    method, variant: of the recipe and of the figures. figures: id of the source whose tables have them; None: the
    paper's own. overrides: of all runs; bits, models: further ones, by bits and by the beginning of a model's name.
    public_code: what makes our recipe as the public code is, where the two differ. deviations: what is not as in the
    paper, as far as it is known. unknown: what of the protocol is not.
    """

    method: str
    variant: str | None = None
    figures: str | None = None
    overrides: list[str] = field(default_factory=list)
    bits: dict[str, list[str]] = field(default_factory=dict)
    models: dict[str, list[str]] = field(default_factory=dict)
    public_code: list[str] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    unknown: str | None = None

    def words(self, model: str, bits: str, public_code: bool) -> list[str]:
        """The overrides of one model and bit-width, the narrower ones last."""
        of_model = [word for start, words in self.models.items() if model.startswith(start) for word in words]
        return [*self.overrides, *self.bits.get(bits, ()), *of_model, *(self.public_code if public_code else ())]


@dataclass(frozen=True, config=RULES)
class Reproduction:
    """A paper. about: where the protocol is from. settings: of its own method first, then of others in its tables."""

    about: str
    settings: Annotated[list[Setting], Field(min_length=1)]

    def setting(self, method: str | None) -> Setting:
        """That of a method; the paper's own where none is named. Raises VitqError."""
        for setting in self.settings:
            if method in (None, setting.method):
                return setting
        raise VitqError(unknown("method of this paper", method, [s.method for s in self.settings], key="--method"))


@cache
def reproductions(folder: Path = Path(__file__).parent / "protocols") -> dict[str, Reproduction]:
    """Id of the source → its protocol, of all papers that have one. Raises ConfigError with all that is wrong."""
    papers, problems = read_files(folder, Reproduction)
    if problems:
        raise ConfigError(problems)
    return papers


def reproduction(paper: str) -> Reproduction:
    """That of one paper. Raises VitqError where there is none."""
    known = reproductions()
    if paper not in known:
        action = "`vitq published` has the figures of others."
        raise VitqError(unknown("paper with a protocol", paper, known, action, key="paper"))
    return known[paper]


def figures_of(paper: str, setting: Setting, figures: Figures) -> list[Cell]:
    """The top-1 figures of a setting: those that the authors obtained, and of the paper's own method all."""
    source = setting.figures or paper
    return [
        cell
        for cell in figures.cells
        if (cell.source, cell.method, cell.variant, cell.metric) == (source, setting.method, setting.variant, "top1")
        and (cell.run_by in (paper, source) or setting is reproduction(paper).settings[0])
    ]
