"""A reconstruction run whose job is disturbed goes on from its last finished block and ends bit-identical."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_worker import launch, until
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import facts, launched, real, tidy
from vitq.store import Run

# Eight segments of about a second each.
WORDS = ["method=qdrop", "bits=w4a4", "calib.size=64", "data.eval_limit=64", "method.iterations=80", "keep_model=true"]


Known = tuple[Path, dict[str, tuple[Any, ...]]]


class Case:
    """One reconstruction run on the cluster, and what it has to give."""

    def __init__(self, folder: Path, cache: Path, expected: dict[str, tuple[Any, ...]]):
        self.expected = expected
        self.planned = real(folder, "slurm", *WORDS, f"cache_dir={cache}")
        self.run_dir = self.planned.store.run(self.planned.runs[0].signature)

    def blocks(self) -> dict[str, int]:
        """Segments that are stored, and when that was."""
        with suppress(FileNotFoundError):
            return {path.name: path.stat().st_mtime_ns for path in self.run_dir.state_dir.glob("*.safetensors")}
        return {}

    def begin(self) -> dict[str, int]:
        """Wait for the third segment; those that are stored."""
        until(lambda: len(self.blocks()) >= 3, "three segments are stored")
        return self.blocks()

    def check_going_on(self, before: dict[str, int]) -> None:
        """In the attempt that runs now no finished segment is computed again."""
        until(lambda: len(self.blocks()) > len(before) or self.run_dir.is_done(), "the run goes on")
        now = self.blocks()
        if not self.run_dir.is_done():
            assert now.items() >= before.items()

    def check_end(self, failed: list[str]) -> None:
        assert failed == []
        assert facts(self.planned) == self.expected
        status = self.run_dir.read_status()
        assert status is not None
        assert (status.state, status.attempt) == ("done", 2)
        assert tidy(self.planned.store)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """The folder of the model and the images, and what the run gives where nobody disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    planned = real(folder, "inline", *WORDS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert launch(planned)[0] == []
    torch.set_num_threads(threads)
    return folder, facts(planned)


@pytest.fixture
def case(
    cluster: Cluster,
    undisturbed: Known,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Case:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder, expected = undisturbed
    (tmp_path / "tiny.safetensors").write_bytes((folder / "tiny.safetensors").read_bytes())
    return Case(tmp_path, folder / "cache", expected)


def test_preemption(cluster: Cluster, case: Case) -> None:
    with launched(case.planned) as out:
        before = case.begin()
        cluster.take()
        before = case.blocks() or before
        run = Run(case.run_dir)
        assert run.state == "interrupted"
        assert run.reason == "told to stop by SIGTERM"
        assert not case.run_dir.claim_path.exists()
        cluster.hurry()
        case.check_going_on(before)
    case.check_end(out[0][0])


def test_a_node_loses_power(cluster: Cluster, case: Case) -> None:
    with launched(case.planned) as out:
        before = case.begin()
        job = cluster.run("squeue", "-h", "-o", "%N").strip()
        cluster.kill_node(job)
        before = case.blocks()
        assert case.run_dir.claim_path.exists(), "nobody had the time to give it back"
        cluster.wait(lambda: list(cluster.jobs().values())[-1] == "PENDING", "the job was queued again")
        cluster.hurry()
        case.check_going_on(before)
    case.check_end(out[0][0])
