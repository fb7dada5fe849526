"""The cluster that the other tests of this folder stand on."""

from __future__ import annotations

from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.processes import name_of


def test_it_leaves_nothing_behind() -> None:
    cluster = Cluster(accounting=False)
    try:
        cluster.start()
        cluster.run("sbatch", "-o", "/dev/null", "--wrap", "sleep 300")
        cluster.wait(lambda: cluster.jobs() == {"1": "RUNNING"}, "the job runs")
        expected = {"munged", "slurmctld", "slurmd", "slurmstepd", "sleep"}
        cluster.wait(
            lambda: expected <= {name_of(process) for process in cluster.processes()}, "its processes are found"
        )
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
