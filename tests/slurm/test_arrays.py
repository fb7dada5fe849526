"""Arrays on the real cluster: how runs become jobs, and how the ends of jobs become the ends of runs."""

from __future__ import annotations

from pathlib import Path

from tests.fake_engine import FakeEngine
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import launch, make, tidy

BITS = "bits=w8a8,w6a6,w4a4,w3a3"


def test_more_jobs_than_an_array_may_have(cluster: Cluster, engine: FakeEngine, repo: Path, tmp_path: Path) -> None:
    """16 runs where MaxArraySize is 6: three arrays, as far as these say; each run is executed once."""
    planned = make(repo, tmp_path, BITS, "method=minmax,mse,percentile,repq_vit")
    failed, text = launch(planned)
    print(text)
    assert failed == []
    assert all(planned.store.run(run.signature).is_done() for run in planned.runs)
    assert [len(s.allocations) for s in planned.store.submissions.all()] == [6, 6, 4]
    assert text.count("done in") == 16
    assert tidy(planned.store)
