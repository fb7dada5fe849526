"""One W&B run from its start to its end, whatever W&B does meanwhile."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from vitq.config import RunConfig, labels
from vitq.errors import StoreError, brief
from vitq.store import mirror_record
from vitq.store.result import Result
from vitq.store.rundir import RunDir
from vitq.store.sweeps import SweepRecord
from vitq.track import content, naming, probes
from vitq.track.base import TrackedRun, Tracker, folder
from vitq.track.faults import Warner, redacted
from vitq.track.values import config_of

LOG = logging.getLogger("vitq.track")

# Seconds to wait for W&B's service process: many runs that start on one node can pass its default of 30.
_SERVICE_SECONDS = 300.0
# Seconds that an online run may spend at its end on uploading what is left.
_FINISH_SECONDS = 300.0
# Seconds between two flushes of a run's file. W&B's own 15 leave nothing of a run that is killed before that.
_FLUSH_SECONDS = 2.0
# Variables that raise the level of the service's logs.
DEBUG = ("WANDB_DEBUG", "WANDB_CORE_DEBUG")


class WandbTracker(Tracker):
    """One W&B run per run: id = signature, group = sweep.

    Where another id had to be used (the signature's run was deleted there), `tracker.json` in the run's folder
    says which; it also names the folder that is to be uploaded.
    """

    @contextmanager
    def run(self, config: RunConfig, signature: str, group: str | None, run_dir: RunDir) -> Iterator[TrackedRun]:
        warn = Warner(run_dir)
        session = WandbSession.start(config, group, run_dir, warn)
        if session is None:
            yield TrackedRun()
            return
        # Not `with run`: leaving that prints the traceback a second time, and an error of W&B while it finishes
        # would replace the run's own.
        try:
            yield session
        except BaseException as error:
            hint = run_dir.status_hint()
            session.failed(brief(error), hint.stage if hint else "")
            raise
        session.finished()


class WandbSession(TrackedRun):
    """An open W&B run. No method raises what W&B raises."""

    def __init__(self, run: Any, config: RunConfig, run_dir: RunDir, known: mirror_record.TrackerRecord, warn: Warner):
        self._run, self._config, self._run_dir, self._known, self._warn = run, config, run_dir, known, warn

    @classmethod
    def start(
        cls,
        config: RunConfig,
        group: str | None,
        run_dir: RunDir,
        warn: Warner,
        mode: str | None = None,
        title: str | None = None,
    ) -> WandbSession | None:
        """A W&B run; offline where online fails; None, with a warning, where W&B does not start at all.

        mode: instead of the config's. title: name of what is no run of a sweep, but a study of its trials.
        """
        old = _known(run_dir, warn)
        mode = mode or config.tracker.mode
        first = generation = old.generation if old else 1
        restarted = False
        while True:
            run_id = mirror_record.run_id(run_dir.signature, generation)
            try:
                sweep = None if title else naming.sweep_of(run_dir, group)
                run = _init(config, run_dir, run_id, group, mode, sweep, title)
                break
            except Exception as error:  # noqa: BLE001 - W&B documents no base class, and the run must go on
                if mode == "online" and id_is_taken(str(error)) and generation < first + mirror_record.GENERATIONS:
                    generation += 1
                    warn(f"id {run_id}", error, f"it was deleted there and cannot be used again; trying -g{generation}")
                elif service_died(error) and not restarted:
                    restarted = True
                    warn("init", error, "trying once more with another service process")
                    drop_service()
                elif mode == "online":
                    mode = "offline"
                    warn("going online", error, "this run is kept offline; upload it with `vitq sync`")
                else:
                    warn("init", error, "this run is not mirrored; `vitq track rebuild` makes up for it")
                    return None
        known = mirror_record.TrackerRecord(
            id=run_id,
            generation=generation,
            mode=mode,
            sync_dir=str(run.sync_dir),
            older=(*old.older, old.sync_dir) if old else (),
            group=group,
            url=run.url if mode == "online" else None,
            uploaded=old.uploaded if old else None,
        )
        session = cls(run, config, run_dir, known, warn)
        session._remember(known)
        return session

    def result(self, result: Result, sites: pd.DataFrame) -> None:
        self._log(content.of_result(result, sites, self._run_dir))
        if self._config.tracker.log_model:
            self._log(content.of_model(result, self._run_dir))

    def study(self, part: content.Part) -> None:
        """Mirror a study. Never raises."""
        self._log([part])

    def finished(self) -> bool:
        """Close the run as a success; whether W&B said that it has all of it."""
        shown = probes.made(self._run_dir)
        self._log(content.of_probes(self._run_dir))
        return self._close(0, shown)

    def failed(self, error: str, stage: str) -> bool:
        """Close the run as a failure. error: one line; stage: where it happened."""
        facts = {"error": redacted(error)[:2000], "error_stage": stage}
        self._log([content.Part("the error", lambda run: run.summary.update(facts))])
        return self._close(1)

    def _log(self, parts: list[content.Part]) -> None:
        """Each part for itself, so that what W&B refuses costs nothing else."""
        for part in parts:
            with (
                self._warn.guard(f"mirroring {part.name}", "the mirror of this run is incomplete") as guarded,
                _data_dir(self._config),
            ):
                part.log(self._run)
            if guarded.error is not None and service_died(guarded.error):
                return  # it takes nothing more

    def _close(self, exit_code: int, shown: dict[str, str] | None = None) -> bool:
        with self._warn.guard("finish", "the mirror of this run may be incomplete; `vitq sync` repairs it") as guarded:
            self._run.finish(exit_code=exit_code)
        if guarded.error is not None:
            drop_service()
            return False
        update: dict[str, Any] = {"exit_code": exit_code, "probes": shown}
        if exit_code == 0:
            self._remove_older()
            update["older"] = ()
        self._remember(self._known.model_copy(update=update))
        return True

    def _remove_older(self) -> None:
        """Remove what earlier attempts of this run left offline: the newest one, which is complete, says all of it."""
        ours = folder(self._config)
        # A copied store names folders of the one that it was copied from.
        older = {path for path in map(Path, self._known.older) if path.parent == ours}
        if self._config.tracker.dir is None:  # nobody else's: also what was killed before it could be noted
            name = re.compile(rf"offline-run-\d+_\d+-{self._run_dir.signature}(-g\d+)?")
            older |= {path for path in ours.glob("offline-run-*") if name.fullmatch(path.name)}
        newest = Path(self._known.sync_dir).name
        for old in older:
            if old.name.startswith("offline-run-") and old.name != newest and old.is_dir():
                with self._warn.guard(f"removing {old.name}", "it is an older attempt of this run; remove it by hand"):
                    shutil.rmtree(old)

    def _remember(self, known: mirror_record.TrackerRecord) -> None:
        self._known = known
        try:
            mirror_record.write(self._run_dir, known)
        except StoreError as error:
            self._warn("remembering the run's id", error, f"the id is {known.id}")


@contextmanager
def _no_debug_level() -> Iterator[None]:
    """W&B's service at debug level writes all settings, the API key among them, into the run's folder."""
    debug = {name: os.environ.pop(name) for name in DEBUG if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(debug)


@_no_debug_level()
def _init(
    config: RunConfig,
    run_dir: RunDir,
    run_id: str,
    group: str | None,
    mode: str,
    sweep: SweepRecord | None,
    title: str | None,
) -> Any:
    import wandb

    wandb_folder = folder(config)
    wandb_folder.mkdir(parents=True, exist_ok=True)
    tracker = config.tracker
    quantizes = config.method.quantizes
    variant = naming.variant(config, sweep)
    tags = [labels.model_label(config), config.method.name, labels.bits_label(config), *tracker.tags]
    tags += variant.split(", ") if variant else []
    # The terminal belongs to vitq's progress display. And only where W&B is silent for the whole process is a missing
    # API key an error at once; otherwise it is a question on the terminal that waits for ever (0.31 does not look at
    # the login_timeout of a run's own settings).
    wandb.setup(settings=wandb.Settings(silent=True, x_service_wait=_SERVICE_SECONDS))
    return wandb.init(
        dir=str(wandb_folder.parent),
        project=tracker.project,
        entity=tracker.entity,
        mode=mode,  # type: ignore[arg-type]
        id=run_id,
        name=title[: naming.NAME] if title else naming.name_of(config, sweep),
        notes=naming.notes(config, run_dir, sweep, title),
        group=group,
        job_type="tune" if title else "ptq" if quantizes else "fp32",
        tags=list(dict.fromkeys(tag[: naming.TAG] for tag in tags)),
        config=config_of(config, run_dir.signature, variant),
        # The default returns the run that is already open in this process, and drops our config.
        reinit="create_new",
        settings=wandb.Settings(
            console="off",  # the run's own log.txt has it
            silent=True,
            # result.json has versions, host and commit. W&B's own look at them costs time, sees the command line, the
            # user's mail address and the remote's URL, which may hold a token, and cannot be rebuilt from runs/.
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            x_service_wait=_SERVICE_SECONDS,
            x_transaction_log_flush_interval=_FLUSH_SECONDS,
            finish_timeout=_FINISH_SECONDS,
        ),
    )


def drop_service() -> None:
    """Forget W&B's service process, which is gone, so that the next run of this process starts another."""
    import wandb

    try:
        wandb.teardown(exit_code=1)
    except Exception:  # its goodbye to the dead process fails; it is forgotten all the same
        LOG.debug("W&B: its service process was dropped", exc_info=True)
    # One that was shared with other processes is not ours to end, but no longer of use.
    os.environ.pop("WANDB_SERVICE", None)


def id_is_taken(text: str) -> bool:
    """Whether W&B says that the id belonged to a run that was deleted."""
    return re.search(r"HTTP 409|\[409\]|previously created and deleted", text) is not None


def service_died(error: Exception) -> bool:
    names = ("MailboxClosedError", "HandleAbandonedError", "WandbServiceConnectionError", "WandbAttachFailedError")
    return isinstance(error, ConnectionError) or type(error).__name__ in names


def _known(run_dir: RunDir, warn: Warner) -> mirror_record.TrackerRecord | None:
    """What the last attempt of this run remembered."""
    try:
        return mirror_record.read(run_dir)
    except StoreError as error:
        warn(f"reading {run_dir.tracker_path.name}", error, "the first generation of the id is tried")
        return None


@contextmanager
def _data_dir(config: RunConfig) -> Iterator[None]:
    """Keep what W&B stages for a table beside its run, instead of in the home directory, unless the user chose."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder(config))
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
