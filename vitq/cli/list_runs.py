"""`vitq list runs`: every run of a store, of sweeps and single ones, by what its config says."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from vitq.config import RunConfig
from vitq.config.labels import bits_label, model_label, run_label, star_note
from vitq.errors import ConfigError, Problem, StoreError, unknown
from vitq.report.numbers import scores
from vitq.store import Run, Store, SweepRecord
from vitq.store.status import State
from vitq.track.naming import name_of

# What a filter may name beside any key of the config (`calib.size`).
NAMES = ("signature", "state", "sweep", "model", "data", "method", "bits", "label")
STATES = (*typing.get_args(State), "unreadable")


def list_runs(store: Store, filters: Sequence[str], as_json: bool) -> int:
    """Print the runs that match all filters, `method=mse,repq*` and so on. Raises ConfigError for what is no filter.

    Exit code 1 when a run cannot be read: it is listed as such, and hides no other.
    """
    wanted = [_filter(word) for word in filters]
    records, _ = store.read_sweeps()
    sweeps = {name: [r for r in records if name in r.signatures] for name in store.signatures()}
    rows = [row for name in store.signatures() if (row := _row(store, name, sweeps[name], wanted)) is not None]
    rows.sort(key=lambda row: row["updated_at"] or "")
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows, len(sweeps))
    return 1 if any(row["state"] == "unreadable" for row in rows) else 0


def _filter(word: str) -> tuple[str, list[str]]:
    from vitq.config.reference import entries

    key, equals, values = word.partition("=")
    if not equals or not key or not values:
        text = f"{word}: a filter is KEY=VALUE, such as method=mse or calib.size=32; keys beside the config's: "
        raise ConfigError([Problem(text + ", ".join(NAMES), value=word, valid=NAMES)])
    known = entries(RunConfig)
    # Sections that take any key: `model.kwargs.depth`.
    anything = tuple(f"{entry.key}." for entry in known if entry.kind.startswith("mapping"))
    if key not in NAMES and not key.startswith(anything) and key not in (valid := [*NAMES, *(e.key for e in known)]):
        raise ConfigError([unknown("key of a filter", key, valid, key=key)])
    for state in values.split(",") if key == "state" else ():
        if not any(fnmatchcase(name, state) for name in STATES):
            raise ConfigError([unknown("state", state, STATES, key="state")])
    return key, values.split(",")


def _row(
    store: Store, signature: str, records: list[SweepRecord], wanted: list[tuple[str, list[str]]]
) -> dict[str, Any] | None:
    run = Run(store.run(signature))
    state = run.read_state()
    sweeps = [record.name for record in records]
    facts: dict[str, Any] = {"signature": [signature], "state": [state.state], "sweep": sweeps or ["none"]}
    label = state.run
    try:
        config = run.config
        facts |= _facts(config) | {"label": [run_label(config)]}
        label = name_of(config, records[0] if records else None)
        plain = dataclasses.asdict(config)  # with the keys that a record leaves out where they have their default
    except (ConfigError, StoreError):
        plain = {}  # its state says why
    if not all(_matches(facts.get(key, [_lookup(plain, key)]), values) for key, values in wanted):
        return None
    return {
        "signature": signature, "state": state.state, "top1": state.top1, "score": state.score, "value": state.value,
        "run": label, "sweeps": sweeps, "updated_at": state.updated_at, "error": state.error,
    }  # fmt: skip


def _facts(config: RunConfig) -> dict[str, list[str]]:
    """What a word of a filter is compared with: any of these."""
    return {
        "model": [config.model.name, model_label(config)],
        "data": [config.data.name],
        "method": [config.method.name],
        "bits": [bits_label(config), bits_label(config).lower()],
    }


def _lookup(plain: Mapping[str, Any], key: str) -> str:
    node: Any = plain
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return str(node).lower().replace("none", "null") if node is None or isinstance(node, bool) else str(node)


def _matches(facts: Sequence[str], values: Sequence[str]) -> bool:
    return any(fnmatchcase(fact, value) for fact in facts for value in values)


def _print(rows: Sequence[Mapping[str, Any]], total: int) -> None:
    heading, values = scores([(row["score"], row["value"]) for row in rows])
    table = [("signature", "state", heading, "run", "sweeps")]
    table += [(r["signature"], r["state"], v, r["run"], _sweeps(r)) for r, v in zip(rows, values, strict=True)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table if rows else ():
        print("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip())
    if note := star_note(row["run"] for row in rows):
        print(note)
    for row in rows:
        if row["state"] == "unreadable":
            print(f"{row['signature']}: {row['error']}")
    print(f"{len(rows)} of {total} runs; one of them: vitq show SIGNATURE")


def _sweeps(row: Mapping[str, Any]) -> str:
    return ", ".join(row["sweeps"]) or "none"
