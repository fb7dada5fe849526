"""Probes of a run: kept, resumed, limited, and never at the run's cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic.dataclasses import dataclass

from tests.errors import command_refuses, is_about, refuses
from tests.job.planner import Planner
from vitq import cli
from vitq.config import ProbeConfig, RunConfig
from vitq.config.base import RULES
from vitq.errors import Problem, VitqError
from vitq.job.requantize import requantize
from vitq.probes.budget import BudgetSpentError, PartialResults
from vitq.probes.probe import PROBES, Probe, problems
from vitq.probes.probed_model import Subject
from vitq.probes.run_probes import perform
from vitq.probes.stored_probe import meta_of
from vitq.progress import Progress
from vitq.store import RunDir, Store
from vitq.store.claim import Claim
from vitq.store.cleanup import garbage

OPTIONS: dict[str, Any] = {"points": 3, "line_points": 3, "block_points": 3}
PROBE: dict[str, Any] = {"options": {"landscape": OPTIONS}, "images": 16}


@dataclass(frozen=True, config=RULES)
class Broken(Probe):
    """Fails after one piece."""

    calls: ClassVar[list[int]] = []

    def passes(self, config: RunConfig) -> float:
        return 1

    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        self.calls.append(len(subject.images))
        raise RuntimeError("the picture fell down")

    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        return Figure()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROBES, "_items", {**PROBES._items, "broken": Broken})


def outcomes(run_dir: RunDir, subject: Callable[[], Subject], again: bool = False, **probe: Any) -> list[Any]:
    return list(perform(run_dir, subject, ProbeConfig(**{**PROBE, **probe}), again))


def test_partial_results_keep_what_there_is_and_stop_in_time() -> None:
    now, kept = [0.0], {}

    def make(key: str = "a") -> PartialResults:
        return PartialResults(
            key, dict(kept) or None, lambda arrays: kept.update(arrays), 30.0, Progress(), lambda: now[0]
        )

    first = make()
    values = first.array("x", (4,))
    assert np.isnan(values).all()
    values[:2] = 1, 2
    now[0] = 10
    first.tick()
    assert not kept, "nothing is written every few seconds"
    now[0] = 25
    first.tick()
    assert kept["x"].tolist()[:2] == [1, 2]
    values[2] = 3
    now[0] = 31
    with pytest.raises(BudgetSpentError):
        first.tick()
    second = make()
    assert second.array("x", (4,)).tolist()[:3] == [1, 2, 3]
    assert second.seconds == 31
    assert np.isnan(second.array("x", (5,))).all(), "of another shape"
    assert np.isnan(make("b").array("x", (4,))).all(), "measured under other conditions"


def test_a_run_with_probes_has_the_same_result_as_one_without(planner: Planner, tmp_path: Path) -> None:
    plain = planner.plan()
    expected = planner.execute(plain)
    (tmp_path / "other").mkdir()
    other = Planner(tmp_path / "other")
    probed = other.plan(probe=PROBE)
    assert probed.signature == plain.signature
    result = other.execute(probed)
    assert result.metrics == expected.metrics
    assert result.size == expected.size
    assert probed.predictions_path.read_bytes() == plain.predictions_path.read_bytes()
    assert probed.probes() == ["landscape"]
    assert probed.probe_picture_path("landscape").read_bytes().startswith(b"\x89PNG")
    assert not probed.probe_state_path("landscape").exists()
    arrays = probed.read_probe("landscape")
    assert arrays is not None
    facts = meta_of(arrays)
    assert (facts["images"], facts["passes"]) == (16, 9 + 6 + 1.5)
    assert "probe landscape done in" in probed.log_path.read_text()
    status = probed.read_status()
    assert status is not None
    assert status.state == "done"


def test_a_probe_that_fails_costs_nobody_else(planner: Planner, broken: None) -> None:
    run_dir = planner.plan(probe={**PROBE, "options": {"broken": {}, "landscape": {**OPTIONS, "views": ["random"]}}})
    planner.execute(run_dir)
    assert run_dir.is_done()
    assert run_dir.probes() == ["landscape"]
    log = run_dir.log_path.read_text()
    assert "probe broken failed: RuntimeError: the picture fell down" in log
    assert "Traceback" in log


def test_a_finished_run_is_probed_later_with_the_same_numbers(
    planner: Planner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vitq probe` executes the recipe again, learned weights included."""
    from tests.probes.test_landscape import _recipe

    method = {**_recipe("ias_vit"), "iterations": 3}
    calib = {"size": 16, "batch_size": 16}
    (tmp_path / "other").mkdir()
    other = Planner(tmp_path / "other")
    at_once = other.plan("ias_vit", method=method, calib=calib, probe=PROBE)
    other.execute(at_once)
    run_dir = planner.plan("ias_vit", method=method, calib=calib)
    planner.execute(run_dir)
    before = run_dir.result_path.read_bytes()
    words = ["probe.options.landscape={points: 3, line_points: 3, block_points: 3}", "probe.images=16"]
    words += ["--runs-dir", str(planner.store.root)]
    assert cli.main(["probe", run_dir.signature[:8], *words, "--dry-run", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["passes"] == 9 + 6 + 9 + 1.5
    assert row["seconds"] > 0
    assert run_dir.probes() == []
    costs = []
    for images in (4, 64):  # it looks at calibration images, however many the probes' are
        few = ["probe=[sensitivity]", f"probe.images={images}", *words[-2:]]
        assert cli.main(["probe", run_dir.signature[:8], *few, "--dry-run", "--json"]) == 0
        costs += [row["seconds"] for row in json.loads(capsys.readouterr().out)]
    assert costs[0] == pytest.approx(costs[1])
    assert cli.main(["probe", run_dir.signature[:8], *few, "probe.max_seconds=0.01", "--dry-run"]) == 0
    assert "stops after probe.max_seconds=0.01" in capsys.readouterr().out
    assert cli.main(["probe", run_dir.signature[:8], *words]) == 0
    assert "landscape done in" in capsys.readouterr().out
    now, then = run_dir.read_probe("landscape"), at_once.read_probe("landscape")
    assert now is not None
    assert then is not None
    for name in set(now) - {"meta"}:
        np.testing.assert_array_equal(now[name], then[name])
    assert run_dir.result_path.read_bytes() == before
    assert not run_dir.probe_state_dir.exists()
    made = meta_of(now)["made_at"]
    assert cli.main(["probe", run_dir.signature, *words]) == 0
    assert "landscape kept" in capsys.readouterr().out
    assert cli.main(["probe", run_dir.signature, *words, "--again"]) == 0
    again = run_dir.read_probe("landscape")
    assert again is not None
    assert meta_of(again)["made_at"] != made


def test_a_spent_budget_is_gone_on_from(planner: Planner, subject: Callable[..., Subject]) -> None:
    run_dir = planner.plan()
    found = subject()
    (whole,) = outcomes(run_dir, lambda: found)
    assert whole.state == "done"
    expected = run_dir.read_probe("landscape")
    assert expected is not None
    states: list[str] = []
    for _ in range(100):
        (one,) = outcomes(run_dir, lambda: found, again=not states, max_seconds=0.02)
        states.append(one.state)
        if one.state == "done":
            break
        assert "goes on from there" in one.note
    assert states[-1] == "done"
    assert states.count("unfinished") >= 2
    resumed = run_dir.read_probe("landscape")
    assert resumed is not None
    for name in set(expected) - {"meta"}:
        np.testing.assert_array_equal(resumed[name], expected[name])


def test_other_options_and_damaged_files_are_measured_anew(planner: Planner, subject: Callable[..., Subject]) -> None:
    run_dir, found = planner.plan(), subject()
    small = {"landscape": {"views": ["random"], "points": 3}}
    assert [o.state for o in outcomes(run_dir, lambda: found, options=small)] == ["done"]
    assert [o.state for o in outcomes(run_dir, lambda: found, options=small)] == ["kept"]
    wider = {"landscape": {"views": ["random"], "points": 3, "span": 0.5}}
    assert [o.state for o in outcomes(run_dir, lambda: found, options=wider)] == ["done"]
    path = run_dir.probe_path("landscape")
    path.write_bytes(path.read_bytes()[:200])
    assert [o.state for o in outcomes(run_dir, lambda: found, options=wider)] == ["done"]
    run_dir.probe_state_path("landscape").parent.mkdir(parents=True)
    run_dir.probe_state_path("landscape").write_bytes(b"no archive")
    assert [o.state for o in outcomes(run_dir, lambda: found, options=small)] == ["done"]


def test_full_precision_has_a_landscape_around_it_and_no_path(planner: Planner) -> None:
    run_dir = planner.plan("fp32", probe=PROBE)
    planner.execute(run_dir)
    arrays = run_dir.read_probe("landscape")
    assert arrays is not None
    assert {name.split(".")[0] for name in arrays} == {"random", "meta"}


def test_bad_probes_are_found_by_the_plan(planner: Planner) -> None:
    def wrong(**probe: Any) -> list[Problem]:
        config, found = RunConfig.parse({**planner.plan().read_config(), "probe": probe})
        return found if config is None else problems(config)

    assert is_about(wrong(names=["landscap"])[0], "probe", "landscap", ["landscape"])
    (problem,) = wrong(options={"landscape": {"pionts": 3}})
    assert is_about(problem, "probe.options.landscape.pionts", "pionts", ["block", "points"])
    assert is_about(wrong(options={"landscape": {"points": 4}})[0], "probe.options.landscape.points", 4)
    assert is_about(wrong(max_seconds=0)[0], "probe.max_seconds", 0)
    assert wrong(names=["landscape"]) == []


def test_a_record_that_the_recipe_no_longer_gives_is_not_probed(planner: Planner) -> None:
    run_dir = planner.plan()
    planner.execute(run_dir)
    config, _ = RunConfig.parse(run_dir.read_config())
    assert config is not None
    requantize(run_dir, config, Progress())
    recorded = run_dir.read_predictions()
    run_dir.write_predictions({**recorded, "topk_index": (recorded["topk_index"] + 1) % 10})
    with refuses(VitqError, key="predictions", value=run_dir.signature):
        requantize(run_dir, config, Progress())
    requantize(run_dir, config, Progress(), compare_predictions=False)
    run_dir.write_predictions(recorded)
    sites = run_dir.read_sites()
    run_dir.write_sites(sites.assign(mse=sites.mse * 1.2))
    with refuses(VitqError, key="mse", value=run_dir.signature):
        requantize(run_dir, config, Progress())
    run_dir.write_sites(sites.assign(bits=5))
    with refuses(VitqError, key="sites", value=run_dir.signature):
        requantize(run_dir, config, Progress())
    fresh = planner.plan("minmax")
    raw, _ = RunConfig.parse(fresh.read_config())
    assert raw is not None
    with refuses(VitqError, key="result", value=fresh.signature):
        requantize(fresh, raw, Progress())
    with refuses(VitqError, key="signature", valid=[run_dir.signature]):
        requantize(run_dir, dataclasses.replace(config, seed=9), Progress())


@pytest.mark.parametrize(
    ("words", "key", "value", "valid"),
    [
        (["probe=[landscape]"], "SIGNATURE", "probe=[landscape]", ""),
        (["SIG"], "probe", "", "landscape"),
        (["SIG", "probe=[landscapes]"], "probe", "landscapes", "landscape"),
        (["SIG", "probe=[landscape]", "probe.options.landscape.points=4"], "probe.options.landscape.points", 4, ""),
        (["SIG", "probe=[landscape]", "bits=w3a3"], "bits", "bits=w3a3", "probe="),
        (["SIG", "probe=[landscape]", "probe.image=3"], "probe.image", "image", "images"),
        (["ffff", "probe=[landscape]"], "signature", "ffff", ""),
    ],
)
def test_the_command_refuses_before_it_starts(
    planner: Planner, words: list[str], key: str, value: object, valid: str
) -> None:
    run_dir = planner.plan()
    planner.execute(run_dir)
    words = [run_dir.signature if word == "SIG" else word for word in words]
    words = ["probe", *words, "--runs-dir", str(planner.store.root)]
    command_refuses(words, key, value, [valid] if valid else [])
    assert run_dir.probes() == []


def test_a_finished_run_says_how_to_probe_it_and_gc_clears_what_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "method=minmax", "tracker=none", "data.workers=0"]
    assert cli.main(words) == 0
    assert "probe it with" not in capsys.readouterr().out
    assert cli.main([*words, "probe=[hessian,landscape]"]) == 0
    (signature,) = Store("runs").signatures()
    run_dir = Store("runs").run(signature)
    command = f"vitq probe {signature} 'probe=[hessian,landscape]' --runs-dir {run_dir.path.parent}"
    assert command in capsys.readouterr().out
    run_dir.write_probe_state("landscape", {"a": np.zeros(3)})
    with Claim.take(run_dir) or pytest.fail("the run is free"):
        assert [g.path for g in garbage(Store("runs")) if g.path.name == "state"] == []
    assert run_dir.probe_state_dir in [g.path for g in garbage(Store("runs"))]
