"""The cluster that the other tests of this folder stand on."""

from __future__ import annotations

import time
from pathlib import Path

from tests.slurm.cluster import Cluster


def test_it_starts_fast_and_leaves_nothing_behind() -> None:
    begin = time.monotonic()
    cluster = Cluster(accounting=False)
    try:
        cluster.start()
        assert time.monotonic() - begin < 60
        cluster.run("sbatch", "-o", "/dev/null", "--wrap", "sleep 300")
        cluster.wait(lambda: cluster.jobs() == {"1": "RUNNING"}, "the job runs")
        names = {process.name() for process in cluster.processes()}
        assert {"munged", "slurmctld", "slurmd", "slurmstepd", "sleep"} <= names
    finally:
        cluster.stop()
    assert cluster.processes() == []
    assert not cluster.folder.exists()


def test_a_partition_of_higher_priority_takes_the_node(cluster: Cluster, tmp_path: Path) -> None:
    low = cluster.run("sbatch", "--parsable", "--requeue", "-w", "n1", "-o", "/dev/null", "--wrap", "sleep 300").strip()
    cluster.wait(lambda: cluster.jobs()[low] == "RUNNING", "the job runs")
    wish = ("-p", "high", "-w", "n1", "-N", "1", "--exclusive", "-o", "/dev/null")
    high = cluster.run("sbatch", "--parsable", *wish, "--wrap", "sleep 300").strip()
    cluster.wait(lambda: (cluster.jobs()[low], cluster.jobs()[high]) == ("PENDING", "RUNNING"), "the job was requeued")
