"""The mirror of a run in Weights & Biases. The one module that imports wandb, and only when a run is tracked.

The record under `runs_dir` is the truth and is stored first. So a fault in W&B never stops a run: it becomes a warning
in the run's log and on the logger `vitq.track`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vitq import mirror
from vitq.config import RunConfig, TrackerConfig
from vitq.errors import StoreError, VitqError
from vitq.result import Result, utc_now
from vitq.store.atomic import write_bytes
from vitq.store.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd

LOG = logging.getLogger("vitq.track")

# A W&B id that was deleted can never be used again; so many further generations of it are tried.
_GENERATIONS = 9
# Seconds to wait for W&B's service process: many runs that start on one node can pass its default of 30.
_SERVICE_SECONDS = 300.0
# Seconds that an online run may spend on uploading its rest at the end.
_FINISH_SECONDS = 300.0


class TrackedRun(Protocol):
    """One run under way in a tracker."""

    def result(self, result: Result, sites: pd.DataFrame) -> None:
        """Mirror a stored result: metrics as summary, `sites` (one row per site) as a table. Never raises."""


class Tracker(Protocol):
    """Where runs are mirrored to."""

    def run(
        self, config: RunConfig, signature: str, group: str | None, run_dir: RunDir
    ) -> AbstractContextManager[TrackedRun]:
        """Track the run executed inside the `with` block; an exception there marks it failed and passes through.

        group: name of the sweep, None for a run of its own.
        """


def make(config: TrackerConfig) -> Tracker:
    """The tracker that a config asks for. Raises VitqError when it needs a package that is not installed."""
    if config.name == "none" or config.mode == "disabled":
        return NullTracker()
    if find_spec("wandb") is None:
        raise VitqError(
            "tracker=wandb needs the package wandb, which is not installed; pip install wandb, or tracker=none"
        )
    return WandbTracker()


def folder(config: RunConfig) -> Path:
    """Where `offline-run-*` lie: `<runs_dir>/wandb`, or `tracker.dir` (with `/wandb` appended where not so named)."""
    base = Path(config.tracker.dir or Path(config.runs_dir) / "wandb").expanduser().absolute()
    return base if base.name == "wandb" else base / "wandb"


class NullTracker:
    """Tracks nothing."""

    @contextmanager
    def run(self, config: RunConfig, signature: str, group: str | None, run_dir: RunDir) -> Iterator[TrackedRun]:
        """See Tracker."""
        yield _Untracked()


class _Untracked:
    def result(self, result: Result, sites: pd.DataFrame) -> None:
        """See TrackedRun."""


class WandbTracker:
    """One W&B run per run: id = signature, group = sweep.

    Where W&B was told to use another id (the signature's run was deleted there), `tracker.json` in the run's folder
    says which; it also names the folder to `wandb sync`.
    """

    @contextmanager
    def run(self, config: RunConfig, signature: str, group: str | None, run_dir: RunDir) -> Iterator[TrackedRun]:
        """See Tracker."""
        warn = _Warner(run_dir)
        run = _start(config, signature, group, run_dir, warn)
        if run is None:
            yield _Untracked()
            return
        # Not `with run`: leaving that prints the traceback a second time, and an error of W&B while it finishes
        # would take the place of the run's own.
        try:
            yield _WandbRun(run, folder(config), warn)
        except BaseException:
            _finish(run, 1, warn)
            raise
        _finish(run, 0, warn)


class _Warner:
    """Makes a fault of W&B visible: in the run's log, and on the logger for whoever watches."""

    def __init__(self, run_dir: RunDir):
        self._run_dir = run_dir
        self.failed = False

    def __call__(self, operation: str, error: Exception, effect: str) -> None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        key = os.environ.get("WANDB_API_KEY")
        if key:
            reason = reason.replace(key, "***")
        line = f"W&B: {operation} failed ({reason}); {effect}. The record in {self._run_dir.path} is not affected"
        LOG.warning("%s: %s", self._run_dir.signature, line)
        try:
            self._run_dir.path.mkdir(parents=True, exist_ok=True)
            with self._run_dir.log_path.open("a", encoding="utf-8") as log:
                log.write(f"{utc_now()} WARNING {line}\n")
        except OSError as fault:
            LOG.warning("%s: cannot write %s: %s", self._run_dir.signature, self._run_dir.log_path, fault)

    @contextmanager
    def guard(self, operation: str, effect: str) -> Iterator[_Warner]:
        """Whatever W&B raises inside becomes a warning."""
        self.failed = False
        try:
            yield self
        except Exception as error:  # noqa: BLE001 - W&B documents no base class, and the run must go on
            self.failed = True
            self(operation, error, effect)


def _start(config: RunConfig, signature: str, group: str | None, run_dir: RunDir, warn: _Warner) -> Any | None:
    """An open W&B run; offline where online fails; None, with a warning, where W&B does not start at all."""
    mode = config.tracker.mode
    first = generation = _generation(run_dir, warn)
    restarted = False
    while True:
        run_id = signature if generation == 1 else f"{signature}-g{generation}"
        try:
            run = _init(config, signature, run_id, group, mode)
            break
        except Exception as error:  # noqa: BLE001 - as in guard
            if mode == "online" and _id_is_taken(error) and generation < first + _GENERATIONS:
                generation += 1
                warn(f"id {run_id}", error, f"it was deleted there and cannot be used again; trying -g{generation}")
            elif _service_died(error) and not restarted:
                restarted = True
                warn("init", error, "trying once more with another service process")
                _drop_service()
            elif mode == "online":
                mode = "offline"
                warn("going online", error, "this run is kept offline; upload it with `wandb sync`")
            else:
                warn("init", error, "this run is not mirrored")
                return None
    facts = {"id": run_id, "generation": generation, "mode": mode, "sync_dir": str(run.sync_dir)}
    if mode == "online":
        facts["url"] = run.url
    try:
        write_bytes(run_dir.tracker_path, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode())
    except StoreError as error:
        warn("remembering the run's id", error, f"the id is {run_id}")
    return run


def _init(config: RunConfig, signature: str, run_id: str, group: str | None, mode: str) -> Any:
    import wandb

    place = folder(config)
    place.mkdir(parents=True, exist_ok=True)
    tracker = config.tracker
    quantizes = config.method.quantizes
    tags = [mirror.model_label(config), config.method.name, mirror.bits_label(config), *tracker.tags]
    # The terminal belongs to vitq's progress display. And only where W&B is silent for the whole process is a missing
    # API key an error at once; otherwise it is a question on the terminal that waits for ever (0.31 does not look at
    # the login_timeout of a run's own settings).
    wandb.setup(settings=wandb.Settings(silent=True, x_service_wait=_SERVICE_SECONDS))
    return wandb.init(
        dir=str(place.parent),
        project=tracker.project,
        entity=tracker.entity,
        mode=mode,  # type: ignore[arg-type]
        id=run_id,
        name=mirror.run_label(config),
        group=group,
        job_type="ptq" if quantizes else "fp32",
        tags=list(dict.fromkeys(tag[:64] for tag in tags)),  # 64 is the server's limit
        config=mirror.config_of(config, signature),
        # The default returns the run that is already open in this process, and drops our config.
        reinit="create_new",
        settings=wandb.Settings(
            console="off",  # the run's own log.txt has it
            silent=True,
            disable_git=True,  # result.json has the commit; a remote's URL may hold a token
            save_code=False,
            x_service_wait=_SERVICE_SECONDS,
            finish_timeout=_FINISH_SECONDS,
        ),
    )


def _finish(run: Any, exit_code: int, warn: _Warner) -> None:
    with warn.guard("finish", "the mirror of this run may be incomplete") as guarded:
        run.finish(exit_code=exit_code)
    if guarded.failed:
        _drop_service()


def _drop_service() -> None:
    """Forget W&B's service process, which is gone, so that the next run of this process starts another."""
    import wandb

    try:
        wandb.teardown(exit_code=1)
    except Exception:  # its goodbye to the dead process fails; it is forgotten all the same
        LOG.debug("W&B: its service process was dropped", exc_info=True)


def _id_is_taken(error: Exception) -> bool:
    return re.search(r"HTTP 409|\[409\]|previously created and deleted", str(error)) is not None


def _service_died(error: Exception) -> bool:
    return isinstance(error, ConnectionError) or type(error).__name__ in ("MailboxClosedError", "HandleAbandonedError")


def _generation(run_dir: RunDir, warn: _Warner) -> int:
    """Generation of the id that the last attempt of this run used; 1 at first."""
    if not run_dir.tracker_path.exists():
        return 1
    try:
        return max(1, int(json.loads(run_dir.tracker_path.read_text())["generation"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"reading {run_dir.tracker_path.name}", error, "the first generation of the id is tried")
        return 1


class _WandbRun:
    def __init__(self, run: Any, place: Path, warn: _Warner):
        self._run, self._place, self._warn = run, place, warn

    def result(self, result: Result, sites: pd.DataFrame) -> None:
        """See TrackedRun."""
        with self._warn.guard("mirroring the result", "the mirror of this run is incomplete"), _data_dir(self._place):
            self._run.summary.update(mirror.summary_of(result))
            stages = [[name, seconds] for name, seconds in result.timings.stages.items()]
            tables = {"sites": _table(list(sites.columns), mirror.rows_of(sites))}
            self._run.log({**tables, "stages": _table(["stage", "seconds"], stages)})


def _table(columns: list[Any], rows: list[Any]) -> Any:
    import wandb

    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)


@contextmanager
def _data_dir(place: Path) -> Iterator[None]:
    """Keep what W&B stages for a table beside its run, instead of in the home directory, unless the user chose."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(place)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
