"""What probes left, for the eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitq.probes.stored import meta_of
from vitq.store.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd


def names(run_dir: RunDir) -> list[str]:
    """Probes that left a picture, sorted."""
    return sorted(path.stem for path in run_dir.probes_dir.glob("*.png"))


def sensitivity(run_dir: RunDir) -> pd.DataFrame | None:
    """Columns site, bits, loss (KL, nats) of the probe `sensitivity`; None where it did not look at single sites."""
    arrays = run_dir.read_probe("sensitivity")
    if arrays is None or meta_of(arrays)["options"]["by"] != "site":
        return None
    import pandas as pd

    frame = pd.DataFrame(arrays["kl"], index=arrays["name"], columns=arrays["width"])
    long: pd.DataFrame = frame.rename_axis("site").reset_index().melt("site", var_name="bits", value_name="loss")
    return long


def log(run_dir: RunDir, name: str, run: Any) -> None:
    """Log one probe's picture as `probes/<name>`."""
    import wandb

    run.log({f"probes/{name}": wandb.Image(str(run_dir.probes_dir / f"{name}.png"))})
