"""The folder of one run: every path in it, and how each record is written and read."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vitq.errors import StoreError
from vitq.store import files
from vitq.store.atomic import write_bytes
from vitq.store.record import utc_now
from vitq.store.result import Result
from vitq.store.status import Status

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# libyaml where PyYAML was built with it: ten times faster, same language.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # `&id001` in a config file is hard to read


class RunDir:
    """The one class that owns the paths of a run. All writes are atomic; all failures are StoreError."""

    def __init__(self, path: Path):
        self.path = path
        self.signature = path.name
        self.config_path = path / "config.yaml"
        self.status_path = path / "status.json"
        self.result_path = path / "result.json"
        self.claim_path = path / "claim"
        self.sites_path = path / "sites.parquet"
        self.predictions_path = path / "predictions.npz"
        self.samples_path = path / "samples.npz"
        self.model_path = path / "model.safetensors"
        self.deploy_dir = path / "deploy"
        self.artifacts_dir = path / "artifacts"
        self.state_dir = path / "state"
        self.probes_dir = path / "probes"
        self.probe_state_dir = self.probes_dir / "state"
        self.tracker_path = path / "tracker.json"
        self.log_path = path / "log.txt"

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    def write_config(self, config: dict[str, Any]) -> None:
        """Store the resolved config (plain dicts, lists and scalars; `RunConfig.to_dict()`)."""
        try:
            text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        except yaml.YAMLError as error:
            text = f"cannot write {self.config_path}: not a plain config ({error}); pass RunConfig.to_dict()"
            raise StoreError(text, value=self.config_path) from error
        write_bytes(self.config_path, text.encode())

    def read_config(self) -> dict[str, Any]:
        """The stored config. Raises StoreError when there is none (the run was never planned) or it is unreadable."""
        data = files.read_bytes(self.config_path)
        if data is None:
            text = f"no config at {self.config_path}: run {self.signature} was never planned"
            raise StoreError(f"{text}; plan it with `vitq run` or `vitq sweep`", value=self.config_path)
        remedy = "remove the file and plan the run again"
        try:
            config = yaml.load(data, Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise files.unreadable(self.config_path, error, remedy) from error
        if not isinstance(config, dict):
            raise files.unreadable(self.config_path, f"a mapping is expected, not a {type(config).__name__}", remedy)
        return config

    def write_status(self, status: Status) -> None:
        write_bytes(self.status_path, status.to_json().encode())

    def read_status(self) -> Status | None:
        """The stored status, None when there is none. Raises StoreError when it is unreadable."""
        return files.read_record(self.status_path, Status, "remove the file; the next start of the run writes it anew")

    def status_hint(self) -> Status | None:
        """The stored status, None when it is absent or unreadable: a hint never stops a run."""
        return files.read_hint(self.status_path, Status)

    @property
    def attempt(self) -> int:
        """Number of the last execution that began, 0 before the first or where the status is unreadable."""
        status = self.status_hint()
        return status.attempt if status is not None and status.state != "planned" else 0

    def failure_after(self, attempt: int) -> Status | None:
        """The last status where it is the failure of a later execution than `attempt`, else None."""
        status = self.status_hint()
        failed = status is not None and status.state == "failed" and status.attempt > attempt
        return status if failed else None

    def fail(self, reason: str, traceback: str | None = None, timed_out: bool = False, overwrite: bool = False) -> None:
        """Record, in status and log, that the run ended without a result, where its own process could not.

        A failure that is recorded already says more and stays, except with overwrite. Raises StoreError.
        """
        status = self.status_hint()
        if status is not None and status.state == "failed" and not overwrite:
            return
        known = {"host": socket.gethostname()} if status is None else status.model_dump()
        failure = {"state": "failed", "error": reason, "traceback": traceback, "timed_out": timed_out}
        self.write_status(Status(**known | failure | {"updated_at": utc_now()}))
        self.append_log(f"{utc_now()} {(traceback or reason).rstrip()}\n")

    def write_result(self, result: Result) -> None:
        """Store the result; from then on the run is done. Raises StoreError when it is of another run."""
        if result.signature != self.signature:
            text = f"cannot write {self.result_path}: the result is of run {result.signature}"
            raise StoreError(f"{text}, this is {self.signature}", "signature", result.signature, [self.signature])
        write_bytes(self.result_path, result.to_json().encode())

    def read_result(self) -> Result | None:
        """The stored result, None when there is none.

        Raises StoreError, naming the file and the remedy, when it is unreadable, invalid or of another run.
        """
        remedy = "move the file away and start the run again"
        result = files.read_record(self.result_path, Result, remedy)
        if result is not None and result.signature != self.signature:
            raise files.unreadable(self.result_path, f"it is of run {result.signature}", remedy, "signature")
        return result

    def require_result(self) -> Result:
        """The stored result. Raises StoreError when there is none, or none that is valid."""
        result = self.read_result()
        if result is None:
            shown = f"`vitq logs {self.signature}` shows what it wrote, `vitq run` and `vitq retry` execute it"
            raise StoreError(f"run {self.signature} has no result yet; {shown}", "result", self.signature)
        return result

    def is_done(self) -> bool:
        """Whether a valid result is stored: False when it is absent, and when it is invalid.

        Raises StoreError when the disk refuses to say: that is no reason to repeat a finished run.
        """
        if files.read_bytes(self.result_path) is None:
            return False
        try:
            return self.read_result() is not None
        except StoreError:
            return False

    def write_sites(self, sites: pd.DataFrame) -> None:
        """Store the table of sites: one row each, columns site, kind, shape ('192x768'), elements, quantizer,
        granularity, bits (32 = floating point), mse, sqnr_db."""
        files.write_table(self.sites_path, sites)

    def read_sites(self) -> pd.DataFrame:
        """The table of sites. Raises StoreError when it is absent or unreadable."""
        return self._table(self.sites_path)

    def artifact_path(self, name: str) -> Path:
        """Where the table that a step left under `name` lies."""
        return self.artifacts_dir / f"{name}.parquet"

    def write_artifact(self, name: str, table: pd.DataFrame) -> None:
        """Store a table that a step of the method left, e.g. the path of a bit allocation."""
        files.write_table(self.artifact_path(name), table)

    def artifacts(self) -> list[str]:
        """Names of the tables that steps left, sorted."""
        return sorted(path.stem for path in self.artifacts_dir.glob("*.parquet"))

    def read_artifact(self, name: str) -> pd.DataFrame:
        """A table of `write_artifact`. Raises StoreError when it is absent or unreadable."""
        return self._table(self.artifact_path(name))

    def write_predictions(self, arrays: dict[str, np.ndarray]) -> None:
        """Store what was predicted per image, N images in dataset order: `correct` bool (N,), `label` int64 (N,),
        `topk_index` int32 (N, k), `topk_logit` float32 (N, k), k = min(5, classes), `kl` float64 (N,): KL to full
        precision, nats, absent in runs of version 0.1. Equal arrays, equal bytes."""
        files.write_arrays(self.predictions_path, arrays)

    def read_predictions(self) -> dict[str, np.ndarray]:
        """The arrays of `write_predictions`. Raises StoreError when they are absent or unreadable."""
        return files.arrays_of(self._required(self.predictions_path), self.predictions_path, self._again)

    def write_samples(self, arrays: dict[str, np.ndarray]) -> None:
        """Store a few images with what both networks found in them (vitq.tasks.samples)."""
        files.write_arrays(self.samples_path, arrays)

    def read_samples(self) -> dict[str, np.ndarray] | None:
        """The arrays of `write_samples`, None when there are none. Raises StoreError when they are unreadable."""
        data = files.read_bytes(self.samples_path)
        return None if data is None else files.arrays_of(data, self.samples_path, self._again)

    def probe_path(self, name: str) -> Path:
        return self.probes_dir / f"{name}.npz"

    def probe_picture_path(self, name: str) -> Path:
        return self.probes_dir / f"{name}.png"

    def probes(self) -> list[str]:
        """Names of the probes that are complete, sorted."""
        return sorted(path.stem for path in self.probes_dir.glob("*.npz"))

    def write_probe(self, name: str, arrays: dict[str, np.ndarray], picture: bytes) -> None:
        """Store a complete probe: the picture (PNG) first, so that the arrays say that both are there."""
        write_bytes(self.probe_picture_path(name), picture)
        files.write_arrays(self.probe_path(name), arrays)

    def read_probe(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of `write_probe`, None when there are none. Raises StoreError when they are unreadable."""
        path, remedy = self.probe_path(name), f"remove it and run `vitq probe {self.signature}` again"
        data = files.read_bytes(path)
        return None if data is None else files.arrays_of(data, path, remedy)

    def clear_probe(self, name: str) -> None:
        """Remove a probe, complete or not."""
        for path in (self.probe_path(name), self.probe_picture_path(name), self.probe_state_path(name)):
            path.unlink(missing_ok=True)

    def probe_state_path(self, name: str) -> Path:
        """Where a probe that is not complete keeps what it has."""
        return self.probe_state_dir / f"{name}.npz"

    def write_probe_state(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep what an unfinished probe has."""
        files.write_arrays(self.probe_state_path(name), arrays)

    def read_probe_state(self, name: str) -> dict[str, np.ndarray] | None:
        """What an unfinished probe had; None where there is nothing, or nothing readable: it is computed again."""
        path = self.probe_state_path(name)
        data = files.read_bytes(path)
        try:
            return None if data is None else files.arrays_of(data, path, "")
        except StoreError:
            return None

    def clear_probe_state(self, name: str | None = None) -> None:
        """Remove what an unfinished probe had; without a name, what all of them had."""
        if name is None:
            shutil.rmtree(self.probe_state_dir, ignore_errors=True)
        else:
            self.probe_state_path(name).unlink(missing_ok=True)

    def append_log(self, text: str) -> None:
        """Add to what the attempts of the run wrote. Raises StoreError when the disk refuses."""
        try:
            with self.log_path.open("a", encoding="utf-8") as log:
                log.write(text)
        except OSError as error:
            why = f"{error.strerror or error}; free space or permissions there, and start again"
            raise StoreError(f"cannot write {self.log_path}: {why}", value=self.log_path) from error

    def read_log(self) -> str:
        """What the attempts of the run wrote, empty before the first. Raises StoreError when it cannot be read."""
        return (files.read_bytes(self.log_path) or b"").decode(errors="replace")

    def clear_state(self) -> None:
        """Remove what a killed run would have gone on from. Raises StoreError when the disk refuses."""
        files.remove(self.state_dir)

    @property
    def _again(self) -> str:
        return f"move {self.path} away and start the run again"

    def _table(self, path: Path) -> pd.DataFrame:
        return files.table_of(self._required(path), path, self._again)

    def _required(self, path: Path) -> bytes:
        data = files.read_bytes(path)
        if data is None:
            why = "the run is not finished, or the file was removed"
            raise StoreError(f"no {path.name} in {self.path}: {why}; {self._again}", value=path)
        return data
