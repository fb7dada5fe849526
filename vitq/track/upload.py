"""Upload of offline runs with `wandb sync`: what is missing, several at once, again and again without harm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from vitq.errors import StoreError, VitqError, brief
from vitq.store import Store, mirror_record
from vitq.store.record import utc_now
from vitq.track.faults import redacted
from vitq.track.rebuild import rebuild
from vitq.track.session import DEBUG, id_is_taken
from vitq.track.upload_plan import Destination, UploadItem

# Runs in one call of `wandb sync`. When none of them arrives, the others are not tried.
_BATCH = 24
# W&B retries for hours. Whoever waits for an upload wants to know; the same command goes on later. Each can be set.
_PATIENCE = {"WANDB__GRAPHQL_RETRY_MAX": "5", "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "10"}
_URL = re.compile(r"\[(?P<path>[^\]\s]+)\] View run at (?P<url>\S+/(?P<entity>[^/\s]+)/(?P<project>[^/\s]+)/runs/\S+)")


class Sync:
    """One `vitq sync` of what `upload_plan.look` says is missing: rebuilds, uploads, remembers.

    notify: called with one line for each run as it arrives or fails.
    """

    def __init__(self, store: Store, destination: Destination, jobs: int, notify: Callable[[str], None]):
        self._store, self._destination, self._jobs, self._notify = store, destination, jobs, notify

    def upload(self, items: Sequence[UploadItem]) -> list[str]:
        """Upload items of states `upload` and `rebuild`; returns the signatures that did not arrive.

        Each run that arrives is remembered in its `tracker.json` at once, so that an interrupted upload goes on.
        Raises VitqError where another upload is under way, where W&B does not start, and where it knows no key.
        """
        wandb_folder = self._store.root / "wandb"
        wandb_folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(wandb_folder / ".sync.lock", timeout=0):
                return self._batches(items)
        except Timeout:
            text = f"another `vitq sync` uploads from {self._store.root}; wait for it"
            raise VitqError(text, "runs_dir", self._store.root) from None

    def _batches(self, items: Sequence[UploadItem]) -> list[str]:
        failed: list[str] = []
        size = max(_BATCH, self._jobs)
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        for number, batch in enumerate(batches):
            ready = [item for item in map(self._ready, batch) if item is not None]
            failed += [item.run_dir.signature for item in batch if item.run_dir not in [r.run_dir for r in ready]]
            lost = self._send(ready)
            failed += lost
            if ready and len(lost) == len(ready):
                untried = [item.run_dir.signature for later in batches[number + 1 :] for item in later]
                if untried:
                    self._notify(f"{len(untried)} more runs are not tried, because none of these arrived")
                return failed + untried
        return failed

    def _ready(self, item: UploadItem) -> UploadItem | None:
        if item.state == "upload":
            return item
        try:
            folder = rebuild(item.run_dir, None)
        except StoreError as error:
            self._notify(f"{item.run_dir.signature}  not uploaded: {brief(error)}")
            return None
        return UploadItem(item.run_dir, "upload", folder, item.generation)

    def _send(self, items: Sequence[UploadItem]) -> list[str]:
        """Upload a batch; the signatures that did not arrive."""
        if not items:
            return []
        for item in items:
            _marker(item).unlink(missing_ok=True)  # of an upload to somewhere else
        # Those whose id is known to be taken need a call of their own.
        first = [item for item in items if item.generation == 1]
        output = ""
        try:
            output = self._wandb([str(item.folder) for item in first]) if first else ""
        finally:
            for item in first:
                self._remember(item, output)
        lost = []
        for item in items:
            if not _marker(item).exists():
                taken = item.generation > 1 or id_is_taken(output)
                reason = self._alone(item) if taken else _reason(output)
                if reason is not None:
                    self._notify(f"{item.run_dir.signature}  not uploaded: {reason}")
                    lost.append(item.run_dir.signature)
        return lost

    def _alone(self, item: UploadItem) -> str | None:
        """Upload one run under the next id that W&B accepts; None when it arrived, else why not."""
        reason = ""
        for generation in range(item.generation, item.generation + mirror_record.GENERATIONS):
            run_id = mirror_record.run_id(item.run_dir.signature, generation)
            output = self._wandb(["--id", run_id, str(item.folder)])
            if self._remember(item, output, generation):
                return None
            reason = _reason(output)
            if not id_is_taken(output):
                break
        return reason

    def _wandb(self, arguments: Sequence[str]) -> str:
        """What `wandb sync` printed. Its exit code does not say whether runs arrived; its markers do."""
        options = ["--yes", "-n", str(self._jobs)]
        if self._destination.entity:
            options += ["--entity", self._destination.entity]
        if self._destination.project:
            options += ["--project", self._destination.project]
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "sync", *options, *arguments],
            cwd=self._store.root,  # its log goes to ./wandb
            # At debug level its logs, which are kept in runs/, would hold the API key.
            env={**_PATIENCE, **{name: value for name, value in os.environ.items() if name not in DEBUG}},
            stdin=subprocess.DEVNULL,  # no question may wait for an answer
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            keyless = "API key" in done.stdout
            hint = "`wandb login`, or set WANDB_API_KEY" if keyless else "`wandb sync --help`"
            text = f"sync: `wandb sync` stopped with exit code {done.returncode}: {_reason(done.stdout)}; {hint}"
            raise VitqError(text, "WANDB_API_KEY" if keyless else "wandb sync", None if keyless else done.returncode)
        return done.stdout

    def _remember(self, item: UploadItem, output: str, generation: int = 1) -> bool:
        """Note a run that has arrived in its `tracker.json`; whether it has."""
        if not _marker(item).exists():
            return False
        known = mirror_record.read(item.run_dir)
        run_id = mirror_record.run_id(item.run_dir.signature, generation)
        match = next((m for m in _URL.finditer(output) if m["path"].endswith(run_id)), None)
        url = match["url"] if match else None
        if known is not None:
            upload = mirror_record.Upload(
                at=utc_now(),
                sync_dir=known.sync_dir,
                server=url.partition(f"/{match['entity']}/")[0] if url and match else "",
                entity=match["entity"] if match else self._destination.entity,
                project=match["project"] if match else self._destination.project or "",
                id=run_id,
            )
            update = {"uploaded": upload, "url": url, "id": run_id, "generation": generation}
            mirror_record.write(item.run_dir, known.model_copy(update=update))
        self._notify(f"{item.run_dir.signature}  {url or 'uploaded'}")
        return True


def _marker(item: UploadItem) -> Path:
    """The file that `wandb sync` leaves beside a run when all of it has arrived."""
    assert item.folder is not None
    files = sorted(item.folder.glob("*.wandb"))
    return (files[0] if files else item.folder / "run.wandb").with_suffix(".wandb.synced")


def _reason(output: str) -> str:
    lines = [line.removeprefix("wandb: ").strip() for line in output.splitlines()]
    errors = [line for line in lines if "rror" in line and "detailed error logs" not in line]
    message = " ".join(errors) or " ".join(filter(None, lines[-2:])) or "`wandb sync` said nothing"
    return redacted(message)[:500]
