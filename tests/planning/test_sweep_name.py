"""No sweep takes the record of another one, and a part of a sweep leaves the whole as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.planning.sweep_name import sweep_name
from vitq.store import Store, SweepRecord
from vitq.store.drivers import driving

COMMAND = "vitq sweep s"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.write_sweep(SweepRecord(name="s", signatures=["a", "b"], command=COMMAND))
    return store


@pytest.mark.parametrize(
    ("runs", "command", "name", "part"),
    [
        ("ab", "vitq sweep s launcher=local", "s", False),
        ("abc", "vitq sweep s seed=0,1", "s", False),
        ("a", "vitq sweep s seed=0", "s", True),
        ("c", "vitq sweep s seed=2", "s-2", False),
        ("bc", "vitq sweep s seed=0,2", "s-2", False),
        ("c", "vitq sweep --json s tracker=none", "s", False),  # its file has changed
        ("a", "vitq sweep /some/where/s", "s", True),
    ],
)
def test_whose_record_it_is(store: Store, runs: str, command: str, name: str, part: bool) -> None:
    found = sweep_name(store, "s", list(runs), command)
    assert (found.name, found.part) == (name, part)
    assert bool(found.note) == (part or name != "s")


def test_a_number_is_found_again(store: Store) -> None:
    store.write_sweep(SweepRecord(name="s-2", signatures=["c"], command="vitq sweep s seed=2"))
    assert sweep_name(store, "s", ["c"], "vitq sweep s seed=2").name == "s-2"
    assert sweep_name(store, "s", ["d"], "vitq sweep s seed=3").name == "s-3"


def test_what_a_driver_executes_is_not_replaced(store: Store) -> None:
    with driving(store, "s"):
        assert sweep_name(store, "s", ["c"], COMMAND).name == "s-2"
        assert sweep_name(store, "s", ["a"], COMMAND) == sweep_name(store, "s", ["a"], "another command")
    assert sweep_name(store, "s", ["c"], COMMAND).name == "s"


def test_a_broken_record_is_replaced(store: Store, tmp_path: Path) -> None:
    (tmp_path / "sweeps" / "s.json").write_text("{half")
    assert sweep_name(store, "s", ["c"], COMMAND).name == "s"


def test_two_multiruns_keep_their_own_records(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-m", "tracker=none"]
    assert main([*words, "bits=w8a8", "seed=1,2"]) == 0
    assert main([*words, "bits=w4a4", "seed=1,2"]) == 0
    assert "multirun-2" in capsys.readouterr().err
    store = Store("runs")
    assert store.sweeps() == ["multirun", "multirun-2"]
    assert len(engine.executed) == 4
    assert main([*words, "bits=w4a4", "seed=1,2"]) == 0
    assert store.sweeps() == ["multirun", "multirun-2"]
    assert main([*words, "bits=w4a4", "seed=1,2", "--name", "mine"]) == 0
    assert store.read_sweep("mine").signatures == store.read_sweep("multirun-2").signatures


def test_a_part_of_a_sweep_prints_itself_and_leaves_record_and_report_whole(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "s.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {sweeper: {params: {method: 'minmax,mse', bits: 'w8a8,w4a4'}}}\n"
    )
    assert main(["sweep", "s", "tracker=none"]) == 0
    store = Store("runs")
    before, page = store.read_sweep("s"), store.sweep_folder("s") / "report.csv"
    assert main(["sweep", "s", "tracker=none", "method=mse", "bits=w4a4"]) == 0
    captured = capsys.readouterr()
    assert "1 of the 4 runs of sweep s" in captured.err
    assert captured.out.rstrip().splitlines()[-6:] != []
    assert store.read_sweep("s") == before
    assert len(page.read_text().splitlines()) == 5
    assert main(["sweep", "s", "tracker=none", "method=mse", "bits=w4a4", "--json"]) == 0
    import json

    assert len(json.loads(capsys.readouterr().out)["runs"]) == 1
    # What was once in a sweep is no orphan.
    (tmp_path / "sweeps" / "s.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {sweeper: {params: {method: minmax, bits: w8a8}}}\n"
    )
    assert main(["sweep", "s", "tracker=none"]) == 0
    assert len(store.read_sweep("s").signatures) == 1
    capsys.readouterr()
    assert main(["gc", "--orphans", "--yes"]) == 0
    assert len([name for name in store.signatures() if store.run(name).is_done()]) == 4
