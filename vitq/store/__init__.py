"""The record of runs and sweeps under `runs_dir`: the truth, written atomically. Everything else mirrors it."""

from vitq.store.run import Run
from vitq.store.rundir import RunDir
from vitq.store.store import Store
from vitq.store.sweeps import SweepRecord

__all__ = ["Run", "RunDir", "Store", "SweepRecord"]
