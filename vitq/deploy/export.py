"""Export the model of a finished run in one of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitq.deploy.packed import Packed
from vitq.deploy.source import packed_run
from vitq.progress import Progress
from vitq.store import RunDir
from vitq.store.atomic import write_bytes


def export(run_dir: RunDir, form: str, output: Path | None, progress: Progress) -> dict[str, Any]:
    """Write the run's model; returns path, sizes in bytes and their ratios to float32 and float16.

    form: `packed`. output: None for a file in the run's folder. Raises DeployError.
    """
    packed = packed_run(run_dir, progress)
    path = run_dir.model_path
    if output is not None:
        path = output
        write_bytes(path, run_dir.model_path.read_bytes())
    return {"format": form, "path": str(path), **_sizes(packed, path.stat().st_size)}


def _sizes(packed: Packed, size: int) -> dict[str, Any]:
    return {
        "bytes": size,
        "float32_bytes": packed.float_bytes,
        "float16_bytes": packed.float_bytes // 2,
        "float32_ratio": round(packed.float_bytes / size, 3),
        "float16_ratio": round(packed.float_bytes / 2 / size, 3),
    }
