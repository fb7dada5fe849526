"""The study behind a sweep of trials, where it is one: figures for the page."""

from __future__ import annotations

import plotly.graph_objects as go

from vitq.plots import tuning
from vitq.store import Store
from vitq.store.studies import StudyRecord, read_study


def figures(store: Store, sweep: str) -> list[tuple[str, go.Figure]]:
    """(title, figure): KL along the trials, and the importance of each option; none where the sweep is no study, or
    no trial has a result. Raises StoreError for a record that cannot be read."""
    study = read_study(store, sweep)
    return [] if study is None or not study.finished else drawn(study)


def drawn(study: StudyRecord) -> list[tuple[str, go.Figure]]:
    """Figures of a study with a finished trial."""
    own = next((trial.kl for trial in study.finished if trial.options == study.own), None)
    trials = [(trial.number, trial.kl, _words(trial.options)) for trial in study.finished if trial.kl is not None]
    titled = [(f"{study.method}: KL on {study.held_out} held-out images", tuning.curve(trials, own))]
    if study.importances:
        titled.append((f"{study.method}: what KL depends on", tuning.importances(study.importances)))
    return titled


def _words(options: dict[str, object]) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in options.items()}
    return "<br>".join(f"{key}: {value}" for key, value in shown.items())
