"""The quantized model of a finished run, as a packed checkpoint."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from vitq.config import RunConfig
from vitq.deploy.packed.packed import Packed, load_packed, save_packed
from vitq.errors import DeployError
from vitq.progress import Progress
from vitq.store import Run, RunDir


def packed_run(run_dir: RunDir, progress: Progress) -> Packed:
    """The run's packed model: the one it kept, else made now by repeating the run's steps, and kept.

    A finished run stores figures, not a model. Its steps are deterministic, so they are repeated, and the outcome
    counts only if it predicts what the run recorded, image by image. Raises DeployError where it does not, where the
    run is not finished and where it quantizes nothing.
    """
    if not run_dir.is_done():
        raise DeployError(f"run {run_dir.signature} has no result; `vitq logs {run_dir.signature}` says why")
    if not run_dir.model_path.exists():
        _repeat(run_dir, progress)
    packed = load_packed(run_dir.model_path)
    if packed.signature != run_dir.signature:
        raise DeployError(f"{run_dir.model_path} is of run {packed.signature}; remove it and export again")
    return packed


def _repeat(run_dir: RunDir, progress: Progress) -> None:
    from vitq import device
    from vitq.engine import recipe
    from vitq.models.load import load_model
    from vitq.quant import site_table
    from vitq.steps.checkpoint import Checkpoint

    config = Run(run_dir).config
    if not config.method.quantizes:
        raise DeployError(f"run {run_dir.signature} ({config.method.name}) quantizes nothing; there is nothing to pack")
    device.make_repeatable()
    where = device.resolve(config.device)
    model = load_model(config.model, config.data, config.cache_dir, progress).to(where).eval()
    float_bytes = site_table.model_bytes(model)
    # Finished segments of a reconstruction stay in the run's folder, so that an export that was killed goes on.
    work = recipe.apply(config, model, where, progress, Checkpoint(run_dir.state_dir), lambda _: nullcontext())
    _verify(run_dir, config, work.model, where, progress)
    save_packed(work.model, config, float_bytes, run_dir.model_path)
    run_dir.clear_state()


def _verify(run_dir: RunDir, config: RunConfig, model: nn.Module, where: torch.device, progress: Progress) -> None:
    """Raise DeployError unless the model predicts the class that the run recorded, for every image."""
    from vitq import data
    from vitq.engine import evaluate

    images = data.eval_set(config, progress)
    logits = evaluate.logits(model, images, config.data.batch_size, where, progress, "compare with the record")
    now = evaluate.predictions(logits, torch.from_numpy(images.labels))
    then = run_dir.read_predictions()
    differ = int((now["topk_index"][:, 0] != then["topk_index"][:, 0]).sum())
    if differ:
        gap = float(np.abs(now["topk_logit"] - then["topk_logit"]).max())
        raise DeployError(
            f"repeating run {run_dir.signature} here predicts other classes than its record for {differ} of "
            f"{len(images)} images (largest difference of a logit: {gap:.3g}): another kind of machine, or other "
            "versions (result.json, provenance). Repeat it where it ran, or execute it again with keep_model=true in a "
            "runs_dir of its own"
        )
