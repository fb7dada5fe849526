"""What this machine lets this process use: cores, GPUs, memory. Importing it imports no torch."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

_CGROUPS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_NO_LIMIT = 1 << 62


def usable_cores() -> int:
    """Cores that this process may use: a scheduler or container may allow fewer than the machine has, by affinity or by
    a quota of CPU time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.floor(min(_cgroup_cores(), default=cores))))


def int8_products_are_exact(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU adds up 8-bit products in 32 bits at once (VNNI, AMX; every 64-bit ARM).

    Others of x86 add two products in 16 bits first, which saturates: what ONNX Runtime and OpenVINO compute from 8-bit
    activations and weights there is not what the codes say (onnxruntime.ai, "Quantize ONNX models", U8S8 on AVX2).
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return True  # nothing is known: no Linux
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return bool({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"} & {*flags})


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, out of its own CUDA_VISIBLE_DEVICES; torch is not imported."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() and name.strip() != "-1"]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]


def free_memory(device: torch.device) -> int:
    """Bytes that this process could still take on a device, the limits of its control groups counted."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min(int(psutil.virtual_memory().available), *_cgroup_room())


def _cgroup_room(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left below each memory limit that this process is under; a scheduler sets one for a job."""
    rooms = [_NO_LIMIT]
    for group in _cgroups("memory", root, own):
        rooms += [left for limit, used in _CGROUPS if (left := _left(group / limit, group / used)) is not None]
    return rooms


def _cgroup_cores(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """Cores that each quota of CPU time amounts to that this process is under: `docker run --cpus 2`."""
    cores = []
    for group in _cgroups("cpu", root, own):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no quota here, "max", or -1 of version 1
            quota, period = _quota(group)
            cores += [quota / period] if quota > 0 else []
    return cores


def _quota(group: Path) -> tuple[int, int]:
    """Microseconds of CPU time in each period, of version 2 or 1. Raises OSError and ValueError where there is none."""
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota), int(period)
    return tuple(int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))  # type: ignore[return-value]


def _cgroups(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The control groups of this process that have a controller, from its own up to the root; none but on Linux."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controllers
        folder = base / path.strip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(base))


def _left(limit: Path, used: Path) -> int | None:
    try:
        most, now = limit.read_text().strip(), used.read_text().strip()
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - int(now))
