"""What the scheduler knows of the runs of a store: a hint for people, never the truth."""

from __future__ import annotations

from dataclasses import dataclass

from vitq.launchers import slurm
from vitq.store import Store


@dataclass(frozen=True)
class Hint:
    """The job that a run was last given to. ended: it will not start again; text: for people."""

    job: str
    ended: bool
    text: str


def hints(store: Store, wanted: set[str]) -> dict[str, Hint]:
    """Hints for some runs. Empty where nothing was submitted, SLURM is not here, or it does not answer."""
    places = {
        name: (submission, index)
        for submission in store.submissions.all()  # the last one counts
        for index, names in enumerate(submission.allocations)
        for name in names
        if name in wanted
    }
    if not places or not slurm.available():
        return {}
    try:
        known = {(e.token, e.index): e for e in slurm.elements()}
    except slurm.SlurmError:
        return {}
    forgotten = {
        f"{submission.job}_{index}"
        for submission, index in places.values()
        if submission.job and (submission.token, index) not in known
    }
    past = slurm.past_states(forgotten)
    found = {}
    for name, (submission, index) in places.items():
        element = known.get((submission.token, index))
        job = f"{submission.job}_{index}"
        if element is not None:
            found[name] = Hint(element.job, element.ended, element.text)
        elif job in forgotten:
            state = past.get(job)
            found[name] = Hint(job, True, f"job {job} {state.lower() if state else 'is unknown to SLURM by now'}")
    return found


def jobs_of(store: Store, sweep: str) -> list[str]:
    """Jobs of a sweep that wait or run. Raises SlurmError when the scheduler cannot be asked."""
    tokens = {submission.token for submission in store.submissions.all() if submission.sweep == sweep}
    if not tokens:
        return []
    return [element.job for element in slurm.elements() if element.token in tokens and not element.ended]
