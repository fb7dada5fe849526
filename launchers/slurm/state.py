"""What the scheduler knows of the runs of a store: a hint for people, never the truth."""

from __future__ import annotations

from vitq.launchers.slurm import commands
from vitq.store import Store
from vitq.store.run import JobState


def job_states(store: Store, wanted: set[str]) -> dict[str, JobState]:
    """What the scheduler says of some runs, by signature.

    Empty where nothing was submitted, SLURM is not here, or it does not answer.
    """
    elements = {
        name: (submission, index)
        for submission in store.submissions.all()  # the last one counts
        for index, names in enumerate(submission.allocations)
        for name in names
        if name in wanted
    }
    if not elements or not commands.available():
        return {}
    try:
        known = {(e.token, e.index): e for e in commands.elements()}
    except commands.SlurmError:
        return {}
    forgotten = {
        f"{submission.job}_{index}"
        for submission, index in elements.values()
        if submission.job and (submission.token, index) not in known
    }
    past = commands.past_states(forgotten)
    states = {}
    for name, (submission, index) in elements.items():
        element = known.get((submission.token, index))
        job = f"{submission.job}_{index}"
        if element is not None:
            states[name] = JobState(element.job, element.ended, element.text)
        elif job in forgotten:
            state = past.get(job)
            states[name] = JobState(job, True, f"job {job} {state.lower() if state else 'is unknown to SLURM by now'}")
    return states


def jobs_of(store: Store, sweep: str) -> list[str]:
    """Jobs of a sweep that wait or run. Raises SlurmError when the scheduler cannot be asked."""
    tokens = {submission.token for submission in store.submissions.all() if submission.sweep == sweep}
    if not tokens:
        return []
    return [element.job for element in commands.elements() if element.token in tokens and not element.ended]


def jobs_of_run(store: Store, signature: str) -> list[str]:
    """Jobs that wait or run and have nothing else to do. Raises SlurmError when the scheduler cannot be asked."""
    alone = {
        (submission.token, index)
        for submission in store.submissions.all()
        for index, names in enumerate(submission.allocations)
        if signature in names and all(name == signature or store.run(name).is_done() for name in names)
    }
    if not alone:
        return []
    return [e.job for e in commands.elements() if (e.token, e.index) in alone and not e.ended]
