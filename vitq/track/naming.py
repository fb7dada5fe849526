"""How a run is called at W&B: by what its sweep varies, so that the variants of an ablation have names of their own."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from vitq.config import RunConfig, TrackerConfig
from vitq.config.labels import run_label
from vitq.config.signature import VOLATILE
from vitq.config.sweep import lookup
from vitq.errors import Problem, StoreError, bad
from vitq.store import RunDir, Store, SweepRecord

# Axes that a run's label has anyway.
_SHOWN = ("model", "data", "method", "bits", "bits.weight", "bits.activation", "calib", "calib.size", "seed")
# The most characters of a run's name and of a tag that W&B takes.
NAME, TAG = 128, 64


def refused(tracker: TrackerConfig) -> list[Problem]:
    """What W&B would refuse, run by run: asked before anything starts."""
    if tracker.name != "wandb":
        return []
    problems = []
    if not tracker.project or len(tracker.project) > NAME or re.search(r"[/\\#?%:]", tracker.project):
        why = f"a project of W&B has 1 to {NAME} characters, and none of / \\ # ? % :"
        problems.append(bad("tracker.project", tracker.project, why))
    for tag in tracker.tags:
        if not 1 <= len(tag) <= TAG:
            problems.append(bad("tracker.tags", tag, f"a tag of W&B has 1 to {TAG} characters"))
    address = urlsplit(tracker.store_url or "http://unset")
    if address.scheme not in ("http", "https") or not address.netloc or re.search(r"[\s()<>]", tracker.store_url or ""):
        why = "the address of a web server, as http://lab:8000; null: no links"
        problems.append(bad("tracker.store_url", tracker.store_url, why))
    return problems


def sweep_of(run_dir: RunDir, group: str | None) -> SweepRecord | None:
    """The record of the sweep that a run is executed for; None for none, and where it cannot be read."""
    try:
        return Store(run_dir.path.parent).read_sweep(group) if group else None
    except StoreError:
        return None  # `vitq status` says why; the mirror does without


def variant(config: RunConfig, sweep: SweepRecord | None) -> str:
    """What the sweep varies beyond model, method, bits, calibration size and seed: `weight.granularity=channel`."""
    plain = config.to_dict()
    parts = []
    for key, values in (sweep.axes if sweep else {}).items():
        # Where things lie is nobody's business, and no part of what a run is.
        if len(values) < 2 or key in _SHOWN or key in VOLATILE:
            continue
        try:
            value = lookup(key, {}, plain)
        except KeyError:  # a group of the user's own, or a step that this recipe does not have
            continue
        text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
        parts.append(f"{'.'.join(key.split('.')[-2:])}={text}")
    return ", ".join(parts)


def notes(config: RunConfig, run_dir: RunDir, sweep: SweepRecord | None, title: str | None = None) -> str | None:
    """Markdown: what the sweep says of itself, its report and the run's files. None where there is nothing to say.

    Links where the store is served (`tracker.store_url`); else paths in the store, never those of this machine, which
    no other one could follow. title: of what is no run of a sweep, but a study.
    """
    address, name = (config.tracker.store_url or "").rstrip("/"), run_dir.signature
    lines = [] if sweep is None else [sweep.description]
    if sweep is not None:
        link = f"[{_escaped(sweep.name)}]({address}/sweeps/{quote(sweep.name)}/report.html)"
        plain = f"sweeps/{sweep.name}/report.html in the run store (`vitq report {sweep.name}`)"
        lines.append(f"report: {link if address else plain}")
    if address and title is None:
        lines.append(f"files: [{name}]({address}/{name}/)")
    return "\n\n".join(filter(None, lines)) or None


def _escaped(text: str) -> str:
    """As Markdown shows it within a link's text."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)


def name_of(config: RunConfig, sweep: SweepRecord | None) -> str:
    """The run's name: `deit_tiny minmax W4A4 c32 s0 weight.granularity=channel`."""
    return f"{run_label(config)} {variant(config, sweep)}".strip()[:NAME]
