"""The study behind a sweep of trials, where it is one: figures for the page."""

from __future__ import annotations

import plotly.graph_objects as go

from vitq.plots import tuning
from vitq.report.markdown import grid
from vitq.store import Store
from vitq.store.studies import StudyRecord, read_study


def figures(store: Store, sweep: str) -> list[tuple[str, go.Figure]]:
    """(title, figure): KL along the trials, and the importance of each option; none where the sweep is no study, or
    no trial has a result. Raises StoreError for a record that cannot be read."""
    study = read_study(store, sweep)
    return [] if study is None or not study.finished else drawn(study)


def drawn(study: StudyRecord) -> list[tuple[str, go.Figure]]:
    """Figures of a study with a finished trial."""
    titled = [(f"{study.method}: KL on {study.held_out} held-out images", curve(study))]
    if study.importances:
        titled.append((f"{study.method}: what KL depends on", importances(study)))
    return titled


def curve(study: StudyRecord) -> go.Figure:
    """KL of each finished trial, and the least so far."""
    own = None if study.own_trial is None else study.own_trial.kl
    trials = [(trial.number, trial.kl, _words(trial.options)) for trial in study.finished if trial.kl is not None]
    return tuning.curve(trials, own)


def importances(study: StudyRecord) -> go.Figure:
    """Share of each option in the spread of KL."""
    return tuning.importances(study.importances)


def markdown(study: StudyRecord) -> str:
    """The trials of a study with a finished one, best first, and what KL depends on, as Markdown."""
    best = study.best
    assert best is not None
    trials = sorted(study.finished, key=lambda trial: (trial.kl, trial.number))
    rows = [
        [
            f"{trial.number} (own)" if trial.options == study.own else str(trial.number),
            f"{trial.kl:.4g}",
            f"{trial.seconds or 0:.0f}",
            *(_value(trial.options[key]) for key in study.ranges),
        ]
        for trial in trials
    ]
    parts = [
        f"Options of `{study.method}` by KL(full precision ‖ quantized) on {study.held_out} images held out of "
        f"calibration, {len(trials)} trials, {study.seconds:.0f} s together. The evaluation split was not opened.",
        "### Trials",
        grid(["trial", "KL, nats", "s", *study.ranges], rows, right_from=1),
    ]
    if study.gain is not None:
        parts.append(f"Trial {best.number} has {study.gain.line()}.")
    if study.importances:
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in study.importances.items())
        parts.append(f"What KL depends on (PED-ANOVA, share of each option in its spread): {shares}.")
    return "\n\n".join(parts)


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _words(options: dict[str, object]) -> str:
    return "<br>".join(f"{key}: {_value(value)}" for key, value in options.items())
