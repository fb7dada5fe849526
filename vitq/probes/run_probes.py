"""The probes of one run, one after another: kept results are kept, failures stay the probe's own."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch

from vitq.config import ProbeConfig, RunConfig
from vitq.config.labels import run_label
from vitq.errors import StoreError, brief
from vitq.probes.budget import BudgetSpentError, PartialResults
from vitq.probes.probe import Probe, parse_probe
from vitq.probes.probed_model import Subject
from vitq.probes.stored_probe import META, meta_of
from vitq.store import RunDir
from vitq.store.record import utc_now

LOG = logging.getLogger("vitq.probes")


@dataclass(frozen=True)
class Outcome:
    """What became of one probe. state: done, kept (it was there), unfinished (the budget is spent), skipped, failed."""

    name: str
    state: Literal["done", "kept", "unfinished", "skipped", "failed"]
    seconds: float = 0.0
    note: str = ""

    def line(self) -> str:
        """For people: `probe landscape done in 12.3 s`."""
        spent = f" in {self.seconds:.1f} s" if self.seconds else ""
        return f"probe {self.name} {self.state}{spent}{': ' if self.note else ''}{self.note}"


def perform(
    run_dir: RunDir, subject: Callable[[], Subject], wanted: ProbeConfig, again: bool = False
) -> Iterator[Outcome]:
    """Run the wanted probes that are not there yet, or all of them `again`.

    subject: called once, when something has to be measured. A probe that raises is logged with its traceback, and the
    next one is tried; the run's own record is never touched.
    """
    once = cache(subject)
    for name, options in wanted.wanted.items():
        probe, problems = parse_probe(name, options)
        if probe is None:
            yield Outcome(name, "failed", note="; ".join(problems))
            continue
        try:
            yield _one(run_dir, once, probe, name, wanted, again)
        except Exception as error:  # noqa: BLE001 - a picture must not cost the run; the log has the traceback
            LOG.warning("%s: probe %s failed: %s", run_dir.signature, name, brief(error))
            with run_dir.log_path.open("a", encoding="utf-8") as log:
                log.write(f"{utc_now()} {traceback.format_exc()}")
            yield Outcome(name, "failed", note=brief(error))


def _one(
    run_dir: RunDir, make: Callable[[], Subject], probe: Probe, name: str, wanted: ProbeConfig, again: bool
) -> Outcome:
    stored = _stored(run_dir, name)
    asked = _asked(probe, name, wanted)
    if stored is not None and not again and all(stored.get(key) == value for key, value in asked.items()):
        return Outcome(name, "kept")
    subject = make()
    reason = probe.applies(subject.config)
    if reason is not None:
        return Outcome(name, "skipped", note=reason)
    facts = {**asked, "fingerprint": subject.images.fingerprint, "device": subject.device.type}
    key = hashlib.sha256(json.dumps(facts | {"torch": torch.__version__}, sort_keys=True).encode()).hexdigest()
    if again:
        run_dir.clear_probe(name)
    kept = run_dir.read_probe_state(name)
    units = probe.passes(subject.config)
    subject.progress.stage(f"probe {name}")
    partial = PartialResults(
        key, kept, lambda arrays: run_dir.write_probe_state(name, arrays), wanted.max_seconds, subject.progress
    )
    try:
        arrays = probe.measure(subject, partial)
    except BudgetSpentError:
        note = (
            f"probe.max_seconds={wanted.max_seconds:g} are over after {partial.units} pieces; what there is was kept, "
            f"`vitq probe {run_dir.signature}` goes on from there"
        )
        return Outcome(name, "unfinished", partial.seconds, note)
    except BaseException:
        partial.save()
        raise
    meta = {**facts, "passes": units, "seconds": round(partial.seconds, 3), "made_at": utc_now()}
    meta |= {"images": len(subject.images), "run": run_label(subject.config)}
    arrays = {**arrays, META: np.array(json.dumps(meta, sort_keys=True))}
    run_dir.write_probe(name, arrays, picture(probe, arrays, run_label(subject.config)))
    run_dir.clear_probe_state(name)
    return Outcome(name, "done", partial.seconds)


def picture(probe: Probe, arrays: dict[str, np.ndarray], title: str) -> bytes:
    figure = probe.draw(arrays, title)
    buffer = io.BytesIO()
    # No software version and no date inside: equal numbers, equal bytes.
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _asked(probe: Probe, name: str, wanted: ProbeConfig) -> dict[str, object]:
    # Through JSON, because that is what a stored probe is compared with: tuples become lists.
    options = json.loads(json.dumps(asdict(probe)))
    return {"probe": name, "version": probe.version, "options": options, "asked_images": wanted.images}


def _stored(run_dir: RunDir, name: str) -> dict[str, Any] | None:
    try:
        arrays = run_dir.read_probe(name)
        return None if arrays is None or META not in arrays else meta_of(arrays)
    except (StoreError, ValueError):
        return None  # unreadable: it is made again


def estimate(probe: Probe, run_dir: RunDir, config: RunConfig) -> float | None:
    """Seconds that a probe will take, at the pace at which the run evaluated its images; None where that is unknown.

    config: the run's, with the probes that are asked for. Raises VitqError where the run has no result.
    """
    result = run_dir.require_result()
    pace = result.timings.stages.get("evaluate")
    if pace is None or not result.metrics.n_eval:
        return None
    return pace / result.metrics.n_eval * config.probe.images * probe.passes(config)
