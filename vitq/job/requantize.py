"""The quantized model of a finished run, made again from its config. A store keeps results, not models."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitq import device
from vitq.config import RunConfig, signature
from vitq.engine import evaluate, recipe
from vitq.errors import ConfigError, Problem, VitqError
from vitq.models.load import load_model
from vitq.progress import Progress
from vitq.quant import site_table
from vitq.quant.model import QuantizedModel
from vitq.steps.checkpoint import Checkpoint
from vitq.store import RunDir
from vitq.tasks.task import task_of

if TYPE_CHECKING:
    import pandas as pd

# Largest relative difference in a site's error that other hardware explains.
_CLOSE = 0.05
# Share of the sites that must be that close: where one value is rounded the other way, later sites see other inputs.
_MOST = 0.9


def requantize(
    run_dir: RunDir, config: RunConfig, progress: Progress, compare_predictions: bool = True
) -> QuantizedModel:
    """Execute the recipe of a finished run again and check the model against the run's record.

    config: the run's own, with the device and the cache of today. The sites and their errors are compared always, which
    costs one batch; compare_predictions: the model must also predict the recorded class of every evaluation image.
    Without it the model is good for measurements alone: on other hardware a few of its weights may be rounded the other
    way. Where the recipe learns, its finished segments stay in the run's state folder, so that a call that was killed
    goes on; whoever needs them no longer calls `RunDir.clear_state`. Raises VitqError where the run has no result, and
    where the model is another one than the recorded.
    """
    if signature(config) != run_dir.signature:
        text = f"{run_dir.config_path} has signature {signature(config)}, its folder says {run_dir.signature}"
        raise ConfigError([Problem(text, "signature", signature(config), [run_dir.signature])])
    run_dir.require_result()
    device.make_repeatable()
    where = device.resolve(config.device)
    model = load_model(config.model, config.data, config.cache_dir, progress).to(where).eval()
    if not config.method.quantizes:
        return recipe.equipped(config, model).eval()
    work = recipe.apply(config, model, where, progress, Checkpoint(run_dir.state_dir), lambda name: nullcontext())
    first_batch = work.batches(min(config.calib.size, config.calib.batch_size))
    _compare_sites(run_dir, site_table.site_table(work.model, first_batch))
    quantized = work.model.eval()
    if compare_predictions:
        _compare_predictions(run_dir, config, quantized, where, progress)
    return quantized


def _compare_sites(run_dir: RunDir, sites: pd.DataFrame) -> None:
    recorded = run_dir.read_sites()
    same = ["site", "kind", "quantizer", "granularity", "bits"]
    if not recorded[same].equals(sites[same]):
        raise _other(run_dir, "its sites or their bits differ", "sites")
    before, now = (table["mse"].astype(float).to_numpy() for table in (recorded, sites))
    close = np.isclose(now, before, rtol=_CLOSE, atol=1e-12, equal_nan=True)
    if close.mean() < _MOST:
        reason = f"the errors of {int((~close).sum())} of {len(close)} sites differ by more than 5 %"
        raise _other(run_dir, reason, "mse")


def _compare_predictions(
    run_dir: RunDir, config: RunConfig, model: QuantizedModel, where: torch.device, progress: Progress
) -> None:
    task = task_of(config)
    images = task.images(config, progress)
    outputs = evaluate.outputs(task, model, images, config.data.batch_size, where, progress, "compare with the record")
    now, recorded = task.predictions(outputs, images), run_dir.read_predictions()
    if reason := task.differs(now, recorded):
        raise _other(run_dir, reason, "predictions")


def _other(run_dir: RunDir, reason: str, differs: str) -> VitqError:
    return VitqError(
        f"the recipe of run {run_dir.signature} no longer gives the recorded model: {reason}. Another kind of machine, "
        "or another version of vitq or torch made it (result.json, provenance). Repeat this where it ran, or execute "
        "the run again in a runs_dir of its own, with keep_model=true or probe=[…]",
        differs,
        run_dir.signature,
    )
