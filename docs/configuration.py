"""Writes docs/configuration.md from the dataclasses: `python docs/configuration.py`. A test says when it is old."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitq.config import RunConfig
from vitq.config.reference import Entry, entries
from vitq.config.sweep import SweepConfig
from vitq.launchers.local.slots import LocalOptions
from vitq.launchers.slurm.options import SlurmOptions

HEAD = """\
# Every key of a config

Written by `python docs/configuration.py`. Any key is an override (`calib.size=64`), an axis of a sweep
(`calib.size=32,64`) or a line of a file; where files lie and which one counts is in [Your own](own.md). A key in
*italics* is no part of a run's identity: it says where things lie and how they are executed. `vitq run --cfg job …`
prints the resolved config.
"""

SECTIONS = {
    "model": "which model", "data": "which images", "method": "which recipe", "bits": "bit-widths",
    "calib": "calibration images", "probe": "probes", "tracker": "W&B", "launcher": "how runs are executed",
}  # fmt: skip


def page() -> str:
    """The page as Markdown."""
    of_run = entries(RunConfig)
    parts = [HEAD, *_table("A run", [entry for entry in of_run if "." not in entry.key])]
    for section, title in SECTIONS.items():
        rows = [entry for entry in of_run if entry.key.startswith(f"{section}.")]
        parts += _table(f"`{section}`: {title}", rows)
    parts += _table("`launcher=local`", entries(LocalOptions, "launcher.options."), volatile=True)
    parts += _table("`launcher=slurm`", entries(SlurmOptions, "launcher.options."), volatile=True)
    parts += _table("`sweep`: what a sweep file says about itself", entries(SweepConfig, "sweep."), volatile=True)
    return "\n".join(parts)


def _table(title: str, rows: Sequence[Entry], volatile: bool = False) -> list[str]:
    lines = [f"## {title}\n", "| key | takes | default | |", "|---|---|---|---|"]
    for row in rows:
        key = f"*`{row.key}`*" if row.volatile or volatile else f"`{row.key}`"
        default = "" if row.default is None else f"`{row.default}`" if row.default else "empty"
        lines.append(f"| {key} | {row.kind} | {default} | {row.about} |".replace("|  |", "| |"))
    return [*lines, ""]


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
