"""What probes left, for the eyes: pictures as they are, surfaces to turn around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitq.store.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd


def names(run_dir: RunDir) -> list[str]:
    """Probes that left arrays or pictures, sorted."""
    found = (path.stem for path in run_dir.probes_dir.glob("*") if path.suffix in (".npz", ".png"))
    return sorted(set(found))


def sensitivity(run_dir: RunDir) -> pd.DataFrame | None:
    """Loss that each site causes alone at each width (site, bits, loss); None where no probe measured it."""
    return None


def log(run_dir: RunDir, name: str, run: Any) -> None:
    """Log one probe's pictures as `probes/<name>`."""
    import wandb

    picture = run_dir.probes_dir / f"{name}.png"
    if picture.exists():
        run.log({f"probes/{name}": wandb.Image(str(picture))})
