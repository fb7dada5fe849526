"""The driver processes of a sweep, which hand out its runs: recorded so that `vitq cancel` can signal them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitq.store import claim
from vitq.store.atomic import write_bytes
from vitq.store.files import read_hint
from vitq.store.store import Store


@contextmanager
def driving(store: Store, sweep: str) -> Iterator[claim.Owner]:
    """This process drives a sweep as long as the context lasts; yields what stands for it. Raises StoreError when the
    disk refuses."""
    process = claim.this_process()
    path = _folder(store, sweep) / f"{process.token}.json"
    write_bytes(path, process.to_json().encode())
    try:
        yield process
    finally:
        path.unlink(missing_ok=True)


def drivers(store: Store, sweep: str) -> list[claim.Owner]:
    """Those that are alive; the records of dead ones are removed."""
    alive = []
    for path in sorted(_folder(store, sweep).glob("*.json")):
        owner = read_hint(path, claim.Owner)
        if owner is None or claim.is_dead(owner, path):
            path.unlink(missing_ok=True)
        else:
            alive.append(owner)
    return alive


def _folder(store: Store, sweep: str) -> Path:
    return store.sweep_folder(sweep) / "drivers"
