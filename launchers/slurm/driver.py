"""What submits the runs of a sweep to SLURM, watches them, and submits again what was lost."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping

from rich.markup import escape

from vitq.launchers.follow import FollowedRun
from vitq.launchers.slurm import commands
from vitq.launchers.slurm.options import SlurmOptions
from vitq.launchers.slurm.packing import Array, chunks, pack
from vitq.planning.display import Show
from vitq.planning.estimate import History
from vitq.planning.plan import Plan, PlannedRun
from vitq.store import claim
from vitq.store.submissions import Submission

# So often in a row a job must be missing from the queue, or ended, before its unfinished runs count as lost.
_SURE = 2
# Why jobs wait that start by themselves sooner or later.
_USUAL = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning", "Dependency", "Reservation"}


class Driver:
    """Submits what waits, shows what moves, and submits again what was lost."""

    def __init__(self, plan: Plan, show: Show, options: SlurmOptions):
        commands.require()
        self.plan, self.show, self.options = plan, show, options
        self.submissions = plan.store.submissions
        self.failed: list[str] = []
        self.waiting: list[PlannedRun] = []
        # Runs in the queue, and the element that has them; None: executed by another process.
        self._queued: dict[str, tuple[str, int] | None] = {}
        self._runs: dict[str, FollowedRun] = {}
        self._ours: set[str] = set()
        self._parallel: dict[str, int] = {}
        self._lost: Counter[str] = Counter()
        self._missing: Counter[tuple[str, int]] = Counter()
        self._limit = commands.max_array()
        self._is_away = False
        self._warned: set[str] = set()
        self._asked = 0.0
        self._adopt()

    def work(self) -> None:
        """Until every run has ended. While the controller is away the store alone is watched."""
        self.submit()
        while self.waiting or self._queued:
            self._look()
            if time.monotonic() - self._asked >= self.options.ask:
                self._ask()
                self.submit()
            if self.waiting or self._queued:
                time.sleep(self.options.poll)

    def submit(self) -> None:
        """Submit what waits, as much as is accepted."""
        if not self.waiting:
            return
        queue = deque(self._arrays())
        later: list[Array] = []
        try:
            while queue:
                array = queue.popleft()
                if array.parallel < 1:
                    later.append(array)
                    continue
                try:
                    self._submit_array(array)
                except commands.JobLimitError as error:
                    if len(array.jobs) > 1:
                        queue.extendleft(reversed(array.halves()))
                        continue
                    queue.appendleft(array)
                    if not self._has_submitted():
                        raise
                    self._print(f"{error}; the others are submitted when jobs have ended")
                    break
        except commands.UnreachableError as error:
            queue.appendleft(array)
            if not (self._queued or self._ours):
                raise
            self._print(f"{error}; asked again until it does")
        finally:
            self.waiting = [run for array in (*later, *queue) for job in array.jobs for run in job]

    def _has_submitted(self) -> bool:
        """Whether jobs with runs of this plan were accepted: what is refused now may be accepted later.

        Runs may all have ended, by the store, while SLURM still counts their jobs.
        """
        ours = {run.signature for run in self.plan.runs}
        submitted = (names for submission in self.submissions.all() for names in submission.allocations)
        return bool(self._queued or self._ours) or any(not ours.isdisjoint(names) for names in submitted)

    def cancel(self) -> None:
        """scancel the jobs that this driver submitted or adopted."""
        commands.cancel(job for token in self._ours if (s := self.submissions.read(token)) and (job := s.job))

    def _adopt(self) -> None:
        """Adopt the runs that an earlier start of this or another sweep has in the queue; the others wait."""
        alive = {(e.token, e.index) for e in commands.elements() if not e.ended}
        submissions = self.submissions.all()
        where = {
            name: (submission.token, index)
            for submission in submissions
            for index, names in enumerate(submission.allocations)
            if (submission.token, index) in alive
            for name in names
        }
        for run in self.plan.runs:
            if self.plan.store.run(run.signature).is_done():
                self.show.skipped(run)
            elif run.signature in where:
                self._follow(run, where[run.signature])
            elif self._is_claimed(run.signature):
                self._follow(run, None)
            else:
                self.waiting.append(run)
        adopted = {element_id[0] for element_id in self._queued.values() if element_id is not None}
        self._ours |= {s.token for s in submissions if s.token in adopted and s.sweep == self.plan.name}
        if adopted:
            self._print(f"{sum(map(bool, self._queued.values()))} runs are in the queue already")

    def _follow(self, run: PlannedRun, element_id: tuple[str, int] | None) -> None:
        self._queued[run.signature] = element_id
        self._runs.setdefault(run.signature, FollowedRun(self.plan.store, self.show, run))

    def _arrays(self) -> list[Array]:
        """What waits as arrays; one with `parallel` 0 has to wait until others have ended."""
        experience = History.of(self.plan.store) if self.options.minutes_per_job is not None else History([])
        jobs = list(pack(self.waiting, self.options, experience))
        most = self.options.max_parallel or len(jobs)
        # More arrays than jobs that may run at a time: longer jobs instead.
        if len(jobs) > self._limit * most:
            jobs = list(chunks(self.waiting, -(-len(self.waiting) // (self._limit * most))))
        if self.options.max_parallel is not None:
            active = {element_id[0] for element_id in self._queued.values() if element_id is not None}
            most = max(0, most - sum(self._parallel.get(token, 0) for token in active))
        parts = list(chunks(jobs, self._limit))
        return [Array(part, most // len(parts) + (n < most % len(parts))) for n, part in enumerate(parts)]

    def _submit_array(self, array: Array) -> None:
        token = self.submissions.new_token()
        folder = self.submissions.folder(token)
        command = self.options.command or (*self.options.python, "-m", "vitq.job")
        submission = Submission(
            token=token, sweep=self.plan.name, command=list(command),
            allocations=[[run.signature for run in job] for job in array.jobs],
            max_retries=self.options.max_retries, max_timeouts=self.options.max_timeouts,
        )  # fmt: skip
        # First the record: whoever dies after sbatch leaves jobs that know what to do and are adopted again.
        self.submissions.write(submission)
        root = str(self.plan.store.root)
        words = [*self.options.python, "-m", "vitq.launchers.slurm.job", "--runs-dir", root, "--token", token]
        name = self.plan.name or array.jobs[0][0].label
        try:
            job = commands.submit(self.options, folder, token, name, words, len(array.jobs), array.parallel)
        except commands.SlurmError as error:
            # An answer that got lost is no proof that nothing was submitted: the jobs are looked for by the token.
            if not isinstance(error, commands.UnreachableError):
                self.submissions.remove(token)
            raise
        self.submissions.write(submission.model_copy(update={"job": job}))
        self._ours.add(token)
        self._parallel[token] = array.parallel
        for index, runs in enumerate(array.jobs):
            for run in runs:
                self._follow(run, (token, index))
                self._runs[run.signature].begin_anew()
        counts = f"{len(array.jobs)} jobs for {sum(map(len, array.jobs))} runs"
        self._print(f"submitted job array {job}: {counts}, logs in {folder}")

    def _look(self) -> None:
        """Read the store: what has ended, what has moved."""
        for name in list(self._queued):
            ended = self._runs[name].look()
            if ended is None:
                continue
            del self._queued[name]
            if not ended:
                self.failed.append(name)

    def _ask(self) -> None:
        """Ask the scheduler: which runs are in no job any more, and have not ended?"""
        self._asked = time.monotonic()
        try:
            elements = {(e.token, e.index): e for e in commands.elements()}
        except commands.SlurmError as error:
            if not self._is_away:
                self._print(f"{error}; running jobs go on, asked again until it does")
            self._is_away = True
            return
        if self._is_away:
            self._print("the SLURM controller answers again")
        self._is_away = False
        self._warn(elements)
        self._look()
        for name, element_id in list(self._queued.items()):
            element = elements.get(element_id) if element_id else None
            if self._is_claimed(name) or (element is not None and not element.ended):
                if element_id:
                    self._missing[element_id] = 0
                continue
            if element_id is None:  # its owner has gone, and left no result
                self._again(name)
                continue
            self._missing[element_id] += 1
            if self._missing[element_id] >= _SURE:
                self._handle_lost(name, element_id, element)

    def _warn(self, elements: Mapping[tuple[str, int], commands.Element]) -> None:
        """Say once what keeps jobs from starting, where waiting may not help."""
        for element_id in filter(None, self._queued.values()):
            element = elements.get(element_id)
            if element is None or element.state != "PENDING" or element.reason in _USUAL | self._warned:
                continue
            self._warned.add(element.reason)
            more = f"`scontrol show job {element.job}` says more"
            self._print(f"job {element.job} cannot start: {element.reason}; {more}")

    def _handle_lost(self, name: str, element_id: tuple[str, int], element: commands.Element | None) -> None:
        submission = self.submissions.read(element_id[0])
        job = f"{submission.job}_{element_id[1]}" if submission and submission.job else None
        state = element.state if element else commands.past_states([job] if job else []).get(str(job))
        log = self.submissions.log_path(*element_id)
        how = f"ended as {state}" if state else "is unknown to SLURM by now"
        reason = f"its job {job or element_id[0]} {how} and left no result; see {log}"
        self._lost[name] += 1
        if state is not None and state.startswith("CANCELLED"):
            self._end(name, f"its job {job} was cancelled; `vitq retry` goes on from its last finished block")
        elif self._lost[name] > self.options.max_retries:
            self._end(name, reason, timed_out=state == "TIMEOUT")
        else:
            self._print(f"{name}: {reason}; submitted again")
            self._again(name)

    def _again(self, name: str) -> None:
        del self._queued[name]
        self.waiting.append(self._runs[name].run)

    def _end(self, name: str, reason: str, timed_out: bool = False) -> None:
        del self._queued[name]
        self._runs[name].fail(reason, timed_out)
        self.failed.append(name)

    def _is_claimed(self, name: str) -> bool:
        return claim.is_held(self.plan.store.run(name))

    def _print(self, text: str) -> None:
        self.show.console.print(escape(text), highlight=False, soft_wrap=True)
