"""Sweeps on disk: what they list, what is kept of earlier ones, which names they may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import refuses
from vitq.errors import StoreError
from vitq.store import Store, SweepRecord


def test_sweep_history_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one = SweepRecord(
        name="demo", signatures=["a"], axes={"method": ["minmax", "mse"]}, created_at="2026-01-01T00:00:00Z"
    )
    store.write_sweep(one)
    store.write_sweep(one.model_copy(update={"created_at": "2026-01-02T00:00:00Z"}))
    assert store.read_sweep("demo") == one, "the same plan again changes nothing"
    assert not (tmp_path / "sweeps/history").exists()
    two = one.model_copy(update={"signatures": ["a", "b"]})
    three = one.model_copy(update={"signatures": ["c"]})
    store.write_sweep(two)
    store.write_sweep(three)
    assert store.read_sweep("demo") == three
    kept = [SweepRecord.model_validate_json((tmp_path / f"sweeps/history/demo-{n}.json").read_text()) for n in (1, 2)]
    assert kept == [one, two]
    assert store.sweeps() == ["demo"]


def test_a_broken_sweep_record_is_named_and_kept_when_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/demo.json").write_text("{half")
    with refuses(StoreError, key="JSON", value=tmp_path / "sweeps" / "demo.json"):
        store.read_sweep("demo")
    store.write_sweep(SweepRecord(name="demo", signatures=["a"]))
    assert store.read_sweep("demo").signatures == ["a"]
    assert (tmp_path / "sweeps/history/demo-1.json").read_text() == "{half"


def test_unknown_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with refuses(StoreError, key="sweep", value="demo"):
        store.read_sweep("demo")
    store.write_sweep(SweepRecord(name="demo", signatures=[]))
    with refuses(StoreError, key="sweep", value="dmo", valid=["demo"]):
        store.read_sweep("dmo")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "history", "a.json", "a" * 101, "a ", "x\ny", ".hidden"])
def test_sweep_names_that_cannot_be_files(tmp_path: Path, name: str) -> None:
    with refuses(StoreError, key="sweep", value=name):
        Store(tmp_path).write_sweep(SweepRecord(name=name, signatures=[]))


@pytest.mark.parametrize("name", ["demo", "w4a4, seeds=0-2", "v1.5", "_x", "a" * 100])
def test_sweep_names_that_can(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    store.write_sweep(SweepRecord(name=name, signatures=["a"]))
    assert store.sweeps() == [name]
    assert store.sweep_folder(name) == tmp_path / "sweeps" / name
