"""One run: everything that a job needs to know."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.config.bits import BitsConfig
from vitq.config.calib import CalibConfig
from vitq.config.data import DataConfig
from vitq.config.method import MethodConfig
from vitq.config.model import SHIFT, ModelConfig
from vitq.config.problems import config_problems, leaves, switches_for_numbers
from vitq.errors import Problem


@dataclass(frozen=True, config=RULES)
class ProbeConfig:
    """What looks at the quantized model once the run has its result. Volatile: it never changes that result.

    options: probe → its options; every probe named here is run. names: probes to run with their default options.
    images: how many labelled images of the evaluation split they look at, evenly spread over it.
    max_seconds: most seconds that one probe may take; what is missing then is made by the next `vitq probe`.
    """

    names: tuple[str, ...] = ()
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: Annotated[int, Field(ge=1)] = 64
    max_seconds: Annotated[float, Field(gt=0)] = 600.0

    @property
    def wanted(self) -> dict[str, dict[str, Any]]:
        """Probe → options, in the order of the config."""
        return {**{name: {} for name in self.names}, **self.options}


def _mode(value: Any) -> Any:
    # What W&B's own variable WANDB_MODE may hold; an empty one is one that is not set.
    return {"": "offline", "dryrun": "offline", "run": "online"}.get(value, value) if isinstance(value, str) else value


@dataclass(frozen=True, config=RULES)
class TrackerConfig:
    """Where runs are mirrored to. Volatile: it never changes a result.

    name: `wandb`, or none.
    mode: `offline` needs no account, and `vitq sync` uploads later; `online`; `disabled`.
    project, entity: where W&B files the runs; an entity is a user or a team.
    dir: folder of offline runs; null: `wandb` in the store.
    tags: of every W&B run.
    log_model: the quantized model becomes an artifact of the W&B run, packed; the run's folder keeps it too.
    store_url: address under which the run store is served (`vitq serve`, or any web server of its folder), as
        `http://lab:8000`: the notes of W&B runs then have links to the report and to the run's files.
    """

    name: Literal["none", "wandb"] = "none"
    mode: Annotated[Literal["offline", "online", "disabled"], BeforeValidator(_mode)] = "offline"
    project: str = "vitq"
    entity: str | None = None
    dir: str | None = None
    tags: tuple[str, ...] = ()
    log_model: bool = False
    store_url: str | None = None


@dataclass(frozen=True, config=RULES)
class LauncherConfig:
    """How runs are executed. Volatile: it never changes a result.

    name: `inline`, `local` or `slurm`.
    options: of that launcher.
    """

    name: str = "inline"
    options: dict[str, Any] = field(default_factory=dict)


def _device(name: str) -> str:
    # Whether it is there is asked where the run computes, which may be another machine.
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        valid = ("auto", "cpu", "cuda", "cuda:N")
        raise ValueError(Problem(f"not a device; valid: {', '.join(valid)}", valid=valid))
    return name


@dataclass(frozen=True, config=RULES)
class RunConfig:
    """A resolved config. Build it with `RunConfig.parse`, which reports every problem at once.

    task: what the model is for, which says how it is scored (vitq.tasks).
    seed: chooses the calibration images and seeds every random step.
    device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1` and so on. Volatile.
    runs_dir: the run store. Volatile.
    cache_dir: decoded images, hashes, trained digit models. Volatile.
    keep_model: the run's folder keeps the quantized model as a packed checkpoint, so that exporting it repeats nothing.
    Volatile.
    """

    model: ModelConfig
    data: DataConfig
    method: MethodConfig
    bits: BitsConfig = field(default_factory=BitsConfig)
    calib: CalibConfig = field(default_factory=CalibConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, AfterValidator(_device)] = "auto"
    runs_dir: str = "runs"
    cache_dir: str = "~/.cache/vitq"
    keep_model: bool = False
    task: Literal["classification", "features", "detection", "segmentation"] = "classification"

    @property
    def finds_objects(self) -> bool:
        """Whether the model is a detector."""
        return self.task in ("detection", "segmentation")

    def __post_init__(self) -> None:
        if self.calib.cache == "auto":
            cache: Literal["host", "disk"] = "disk" if self.data.dataset == "coco" else "host"
            object.__setattr__(self, "calib", dataclasses.replace(self.calib, cache=cache))

    @staticmethod
    def parse(raw: dict[str, Any]) -> tuple[RunConfig | None, list[Problem]]:
        """Plain dict → (config, []) or (None, problems), one line per bad key."""
        # JSON has no NaN and no infinity: the stored config, and with it the signature, would say null.
        if problems := [
            Problem(f"{_dotted(keys)}={value}: a finite number is needed", _dotted(keys), value)
            for keys, value in leaves(raw)
            if isinstance(value, float) and not math.isfinite(value)
        ]:
            return None, problems
        try:
            config = _ADAPTER.validate_python(raw)
        except ValidationError as error:
            return None, config_problems(error, RunConfig)
        problems = switches_for_numbers(raw, _ADAPTER.dump_python(config, mode="json"))
        return (None, problems) if problems else (config, [])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready dict; `parse` of it gives the same config."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        for section, keys in LATER.items():
            for key, default in keys.items():
                if plain[section][key] == default:
                    del plain[section][key]
        if self.model.train is not None and self.model.train.shift == SHIFT:
            del plain["model"]["train"]["shift"]
        if self.task == "classification":
            del plain["task"]
        return plain


# Keys that came after 0.1.0. They are left out where they have their default, so that a config that does not use them
# is stored, and signed, as it was before.
LATER: dict[str, dict[str, Any]] = {
    "model": {"checkpoint_key": None, "short_side": None, "long_side": None},
    "bits": {"scope": "all"},
    "data": {"labels": None, "white": None, "eval_choice": None, "held_out": None, "allow_overlap": False},
    "calib": {"ids": None},
    "method": {"rates": "paper", "suited_rates": None, "tune": {}, "tuned": None},
    "tracker": {"store_url": None},
}

_ADAPTER: TypeAdapter[RunConfig] = TypeAdapter(RunConfig)


def _dotted(keys: tuple[Any, ...]) -> str:
    return ".".join(map(str, keys))
