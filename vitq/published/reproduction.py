"""How papers' figures are made again: their protocols as overrides of our recipes, one file a paper."""

from __future__ import annotations

from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import ConfigError, VitqError, unknown
from vitq.published.cell import Cell
from vitq.published.figures import Figures
from vitq.published.files import read_files

Task = Literal["classification", "detection"]


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
    """A paper. about: where the protocol is from. settings: of its own method first, then of others in its tables.
    detection: the same for COCO's detectors, empty where the paper has none."""

    about: str
    settings: Annotated[list[Setting], Field(min_length=1)]
    detection: list[Setting] = field(default_factory=list)

    def of(self, task: Task) -> list[Setting]:
        """The settings for a task."""
        return self.detection if task == "detection" else self.settings

    def setting(self, method: str | None, task: Task = "classification") -> Setting:
        """That of a method; the paper's own where none is named. Raises VitqError."""
        settings = self.of(task)
        for setting in settings:
            if method in (None, setting.method):
                return setting
        if not settings:
            others = [paper for paper, one in reproductions().items() if one.detection]
            text = f"vitq has no protocol of this paper for detectors; papers with one: {', '.join(others)}"
            raise VitqError(text, "--task", task, others)
        raise VitqError(unknown("method of this paper", method, [s.method for s in settings], key="--method"))


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


def figures_of(paper: str, setting: Setting, figures: Figures, task: Task = "classification") -> list[Cell]:
    """The figures of a setting, top-1 or AP box: those that the authors obtained, and of the paper's own method all."""
    source, metric = setting.figures or paper, "ap_box" if task == "detection" else "top1"
    return [
        cell
        for cell in figures.cells
        if (cell.source, cell.method, cell.variant, cell.metric) == (source, setting.method, setting.variant, metric)
        and (cell.run_by in (paper, source) or setting is reproduction(paper).of(task)[0])
    ]


def mask_of(box: Cell, figures: Figures) -> Cell:
    """The AP mask that is printed beside an AP box."""

    def entry(cell: Cell) -> tuple[str | None, ...]:
        return cell.source, cell.table, cell.method, cell.variant, cell.model, cell.bits, cell.run_by

    return next(cell for cell in figures.cells if cell.metric == "ap_mask" and entry(cell) == entry(box))
