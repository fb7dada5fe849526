"""The run store: round trips, torn writes, weird paths, full and read-only disks."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.errors import refuses
from vitq.errors import StoreError
from vitq.store import RunDir, Store, SweepRecord
from vitq.store.result import Result
from vitq.store.status import Status

SIG = "0123456789abcdef"
GOLDEN = Path(__file__).parent / "golden" / "result.json"
SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=15
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return Store(tmp_path / "runs").run(SIG)


def raw(**changes: Any) -> dict[str, Any]:
    """The golden result as a plain dict, with changes."""
    plain: dict[str, Any] = json.loads(GOLDEN.read_text())
    return plain | changes


@SETTINGS
@given(config=st.dictionaries(st.text(), PLAIN, max_size=4))
def test_config_round_trip(tmp_path: Path, config: dict[str, Any]) -> None:
    run = Store(tmp_path / "runs").run(SIG)
    run.write_config(config)
    assert run.read_config() == config


def test_config_keeps_order_and_types(run: RunDir) -> None:
    shared = [1, 2]
    config = {"z": "1e-5", "a": 1e-5, "yes": "no", "bits": "fp", "list": shared, "again": shared, "é": "日本 \x85 '\""}
    run.write_config(config)
    assert list(run.read_config().items()) == list(config.items())
    assert "&id" not in run.config_path.read_text(encoding="utf-8")


def test_config_refuses_what_is_not_plain(run: RunDir) -> None:
    with refuses(StoreError, value=run.config_path):
        run.write_config({"path": Path("x")})
    assert not run.config_path.exists()


@SETTINGS
@given(values=st.lists(st.floats(), min_size=3, max_size=3), note=st.text())
def test_result_and_status_round_trip(tmp_path: Path, values: list[float], note: str) -> None:
    run = Store(tmp_path / "runs").run(SIG)
    metrics = raw()["metrics"] | dict(zip(["top1", "nll", "kl"], values, strict=True))
    result = Result(**raw(metrics=metrics, config={"note": note}))
    run.write_result(result)
    assert run.read_result() == result
    status = Status(state="running", note=note, error=note, stage=note)
    run.write_status(status)
    assert run.read_status() == status


@SETTINGS
@given(
    mse=st.lists(st.floats(width=64), min_size=1, max_size=5),
    bits=st.integers(2, 32),
    site=st.text(st.characters(codec="utf-8")),
)
def test_sites_round_trip(tmp_path: Path, mse: list[float], bits: int, site: str) -> None:
    run = Store(tmp_path / "runs").run(SIG)
    sites = pd.DataFrame({"site": [site] * len(mse), "shape": "192x768", "bits": bits, "mse": mse})
    run.write_sites(sites)
    pd.testing.assert_frame_equal(run.read_sites(), sites)


def test_artifacts_round_trip_beside_each_other(run: RunDir) -> None:
    path = pd.DataFrame({"step": [0, 1], "site": [None, "head.weight"], "to_bits": pd.array([None, 7], dtype="Int64")})
    run.write_artifact("allocation_path", path)
    run.write_artifact("other", path.head(1))
    pd.testing.assert_frame_equal(run.read_artifact("allocation_path"), path)
    assert len(run.read_artifact("other")) == 1
    assert run.artifact_path("other") == run.path / "artifacts" / "other.parquet"
    run.artifact_path("other").write_bytes(b"broken")
    with refuses(StoreError, value=run.artifact_path("other")):
        run.read_artifact("other")
    with refuses(StoreError, value=run.artifact_path("absent")):
        run.read_artifact("absent")


@SETTINGS
@given(seed=st.integers(0, 9), n=st.integers(0, 40), k=st.integers(1, 5))
def test_predictions_round_trip(tmp_path: Path, seed: int, n: int, k: int) -> None:
    run = Store(tmp_path / "runs").run(SIG)
    rng = np.random.default_rng(seed)
    arrays = {
        "correct": rng.random(n) < 0.5,
        "label": rng.integers(0, 1000, n),
        "topk_index": rng.integers(0, 1000, (n, k)).astype(np.int32),
        "topk_logit": rng.standard_normal((n, k)).astype(np.float32),
    }
    run.write_predictions(arrays)
    first = run.predictions_path.read_bytes()
    back = run.read_predictions()
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    run.write_predictions(arrays)
    assert run.predictions_path.read_bytes() == first


def test_predictions_refuse_objects(run: RunDir) -> None:
    with refuses(StoreError, key="label", value=run.predictions_path):
        run.write_predictions({"label": np.array([{}])})


# --- absent, broken, foreign


def test_nothing_is_created_by_reading(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    assert store.signatures() == []
    assert store.sweeps() == []
    run = store.run(SIG)
    assert run.read_result() is None
    assert run.read_status() is None
    assert not run.is_done()
    reads = {run.config_path: run.read_config, run.sites_path: run.read_sites}
    reads[run.predictions_path] = run.read_predictions
    for path, read in reads.items():
        with refuses(StoreError, value=path):
            read()
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "JSON"),
        (b'{"signature": "01', "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "record"),
        (b'{"signature": "0123456789abcdef"}', "config"),
        (json.dumps({key: value for key, value in raw().items() if key != "metrics"}).encode(), "metrics"),
        (json.dumps(raw(schema_version=7)).encode(), "schema_version"),
        (json.dumps(raw(signature="f" * 16)).encode(), "signature"),
    ],
)
def test_broken_results(run: RunDir, content: bytes, key: str) -> None:
    run.path.mkdir(parents=True)
    run.result_path.write_bytes(content)
    assert not run.is_done()
    with refuses(StoreError, key=key, value=run.result_path):
        run.read_result()
    run.write_result(Result(**raw()))
    assert run.is_done()


def test_a_disk_that_cannot_be_read_is_not_the_same_as_not_done(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_result(Result(**raw()))

    def refuse(self: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with refuses(StoreError, value=run.result_path):
        run.is_done()


def test_a_result_of_another_run_is_refused(run: RunDir) -> None:
    with refuses(StoreError, key="signature", value="f" * 16, valid=[run.signature]):
        run.write_result(Result(**raw(signature="f" * 16)))
    assert not run.result_path.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"\x93NUMPY", b"PAR1 half"])
def test_broken_arrays_and_tables(run: RunDir, content: bytes) -> None:
    run.path.mkdir(parents=True)
    for path in (run.sites_path, run.predictions_path):
        path.write_bytes(content)
    with refuses(StoreError, value=run.sites_path):
        run.read_sites()
    with refuses(StoreError, value=run.predictions_path):
        run.read_predictions()


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"a: [1", b"a: !!python/object:os.system {}", b"\xff\xfe\xfa"])
def test_broken_configs(run: RunDir, content: bytes) -> None:
    run.path.mkdir(parents=True)
    run.config_path.write_bytes(content)
    with refuses(StoreError, value=run.config_path):
        run.read_config()


def test_truncated_predictions_at_every_length(run: RunDir) -> None:
    run.write_predictions({"correct": np.ones(5, bool), "label": np.arange(5)})
    whole = run.predictions_path.read_bytes()
    for length in range(0, len(whole), 7):
        run.predictions_path.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            run.read_predictions()


# --- the store


@pytest.mark.parametrize(
    "name", ["with space", "quote'\"double", "semi;colon & $HOME", "new\nline", "日本", "per%cent", "-dash"]
)
def test_weird_roots(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / name / "runs")
    run = store.run(SIG)
    run.write_config({"a": 1})
    run.write_result(Result(**raw()))
    run.write_sites(pd.DataFrame({"site": ["a"]}))
    run.write_predictions({"correct": np.ones(2, bool)})
    store.write_sweep(SweepRecord(name="demo", signatures=[SIG]))
    again = Store(str(tmp_path / name / "runs"))
    assert again.signatures() == [SIG]
    assert again.run(SIG).is_done()
    assert again.sweeps() == ["demo"]
    assert len(again.run(SIG).read_sites()) == 1
    assert again.run(SIG).read_predictions()["correct"].all()


def test_home_is_expanded_and_the_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/runs").root == tmp_path / "runs"
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    monkeypatch.chdir("/")
    store.run(SIG).write_config({})
    assert (tmp_path / "runs" / SIG / "config.yaml").is_file()


def test_signatures_are_the_planned_runs_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("bbbb", "aaaa"):
        store.run(name).write_config({})
    (tmp_path / "cccc").mkdir()
    (tmp_path / "wandb").mkdir()
    (tmp_path / "notes.txt").write_text("")
    store.write_sweep(SweepRecord(name="s", signatures=["aaaa"]))
    assert store.signatures() == ["aaaa", "bbbb"]


@pytest.mark.parametrize("signature", ["", "..", "a/b", "sweeps", "/etc", "a" * 65, "a.b", "a\n"])
def test_what_is_no_signature(tmp_path: Path, signature: str) -> None:
    with refuses(StoreError, key="signature", value=signature):
        Store(tmp_path).run(signature)
