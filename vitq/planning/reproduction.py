"""The sweep that makes a paper's figures again: its protocol on its models and bit-widths, and full precision."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.errors import VitqError, unknown
from vitq.planning import compose
from vitq.planning.compose import Primary
from vitq.planning.plan import Plan
from vitq.planning.planner import Planner
from vitq.published.cell import Cell
from vitq.published.figures import Figures
from vitq.published.reproduction import Setting, figures_of, reproduction
from vitq.store.reproductions import ReproductionRecord, Target

# Overrides that change no protocol: folders, devices, what looks at a run.
_NO_PROTOCOL = ("data.", "runs_dir", "cache_dir", "device", "tracker", "launcher", "probe", "keep_model", "hydra")
_OF_METHODS = ("method", "bits", "calib")


@dataclass(frozen=True)
class PaperRequest:
    """What is to be reproduced. models, bits, table: None for all that the paper has.

    overrides: of the command line, on top of the protocol. public_code: our recipes as public code is, where they
    differ. name: of the sweep; None: `reproduce_PAPER`, with `_METHOD` for another method than the paper's own.
    """

    paper: str
    method: str | None = None
    table: str | None = None
    models: Sequence[str] = ()
    bits: Sequence[str] = ()
    public_code: bool = False
    overrides: Sequence[str] = ()
    name: str | None = None
    config_dir: str | None = None


def make(request: PaperRequest, again: bool = False, command: str = "") -> tuple[Plan, ReproductionRecord]:
    """Plan the runs and say what they are compared with.

    again: finished runs are executed once more. command: what was typed; see `sweep_name`. Raises VitqError where the
    paper has no such figure, ConfigError with all problems of all runs.
    """
    paper = reproduction(request.paper)
    setting = paper.setting(request.method)
    file, search_path = compose.root_config(request.config_dir)
    cells = _chosen(request, setting, search_path)
    own = setting is paper.settings[0]
    name = request.name or f"reproduce_{request.paper}" + ("" if own else f"_{setting.method}")
    source = setting.figures or request.paper
    sweep = {"name": name, "description": f"Figures of {source} for {setting.method}, made again under its protocol."}

    def primary(words: Sequence[str]) -> Primary:
        loaded = compose.load(file, search_path, words, multirun=True)
        return dataclasses.replace(loaded, sweep=sweep)

    given = [word for word in request.overrides if not _key(word).startswith(_NO_PROTOCOL)]
    planner: Planner | None = None
    runs: dict[tuple[str, ...], list[str]] = {}
    for key, words in _words(request, setting, cells, search_path):
        one = primary(words)
        planner = planner or Planner(one, again=again, command=command)
        signed = [(planner.add(cell), cell) for cell in compose.expand(one)]
        runs[key] = [signature for signature, _ in signed if signature]
    assert planner is not None
    plan = planner.plan()
    configs = {run.signature: run.config for run in plan.runs}
    targets = [
        Target(
            model=cell.model,
            bits=str(cell.bits),
            table=cell.table,
            top1=cell.value,
            full_precision=cell.full_precision,
            runs=runs[cell.model, str(cell.bits)],
            reference=runs[cell.model,][0],
        )
        for cell in cells
    ]
    record = ReproductionRecord(
        name=plan.name or name,
        paper=request.paper,
        method=setting.method,
        targets=targets,
        unknown=setting.unknown,
        deviations=setting.deviations,
        given=[_beside(word, setting, cells, request.public_code) for word in given],
        unlike=list(dict.fromkeys(_unlike(cells, targets, configs))),
    )
    return plan, record


def _chosen(request: PaperRequest, setting: Setting, search_path: ConfigPath) -> list[Cell]:
    """The figures that are asked for, of models that vitq has."""
    known = search_path.files("model")
    cells = [
        cell
        for cell in figures_of(request.paper, setting, Figures.load())
        if cell.model in known and re.fullmatch(r"W\dA\d", cell.bits or "")
    ]
    if not cells:
        why = f": {setting.unknown}" if setting.unknown else ""
        text = f"{request.paper} has no figure of {setting.method} on a model that vitq has{why}"
        raise VitqError(text, "paper", request.paper)
    if request.table is not None:
        tables = {cell.table or "": None for cell in cells}
        chosen = [t for t in tables if request.table.lower() in (t.lower(), t.lower().removeprefix("table "))]
        if not chosen:
            raise VitqError(unknown("table with figures of it", request.table, tables, key="--table"))
        cells = [cell for cell in cells if (cell.table or "") in chosen]
    for option, wanted, of in (
        ("--model", request.models, lambda cell: cell.model),
        ("--bits", [bits.upper() for bits in request.bits], lambda cell: cell.bits),
    ):
        valid = list(dict.fromkeys(map(of, cells)))
        for word in wanted:
            if word not in valid:
                raise VitqError(unknown(f"{option.lstrip('-')} among these figures", word, valid, key=option))
        cells = [cell for cell in cells if not wanted or of(cell) in wanted]
    # A figure that stands in two tables is made once.
    return list({(cell.model, cell.bits): cell for cell in reversed(cells)}.values())[::-1]


def _words(
    request: PaperRequest, setting: Setting, cells: Sequence[Cell], search_path: ConfigPath
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(model,) → overrides of its full-precision run; (model, bits) → of a figure's. Full precision comes first."""
    plain = [word for word in request.overrides if not _key(word).startswith(_OF_METHODS)]
    for model in dict.fromkeys(cell.model for cell in cells):
        fixed = [word for word in setting.words(model, "", False) if _key(word).startswith("model.")]
        yield (model,), [f"model={model}", "data=imagenet", "method=fp32", *fixed, *plain]
    files = search_path.files("bits")
    for cell in cells:
        bits = str(cell.bits)
        weight, activation = re.findall(r"\d", bits)
        widths = [f"bits={bits.lower()}"] if bits.lower() in files else []
        widths = widths or [f"bits.weight={weight}", f"bits.activation={activation}"]
        words = setting.words(cell.model, bits, request.public_code)
        head = [f"model={cell.model}", "data=imagenet", f"method={setting.method}", *widths]
        yield (cell.model, bits), [*head, *words, *request.overrides]


def _unlike(cells: Sequence[Cell], targets: Sequence[Target], configs: dict[str, RunConfig]) -> Iterator[str]:
    """Checkpoints and crops that are not those that the paper states."""
    for cell, target in zip(cells, targets, strict=True):
        model = configs[target.reference].model
        paper, ours = cell.facts.get("checkpoint"), model.name
        if paper is not None and paper != ours:
            yield f"{cell.model}: the paper's checkpoint is {paper}, ours {ours}"
        if (crop := cell.facts.get("crop")) is not None and crop != model.crop_pct:
            yield f"{cell.model}: the paper's crop is {crop}, ours {model.crop_pct}"
        if model.checkpoint:
            yield f"{cell.model}: weights from {model.checkpoint}, taken for {model.name}'s"


def _beside(word: str, setting: Setting, cells: Sequence[Cell], public_code: bool) -> str:
    """An override of the command line, with what the protocol has there."""
    paper = {w for c in cells for w in setting.words(c.model, str(c.bits), public_code) if _key(w) == _key(word)}
    differing = sorted(w.partition("=")[2] for w in paper if w.partition("=")[2] != word.partition("=")[2])
    return f"{word} (the paper: {', '.join(differing)})" if differing else word


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]
