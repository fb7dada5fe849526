"""Under which name a plan is recorded, so that no sweep takes the record of another one."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Collection
from dataclasses import dataclass

from vitq.config.search_path import SUFFIXES
from vitq.errors import StoreError
from vitq.store import Store, SweepRecord
from vitq.store.drivers import drivers

# Words of a command line that choose no run.
_NO_CHOICE = ("-m", "--multirun", "--again", "--detach", "--dry-run", "--json")
_ELSEWHERE = ("launcher=", "launcher.", "hydra/launcher=", "hydra.launcher.", "tracker=", "tracker.")


@dataclass(frozen=True)
class SweepName:
    """name: of the record. part: the record has these runs among others, and stays as it is. note: a line for people,
    '' where the name is the wanted one and the record that of these runs."""

    name: str
    part: bool = False
    note: str = ""


def sweep_name(store: Store, wanted: str, signatures: Collection[str], command: str) -> SweepName:
    """The name for a plan of these runs.

    The wanted one where no sweep has it, where its record has all of these runs or these runs are all of its record and
    more, and where the same command started it, whose configs have changed since. Otherwise `wanted-2` and so on.
    """
    for number in itertools.count(1):
        name = wanted if number == 1 else f"{wanted}-{number}"
        record = _record(store, name)
        runs = set(record.signatures) if record else set()
        note = (
            "" if number == 1 else f"sweep {wanted} has other runs; these are recorded as {name} (--name renames them)"
        )
        if record is None or runs <= set(signatures):
            return SweepName(name, note=note)
        # The same command, of which nothing runs any more: its files have changed since, and so has the sweep.
        again = _choices(record.command) == _choices(command) and not drivers(store, name)
        if again:
            return SweepName(name, note=note)
        if runs > set(signatures):
            total = f"{len(signatures)} of the {len(runs)} runs of sweep {name}, whose record and report stay whole"
            return SweepName(name, part=True, note=total)
    raise AssertionError("numbers do not end")


def _record(store: Store, name: str) -> SweepRecord | None:
    """The record of a name; None where there is none that can be read: a broken one is archived and replaced."""
    try:
        return store.read_sweep(name) if name in store.sweeps() else None
    except StoreError:
        return None


def _choices(command: str) -> set[str]:
    """The words of a command that choose runs, in any order; a sweep file by its name."""
    try:
        words = shlex.split(command)
    except ValueError:  # typed by hand into a record
        words = command.split()
    chosen = (word for word in words if word not in _NO_CHOICE and not word.startswith(_ELSEWHERE))
    return {word.rpartition("/")[2] if word.endswith(SUFFIXES) else word for word in chosen}
