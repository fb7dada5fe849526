"""What probes left, for the eyes."""

from __future__ import annotations

from typing import Any

from vitq.store.rundir import RunDir


def names(run_dir: RunDir) -> list[str]:
    """Probes that left a picture, sorted."""
    return sorted(path.stem for path in run_dir.probes_dir.glob("*.png"))


def log(run_dir: RunDir, name: str, run: Any) -> None:
    """Log one probe's picture as `probes/<name>`."""
    import wandb

    run.log({f"probes/{name}": wandb.Image(str(run_dir.probes_dir / f"{name}.png"))})
