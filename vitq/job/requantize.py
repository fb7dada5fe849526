"""The quantized model of a finished run, made again from its config. A store keeps results, not models."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from vitq import device
from vitq.config import RunConfig, signature
from vitq.engine import recipe
from vitq.errors import ConfigError, Problem, VitqError
from vitq.models.load import load_model
from vitq.progress import Progress
from vitq.quant import site_table
from vitq.quant.model import QuantizedModel
from vitq.steps.checkpoint import Checkpoint
from vitq.store import RunDir

if TYPE_CHECKING:
    import pandas as pd

# Largest relative difference in a site's error that other hardware explains.
_CLOSE = 0.05
# Share of the sites that must be that close: where one rounding tips over, the sites behind it see other inputs.
_MOST = 0.9


def rebuild(run_dir: RunDir, config: RunConfig, progress: Progress) -> QuantizedModel:
    """Execute the recipe of a finished run again and check that it ends where the record says.

    config: the run's own, with the device and the cache of today. Where the recipe learns, its finished segments are
    kept under `probes/state`, so that a second call is short. Raises VitqError where the run has no result, and where
    the model is another one than the recorded.
    """
    if signature(config) != run_dir.signature:
        text = f"{run_dir.config_path} has signature {signature(config)}, its folder says {run_dir.signature}"
        raise ConfigError([Problem(text, "signature", signature(config), [run_dir.signature])])
    if not run_dir.is_done():
        text = f"run {run_dir.signature} has no result yet; execute it first, with probe=[…] to look at once"
        raise VitqError(text, "result", run_dir.signature)
    device.make_repeatable()
    where = device.resolve(config.device)
    model = load_model(config.model, config.data, config.cache_dir, progress).to(where).eval()
    if not config.method.quantizes:
        return recipe.equipped(config, model).eval()
    kept = Checkpoint(run_dir.probe_state_dir / "recipe")
    work = recipe.apply(config, model, where, progress, kept, lambda name: nullcontext())
    first = min(config.calib.size, config.calib.batch_size)
    _compare(run_dir, site_table.site_table(work.model, work.batches(first)))
    return work.model.eval()


def _compare(run_dir: RunDir, found: pd.DataFrame) -> None:
    recorded = run_dir.read_sites()
    same = ["site", "kind", "quantizer", "granularity", "bits"]
    if not recorded[same].equals(found[same]):
        raise _other(run_dir, "its sites or their bits differ", "sites")
    before, now = (table["mse"].astype(float).to_numpy() for table in (recorded, found))
    close = np.isclose(now, before, rtol=_CLOSE, atol=1e-12, equal_nan=True)
    if close.mean() < _MOST:
        reason = f"the errors of {int((~close).sum())} of {len(close)} sites differ by more than 5 %"
        raise _other(run_dir, reason, "mse")


def _other(run_dir: RunDir, reason: str, differs: str) -> VitqError:
    return VitqError(
        f"the recipe of run {run_dir.signature} no longer gives the recorded model: {reason}. Another version of vitq "
        f"or torch made it; move {run_dir.path} away and execute the run again, with probe=[…]",
        differs,
        run_dir.signature,
    )
