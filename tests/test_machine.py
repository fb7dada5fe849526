"""What a machine lets a process use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vitq import machine


def groups(tmp_path: Path, files: dict[str, str], mine: str) -> list[float]:
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "mine").write_text(mine)
    return machine._cgroup_cores(tmp_path / "cgroup", tmp_path / "mine")


@pytest.mark.parametrize(
    ("files", "mine", "cores"),
    [
        ({"cpu.max": "250000 100000\n"}, "0::/\n", [2.5]),
        ({"cpu.max": "max 100000\n", "job/cpu.max": "50000 100000\n"}, "0::/job\n", [0.5]),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", [3.0]),
        ({"cpu,cpuacct/j/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/j/cpu.cfs_period_us": "100000\n"},
         "5:cpu,cpuacct:/j\n4:memory:/j\n", [4.0]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "5:cpu:/\n", []),
        ({}, "0::/gone\n", []),
    ],
)  # fmt: skip
def test_quotas_of_control_groups(tmp_path: Path, files: dict[str, str], mine: str, cores: list[float]) -> None:
    assert groups(tmp_path, files, mine) == cores


def test_no_control_groups(tmp_path: Path) -> None:
    assert machine._cgroup_cores(tmp_path, tmp_path / "none") == []


@pytest.mark.parametrize(("quotas", "cores"), [([], 8), ([2.5], 2), ([64.0, 3.0], 3), ([0.2], 1)])
def test_usable_cores_are_those_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, quotas: list[float], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_cgroup_cores", lambda: quotas)
    assert machine.usable_cores() == cores
