"""A device that is not there is an error of the plan where the plan's machine computes, and nowhere else."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from tests.errors import is_about, refuses
from tests.fake_engine import FakeEngine
from vitq.errors import ConfigError
from vitq.planning import compose, planner
from vitq.planning.display import Show
from vitq.planning.launcher import launch
from vitq.planning.plan import Plan


def plan(*overrides: str) -> Plan:
    file, folders = compose.root_config()
    return planner.make(compose.load(file, folders, ["tracker=none", *overrides]))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many CUDA devices torch sees, in a list that a test may change."""
    count = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count[0] > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count[0])
    return count


@pytest.mark.parametrize("launcher", ["inline", "local", "small_models"])
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_this_machine_has_none(engine: FakeEngine, gpus: list[int], launcher: str, device: str) -> None:
    with refuses(ConfigError, "device", device, ["auto", "cpu"]):
        plan(f"launcher={launcher}", f"device={device}")


def test_a_node_may_have_what_the_submitting_machine_has_not(engine: FakeEngine, gpus: list[int]) -> None:
    (run,) = plan("launcher=slurm", "device=cuda:0").runs
    assert run.config.device == "cuda:0"


def test_one_that_is_there_is_taken_and_one_beyond_is_not(engine: FakeEngine, gpus: list[int]) -> None:
    gpus[0] = 2
    assert plan("device=cuda:1").runs[0].config.device == "cuda:1"
    with refuses(ConfigError, "device", "cuda:2"):
        plan("device=cuda:2")


def test_a_worker_sees_one_gpu_whatever_its_number(engine: FakeEngine, gpus: list[int]) -> None:
    gpus[0] = 2
    assert len(plan("launcher=local", "device=cuda").runs) == 1
    with pytest.raises(ConfigError) as error:
        plan("launcher=local", "device=cuda:1")
    (problem,) = error.value.problems
    assert is_about(problem, "device", "cuda:1", ["cuda"])


def test_a_finished_run_needs_none(engine: FakeEngine, gpus: list[int]) -> None:
    done = plan()
    done.commit()
    assert launch(done, Show(Console(file=io.StringIO()), "one", 1)) == []
    assert plan("device=cuda").runs[0].done
