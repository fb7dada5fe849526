"""The tuned recipe as a file of the config group `method`, which runs and sweeps name like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from vitq.config import MethodConfig
from vitq.config.tuning import Tuned
from vitq.store.atomic import make_dir, write_bytes
from vitq.store.studies import StudyRecord

_ADAPTER: TypeAdapter[MethodConfig] = TypeAdapter(MethodConfig)


def may_be_written(path: Path) -> bool:
    """Whether there is no such file, or one that an earlier `write` made."""
    return not path.exists() or any(line.startswith("tuned:") for line in path.read_text().splitlines())


def write(path: Path, name: str, method: MethodConfig, record: StudyRecord) -> None:
    """Write `method`, the one of the study's best trial, under a name of its own. Raises StoreError."""
    best = record.best
    assert best is not None
    assert best.kl is not None
    before = None if record.own_trial is None else record.own_trial.kl
    tuned = Tuned(
        study=record.name,
        method=method.name,
        trials=len(record.finished),
        seconds=record.seconds,
        held_out=record.held_out,
        kl=best.kl,
        kl_before=before,
    )
    plain = {key: value for key, value in _ADAPTER.dump_python(method, mode="json").items() if value not in (None, {})}
    document = plain | {"name": name, "tuned": _ADAPTER_TUNED.dump_python(tuned, mode="json")}
    make_dir(path.parent)
    write_bytes(path, (_head(method, record, before) + _yaml(document)).encode())


_ADAPTER_TUNED: TypeAdapter[Tuned] = TypeAdapter(Tuned)


def _head(method: MethodConfig, record: StudyRecord, before: float | None) -> str:
    best = record.best
    assert best is not None
    assert best.kl is not None
    earlier = "" if before is None else f" (the recipe's own options: {before:.4g})"
    lines = [
        f"{method.name} with options chosen by vitq tune: KL {best.kl:.4g} nats{earlier}",
        f"on {record.held_out} images held out of calibration, {len(record.finished)} trials, {record.seconds:.0f} s.",
        f"Study {record.name}, trial {best.number}. The evaluation split was not looked at.",
    ]
    if record.gain is not None:
        lines.append(f"That is {record.gain.line()}.")
    lines += [f"  {key}: {value} (own: {record.own[key]})" for key, value in best.options.items()]
    return "".join(f"# {line}\n" for line in lines)


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=None, width=118)
    return text
