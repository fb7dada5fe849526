"""`runs_dir`: one folder per run, named by its signature, and the list of sweeps."""

from __future__ import annotations

import re
from pathlib import Path

from vitq.errors import StoreError
from vitq.store.run import Run
from vitq.store.rundir import RunDir
from vitq.store.submissions import Submissions
from vitq.store.sweeps import SweepRecord, Sweeps

_SIGNATURE = re.compile(r"(?!(sweeps|slurm)$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Store:
    """All runs and sweeps under one root (`~` is expanded). Nothing is created before the first write."""

    def __init__(self, root: str | Path):
        # Absolute, so that a change of the working directory cannot move the store.
        self.root = Path(root).expanduser().absolute()
        self._sweeps = Sweeps(self.root / "sweeps")
        self.submissions = Submissions(self.root)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

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
            text = f"no run of {self.root} begins with {beginning!r}; `vitq status SWEEP` lists signatures"
        else:
            text = f"{len(matching)} runs begin with {beginning!r}: {', '.join(matching[:5])}; give more of it"
        raise StoreError(text, "signature", beginning, matching)

    def write_sweep(self, record: SweepRecord, grown: bool = False) -> None:
        """Store a sweep; an earlier, different record of that name is kept under `sweeps/history` unless this one has
        only `grown` from it."""
        self._sweeps.write(record, grown)

    def read_sweep(self, name: str) -> SweepRecord:
        """A sweep's record. Raises StoreError when it is unknown or unreadable."""
        return self._sweeps.read(name)

    def sweeps(self) -> list[str]:
        """Names of all sweeps, sorted."""
        return self._sweeps.names()

    def sweep_folder(self, name: str) -> Path:
        """Where the reports of a sweep go: `<root>/sweeps/<name>`."""
        return self._sweeps.folder(name)
