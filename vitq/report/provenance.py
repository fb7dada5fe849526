"""What a reader needs to repeat a sweep, collected from its finished runs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from vitq.store import Store, SweepRecord


def provenance(
    store: Store, records: Sequence[SweepRecord], df: pd.DataFrame, host: bool = True
) -> list[tuple[str, list[str]]]:
    """(fact, values) of a sweep, or of several; more than one value where runs differ, which is then worth a look.

    host: whether machines are named; a page for others says what they are and not what they are called.
    """
    facts: dict[str, dict[str, None]] = {}

    def add(fact: str, value: object) -> None:
        facts.setdefault(fact, {})[str(value)] = None

    for record in records:
        add("command", record.command or "not recorded")
        add("planned at", record.created_at)
        for key, values in record.axes.items():
            add(f"axis {key}", ", ".join(values))
    results = [store.run(str(s)).read_result() for s in df.loc[df["state"] == "done", "signature"]]
    finished = [result for result in results if result is not None]
    if finished:
        first = min(result.provenance.started_at for result in finished)
        last = max(result.provenance.finished_at for result in finished)
        add("executed", f"{first} to {last}")
        add("compute time", f"{sum(result.timings.total for result in finished):,.1f} s over {len(finished)} runs")
        resident = max(result.memory.peak_rss_bytes for result in finished)
        add("peak memory", f"{resident / 1e9:.2f} GB resident (largest run)")
        cuda = [result.memory.peak_cuda_bytes for result in finished if result.memory.peak_cuda_bytes is not None]
        if cuda:
            add("peak GPU memory", f"{max(cuda) / 1e9:.2f} GB (largest run)")
    for result in finished:
        for fact in ("code", "host", "versions"):
            known = {key: value for key, value in getattr(result.provenance, fact).items() if value is not None}
            if fact == "host" and not host:
                known.pop("name", None)
            add(fact, ", ".join(f"{key} {value}" for key, value in sorted(known.items())))
        model, data = result.config.get("model", {}), result.config.get("data", {})
        add("weights", f"{model.get('name')}: {model.get('weights') or 'no checkpoint file'}")
        add("data", f"{data.get('name')}: {data.get('fingerprint') or 'no fingerprint'}")
        for line in result.warnings:
            add("warning", f"{result.signature}: {line}")
        if result.nonfinite:
            add("not finite", f"{result.signature}: {', '.join(result.nonfinite)}")
    return [(fact, list(values)) for fact, values in facts.items()]
