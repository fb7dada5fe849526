"""Facts about where a run happens: versions, machine, code, and peak memory. Stored in every result.json."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType

import vitq
from vitq.machine import usable_cores
from vitq.plugins import plugins
from vitq.store.record import utc_now
from vitq.store.result import Memory, Provenance

# Distributions whose version can change a number or the way a run is launched and recorded.
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "scipy",
    "scikit-learn",
    "safetensors",
    "pandas",
    "pyarrow",
    "hydra-core",
    "omegaconf",
    "pydantic",
    "wandb",
)

# Where a change can change a result.
_DECIDING = ("config", "data", "models", "quant", "steps", "methods", "tasks", "engine", "device.py")

_GIT_SECONDS = 20.0
_PROC = Path("/proc")


def provenance(started_at: str, attempt: int, planned: dict[str, str | None] | None = None) -> Provenance:
    """Versions, host and code facts of this process; `finished_at` is now.

    started_at: ISO-8601 in UTC (`vitq.store.record.utc_now()`). attempt: 1 for the first execution of a signature.
    planned: `code()` of the process that planned the run; where it differs, it is kept beside as `planned_version` and
    so on.
    Raises pydantic.ValidationError when `started_at` has no time zone or `attempt` is below 1.
    """
    other = {f"planned_{key}": value for key, value in planned.items()} if planned and changed_code(planned) else {}
    return Provenance(
        versions=versions(),
        host=host(),
        code=code() | {"source": source()} | other,
        started_at=started_at,
        finished_at=utc_now(),
        attempt=attempt,
    )


def versions() -> dict[str, str]:
    """Installed versions: Python, vitq, `PACKAGES` and plug-ins, from package metadata (nothing is imported)."""
    known = {"python": platform.python_version(), "vitq": vitq.__version__}
    known |= {name: _version(name) for name in PACKAGES}
    return known | {plugin.distribution: plugin.version for plugin in plugins()}


@functools.cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def host() -> dict[str, str | int]:
    """Name, system, CPU, usable cores, memory in bytes; GPU name, count and memory where CUDA is in use."""
    facts: dict[str, str | int] = {
        "name": socket.gethostname(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
    if (torch := sys.modules.get("torch")) is not None:
        facts["torch_threads"] = torch.get_num_threads()
    if (torch := _torch_on_cuda()) is not None:
        device = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts |= {"gpu": device.name, "gpus": torch.cuda.device_count(), "gpu_memory_bytes": device.total_memory}
        facts["cuda"] = str(torch.version.cuda)
    return facts


@functools.cache
def code() -> dict[str, str | None]:
    """Version of vitq, and commit and cleanliness of its source tree.

    `commit` and `dirty` ('true'/'false') are null when the package does not come from a git work tree: installed from
    a wheel, or no git on this machine. `dirty` looks at the package alone, new files included. The answer is kept: the
    code that a process runs is the code that it started with.
    """
    facts: dict[str, str | None] = {"version": vitq.__version__, "commit": None, "dirty": None}
    package = Path(vitq.__file__).resolve().parent
    # Tracked? An installed copy inside another repository must not report that repository's commit.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return facts
    facts["commit"] = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--", ".")
    facts["dirty"] = None if changes is None else str(bool(changes)).lower()
    return facts


@functools.cache
def source() -> str:
    """16 hex digits of sha256 over the code that decides what a run computes, installed plug-ins included.

    Of vitq the packages of images, models and quantization: a result does not change with a report or a command.
    """
    package = Path(vitq.__file__).resolve().parent
    roots = [package / name for name in _DECIDING]
    for plugin in plugins():
        spec = importlib.util.find_spec(plugin.module.partition(".")[0])
        roots += map(Path, (spec.submodule_search_locations or [str(spec.origin)]) if spec else [])
    files = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*.py"))]
    content = hashlib.sha256()
    for path in sorted(files):
        content.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def other_code(recorded: Mapping[str, str | None]) -> str:
    """How the code that made a result (`provenance.code` of it) differs from today's; '' where it computes the same.

    A record without `source`, of an earlier vitq, is judged by version and commit, and by uncommitted changes then.
    """
    now = code() | {"source": source()}
    if recorded.get("source") is not None:
        if recorded["source"] == now["source"]:
            return ""
        keys = [key for key in ("version", "commit") if recorded.get(key) != now[key]]
        if not keys:
            return f"edited since (source {recorded['source']} -> {now['source']})"
    else:
        keys = [key for key in ("version", "commit") if key in recorded and recorded[key] != now[key]]
        if not keys:
            return "it had uncommitted changes" if recorded.get("dirty") == "true" else ""
    return ", ".join(f"{key} {_short(recorded.get(key))} -> {_short(now[key])}" for key in keys)


def _short(value: str | None) -> str:
    return "unknown" if value is None else value[:12]


def changed_code(planned: dict[str, str | None] | None) -> str:
    """What is different from the code that planned a run, `commit 1a2b -> 3c4d`; '' for nothing, or nothing known."""
    now = code()
    before = {key: planned.get(key) for key in now} if planned else now
    return ", ".join(f"{key} {before[key]} -> {now[key]}" for key in now if before[key] != now[key])


def peak_memory() -> Memory:
    """Peak resident set of this process and peak CUDA allocation over its devices, in bytes, since the last reset.

    CUDA is null where torch is not loaded or has not used a GPU.
    """
    return Memory(peak_rss_bytes=_peak_rss(), peak_cuda_bytes=_peak_cuda())


def reset_peak_memory() -> bool:
    """Start the peaks afresh, so that each of several runs in one process reports its own.

    Returns False where the system cannot reset the resident peak (not Linux): it then stays that of the whole process.
    """
    if (torch := _torch_on_cuda()) is not None:
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
    try:
        (_PROC / "self/clear_refs").write_text("5")  # proc(5): 5 resets the peak resident set (VmHWM)
    except OSError:
        return False
    return True


def _peak_rss() -> int:
    # VmHWM and not ru_maxrss: the latter starts from the parent's size at fork and cannot be reset.
    if peak_kb := _proc("self/status", "VmHWM:"):
        return int(peak_kb.split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_cuda() -> int | None:
    if (torch := _torch_on_cuda()) is None:
        return None
    return sum(int(torch.cuda.max_memory_allocated(device)) for device in range(torch.cuda.device_count()))


def _torch_on_cuda() -> ModuleType | None:
    """torch if this process has loaded it and uses a GPU; it is never imported for the sake of a fact."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _cpu_model() -> str:
    return _proc("cpuinfo", "model name") or platform.processor() or platform.machine()


def _proc(file: str, key: str) -> str | None:
    """Value of the first line of a key in a file of /proc; None where there is none."""
    path = _PROC / file
    lines = path.read_text().splitlines() if path.exists() else ()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command in `folder`, stripped; None when git is absent, fails or is too slow."""
    # GIT_DIR and friends (set inside hooks) would point git at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
