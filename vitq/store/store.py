"""`runs_dir`: one folder per run, named by its signature, and the list of sweeps."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitq.config.sweep import NAME
from vitq.errors import StoreError, unknown
from vitq.store.atomic import write_bytes
from vitq.store.files import read_bytes, read_hint, read_record
from vitq.store.run import Run
from vitq.store.rundir import RunDir
from vitq.store.submissions import Submissions
from vitq.store.sweeps import SweepRecord

_SIGNATURE = re.compile(r"(?!(sweeps|slurm)$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Store:
    """All runs and sweeps under one root (`~` is expanded). Nothing is created before the first write."""

    def __init__(self, root: str | os.PathLike[str]):
        # Absolute, so that a change of the working directory cannot move the store.
        self.root = Path(root).expanduser().absolute()
        self.sweeps_path = self.root / "sweeps"
        self.submissions = Submissions(self.root)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    def run(self, signature: str) -> RunDir:
        """The folder of a run, whether it exists or not. Raises StoreError when this cannot be a signature."""
        if not _SIGNATURE.fullmatch(signature):
            raise StoreError(
                f"{signature!r} is not a signature (16 hex digits); `vitq status SWEEP` lists those of a sweep",
                "signature",
                signature,
            )
        return RunDir(self.root / signature)

    def signatures(self) -> list[str]:
        """Signatures of all planned runs (those with a config), sorted. Raises StoreError when root is unreadable."""
        try:
            names = [entry.name for entry in self.root.iterdir()] if self.root.exists() else []
        except OSError as error:
            raise StoreError(
                f"cannot list {self.root}: {error.strerror}; give a folder of runs with runs_dir=DIR",
                "runs_dir",
                self.root,
            ) from error
        return sorted(name for name in names if _SIGNATURE.fullmatch(name) and self.run(name).config_path.is_file())

    def find(self, beginning: str) -> Run:
        """The one planned run whose signature begins so. Raises StoreError when there is none, or more than one."""
        matching = [name for name in self.signatures() if name.startswith(beginning)]
        if len(matching) == 1 or beginning in matching:
            return Run(self.run(beginning if beginning in matching else matching[0]))
        if not matching:
            text = f"no run of {self.root} begins with {beginning!r}; `vitq list runs` lists signatures"
        else:
            text = f"{len(matching)} runs begin with {beginning!r}: {', '.join(matching[:5])}; give more of it"
        raise StoreError(text, "signature", beginning, matching)

    def write_sweep(self, record: SweepRecord, grown: bool = False) -> None:
        """Store a sweep. One that says the same as the stored one (creation time aside) changes nothing; one that is
        replaced goes to `sweeps/history/<name>-<n>.json` first, unless it was `grown` into this one, which says all
        that it says, of more runs."""
        path = self._sweep_path(record.name)
        old = read_bytes(path)
        if old is not None:
            stored = read_hint(path, SweepRecord)  # an unreadable one is archived as it is, and replaced
            if stored is not None and stored.model_copy(update={"created_at": record.created_at}) == record:
                return
            if not grown:
                self._archive(record.name, old)
        write_bytes(path, record.to_json().encode())

    def read_sweep(self, name: str) -> SweepRecord:
        """A sweep's record. Raises StoreError when there is none of that name, or when it is unreadable."""
        earlier = f"an earlier version may lie in {self.sweeps_path / 'history'}"
        remedy = f"{earlier}; or move the file away and start the sweep again"
        record = read_record(self._sweep_path(name), SweepRecord, remedy)
        if record is None:
            where = f"No sweep of that name was started with {self.root}; start it with `vitq sweep {name}`."
            if not self.sweeps():
                raise StoreError(f"unknown sweep {name!r}; there are none yet. {where}", "sweep", name)
            raise StoreError(unknown("sweep", name, self.sweeps(), where, key="sweep"))
        return record

    def runs_of(self, sweep: str) -> list[Run]:
        """The runs of a sweep, in the order of its plan. Raises as `read_sweep`."""
        return [Run(self.run(signature)) for signature in self.read_sweep(sweep).signatures]

    def sweeps(self) -> list[str]:
        """Names of all sweeps, sorted."""
        names = (path.stem for path in self.sweeps_path.glob("*.json") if path.is_file())
        return sorted(name for name in names if NAME.fullmatch(name))

    def read_sweeps(self) -> tuple[list[SweepRecord], dict[str, StoreError]]:
        """The records of all sweeps, sorted by name, and why some cannot be read, by name: one hides no other."""
        records, broken = [], {}
        for name in self.sweeps():
            try:
                records.append(self.read_sweep(name))
            except StoreError as error:
                broken[name] = error
        return records, broken

    def earlier_signatures(self) -> set[str]:
        """Signatures of runs that earlier records of sweeps list, of the readable ones."""
        listed: set[str] = set()
        for path in (self.sweeps_path / "history").glob("*.json"):
            record = read_hint(path, SweepRecord)  # None: it never was readable, and was archived as it was
            listed.update(record.signatures if record else ())
        return listed

    def sweep_folder(self, name: str) -> Path:
        """Where the reports of a sweep go: `<root>/sweeps/<name>`. Raises StoreError for an impossible name."""
        return self._sweep_path(name).with_suffix("")

    def _sweep_path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise StoreError(
                f"sweep name {name!r} cannot be a file name; valid: up to 100 letters, digits and any of '_.+=, -', "
                "starting with a letter or digit, not ending in '.json', and not 'history'",
                "sweep",
                name,
            )
        return self.sweeps_path / f"{name}.json"

    def _archive(self, name: str, old: bytes) -> None:
        history = self.sweeps_path / "history"
        number = 1
        while (kept := read_bytes(history / f"{name}-{number}.json")) is not None:
            if kept == old:  # archived by a start that died before it wrote the new record
                return
            number += 1
        write_bytes(history / f"{name}-{number}.json", old)
