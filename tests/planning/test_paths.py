"""Stored runs whose images and weights were moved; runs that are computed once more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.errors import refuses
from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.config import ModelConfig, RunConfig, signature
from vitq.errors import ConfigError, StoreError
from vitq.job import provenance
from vitq.planning import compose, paths, planner
from vitq.planning.plan import Plan
from vitq.store import RunDir, Store
from vitq.store.claim import Claim
from vitq.store.history import set_aside

QUICK = ["tracker=none", "model=vit_digits", "bits=w8a8"]


def make(*overrides: str, again: bool = False) -> Plan:
    file, roots = compose.root_config()
    return planner.make(compose.load(file, roots, [*QUICK, *overrides]), again=again)


def lies(run_dir: RunDir) -> tuple[str | None, str | None]:
    """Where a stored run's images and its weights lie."""
    config, problems = RunConfig.parse(run_dir.read_config())
    assert config is not None, problems
    assert signature(config) == run_dir.signature
    return config.data.root, config.model.checkpoint


@pytest.fixture
def stored(engine: FakeEngine, tmp_path: Path) -> RunDir:
    """A finished run of the images `a` and the weights `a.pth`."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a.pth").write_bytes(b"")
    assert main(["run", *QUICK, "data.root=a", "model.checkpoint=a.pth"]) == 0
    (found,) = Store("runs").signatures()
    return Store("runs").run(found)


def test_a_stored_run_gets_new_paths(stored: RunDir, tmp_path: Path) -> None:
    assert lies(stored) == (str(tmp_path / "a"), str(tmp_path / "a.pth"))
    (tmp_path / "a").rename(tmp_path / "b")
    paths.move(stored, ["data.root=b", "+model.checkpoint='a.pth'"])
    assert lies(stored) == (str(tmp_path / "b"), str(tmp_path / "a.pth"))
    before = stored.read_config()
    paths.move(stored, [])
    assert stored.read_config() == before


@pytest.mark.parametrize(
    ("word", "key", "value"), [("seed=3", "seed", "seed=3"), ("data.root=missing", "data.root", "missing")]
)
def test_what_is_no_place_of_it(stored: RunDir, word: str, key: str, value: str) -> None:
    before = stored.read_config()
    with refuses(ConfigError, key=key, value=value):
        paths.move(stored, [word])
    assert stored.read_config() == before


def test_other_weights_are_refused(stored: RunDir, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: ModelConfig) -> ModelConfig:
        return replace(model, weights="b" * 64)

    monkeypatch.setattr(engine, "identify", other)
    before = stored.read_config()
    with refuses(ConfigError, key="model.checkpoint", value="model.checkpoint=b.pth"):
        paths.move(stored, ["model.checkpoint=b.pth"])
    assert stored.read_config() == before


def test_a_plan_notes_paths_where_the_old_ones_are_gone(stored: RunDir, tmp_path: Path) -> None:
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b.pth").write_bytes(b"")
    plan = make("data.root=b", "model.checkpoint=b.pth")
    assert [run.done for run in plan.runs] == [True]
    assert lies(stored)[0] == str(tmp_path / "a"), "a plan writes nothing"
    plan.commit()
    assert lies(stored) == (str(tmp_path / "b"), str(tmp_path / "a.pth")), "weights that are there stay"


def test_again_keeps_the_old_record(stored: RunDir, engine: FakeEngine) -> None:
    words = ["run", *QUICK, "data.root=a", "model.checkpoint=a.pth"]
    first = stored.read_result()
    assert first is not None
    stored.write_probe("hessian", {}, b"picture")
    assert main([*words, "--again", "--dry-run"]) == 0
    assert (main(words), len(engine.executed)) == (0, 1)
    assert main([*words, "--again"]) == 0
    assert len(engine.executed) == 2
    (kept,) = (stored.path / "history").iterdir()
    assert json.loads((kept / "result.json").read_text()) == json.loads(first.to_json())
    assert (kept / "probes" / "hessian.png").read_bytes() == b"picture"
    assert stored.probes() == []
    now = stored.read_result()
    assert now is not None
    assert now.provenance.finished_at != first.provenance.finished_at


def test_a_run_that_somebody_works_on_is_not_set_aside(stored: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Claim, "take", lambda run_dir: None)
        with refuses(StoreError, value=stored.path):
            set_aside(stored)
    assert stored.is_done()
    assert set_aside(stored) is not None
    assert not stored.is_done()
    assert set_aside(stored) is None


def test_a_run_of_other_code_says_so(stored: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", *QUICK, "data.root=a", "model.checkpoint=a.pth"]
    assert make("data.root=a", "model.checkpoint=a.pth").runs[0].other_code == ""
    result = stored.read_result()
    assert result is not None
    code = {**provenance.code(), "source": "0" * 16}
    stored.write_result(result.model_copy(update={"provenance": result.provenance.model_copy(update={"code": code})}))
    assert provenance.source() in make("data.root=a", "model.checkpoint=a.pth").runs[0].other_code
    capsys.readouterr()
    assert main(words) == 0
    assert "--again" in capsys.readouterr().out


def test_images_that_are_newer_than_a_result_are_named(stored: RunDir, engine: FakeEngine) -> None:
    """Folders are known by names and sizes: an edit that keeps the size keeps the signature."""
    words = ["data.root=a", "model.checkpoint=a.pth"]
    finished = stored.result_path.stat().st_mtime
    engine.newest = finished - 1
    assert make(*words).warnings == ()
    engine.newest = finished + 1
    (line,) = make(*words).warnings
    assert line.startswith("data.root=")
    assert "--again" in line
    assert make(*words, again=True).warnings == ()
    assert make(*words, "seed=7").warnings == ()
