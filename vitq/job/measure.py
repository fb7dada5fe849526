"""What a run measures: the config's model quantized and evaluated, and everything of it but the result written."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from vitq import device
from vitq.config import RunConfig, canonical
from vitq.deploy import cost as analysis
from vitq.deploy.packed.packed import save_packed
from vitq.engine import evaluate, fp_outputs, recipe
from vitq.engine.memory_cache import MEMORY
from vitq.job import provenance
from vitq.job.run_log import RunLog
from vitq.models.load import load_model, trained_here
from vitq.published.tags import published_top1
from vitq.quant import site_table
from vitq.quant.model import QuantizedModel
from vitq.steps.checkpoint import Checkpoint
from vitq.store import RunDir
from vitq.store.metrics import Metrics
from vitq.store.result import Result, Size, Timings
from vitq.tasks.task import task_of

if TYPE_CHECKING:
    import pandas as pd

# Points of top-1 by which two libraries' image decoding and rounding may differ.
_CLOSE = 0.5


def measured(config: RunConfig, run_dir: RunDir, run_log: RunLog) -> tuple[Result, pd.DataFrame, QuantizedModel]:
    """`_measure`, once more where memory ran out while this process kept something of earlier runs."""
    try:
        return _measure(config, run_dir, run_log)
    except (MemoryError, RuntimeError) as error:
        if not device.is_out_of_memory(error) or not MEMORY.clear():
            raise
    # Here, where the traceback and the tensors that it holds are gone.
    device.release()
    run_log.note("memory ran out; what this process kept of earlier runs is dropped, and the run begins again")
    return _measure(config, run_dir, run_log)


def _measure(config: RunConfig, run_dir: RunDir, run_log: RunLog) -> tuple[Result, pd.DataFrame, QuantizedModel]:
    """Quantize, evaluate, and write everything but the result. Returns the model, too, for probes."""
    device.make_repeatable()
    device.limit_threads()
    where = device.resolve(config.device)
    provenance.reset_peak_memory()
    task = task_of(config)
    if trained_here(config.model, config.data, config.cache_dir, run_log):
        run_log.begin()  # training, or waiting for a run that trains, is no work of this one
    with run_log.timed("data"):
        images = task.images(config, run_log)
    with run_log.timed("model"):
        known = json.dumps(canonical(config)["model"], sort_keys=True), config.data.num_classes
        loaded = MEMORY.model(known, lambda: load_model(config.model, config.data, config.cache_dir, run_log))
        model = loaded.to(where).eval()
    with run_log.timed("full precision"):
        fp = fp_outputs.reference_outputs(config, task, model, images, where, run_log)
    checkpoint = Checkpoint(run_dir.state_dir)
    size, sites, quantized = _quantize(config, model, where, run_log, run_dir, checkpoint)
    if not config.method.quantizes:
        outputs = fp
    else:
        with run_log.timed("evaluate"):
            outputs = evaluate.outputs(task, quantized, images, config.data.batch_size, where, run_log, "evaluate")
        if config.keep_model or config.tracker.log_model:
            save_packed(quantized, config, size.fp_bytes, run_dir.model_path)
    with run_log.timed("cost"):
        # Of a detector it depends on what is found, and layers run several times for each image.
        counted = not config.finds_objects
        cost = analysis.cost(quantized, site_table.blank(config, where)) if counted else None
    run_dir.write_sites(sites)
    run_dir.write_predictions(task.predictions(outputs, images) | task.divergences(outputs, fp))
    metrics = task.metrics(outputs, fp, images)
    if config.method.quantizes and (shown := task.samples(outputs, fp, images)):
        run_dir.write_samples(shown)
    if gap := unlike_published(config, metrics):
        run_log.warn(gap)
    published = None if metrics.fp_top1 is None else published_of(config)
    result = Result(
        signature=run_dir.signature,
        config=config.to_dict(),
        metrics=metrics,
        published_top1=None if published is None else published[0],
        size=size,
        cost=cost,
        timings=Timings(total=run_log.total(), stages=run_log.timings, resumed=checkpoint.restored),
        memory=provenance.peak_memory(),
        provenance=provenance.provenance(run_log.started_at, run_log.attempt, run_log.planned_code),
        warnings=run_log.warnings,
    )
    return result, sites, quantized


def published_of(config: RunConfig) -> tuple[float, str] | None:
    """(top-1 in percent that is published of the config's weights, where); None where nothing is.

    `model.fp_top1`, else what timm publishes of a pretrained tag. Not of held-out images: those are training images, of
    which a model knows more.
    """
    model = config.model
    if config.task != "classification" or config.data.held_out:
        return None
    if model.fp_top1 is not None:
        return model.fp_top1, "model.fp_top1"
    if model.checkpoint is not None or model.train is not None or not model.pretrained:
        return None
    known = published_top1(model.name)
    if known is None:
        return None
    return known.top1, f"timm, size {known.size}, crop_pct {known.crop:g}, {known.interpolation}"


def unlike_published(config: RunConfig, metrics: Metrics) -> str | None:
    """Why the measured full precision cannot be the published one; None where it can.

    It may be off by half a point, or by what three standard errors of so few images explain.
    """
    known, measured = published_of(config), metrics.fp_top1
    if known is None or measured is None or not metrics.n_eval:
        return None
    published, where = known
    share = min(max(published / 100, 0.0), 1.0)
    error = 100 * math.sqrt(share * (1 - share) / metrics.n_eval)
    if abs(measured - published) <= max(_CLOSE, 3 * error):
        return None
    return (
        f"full precision has {measured:.2f} % top-1, published are {published:.2f} % ({where}): look for other "
        "images than the published figure's (a subset, another split), labels in another order (data.class_map), a "
        "mean, std, crop or interpolation that the weights were not trained with, or other weights; drops are from the "
        "measured one"
    )


def _quantize(
    config: RunConfig,
    model: nn.Module,
    where: torch.device,
    run_log: RunLog,
    run_dir: RunDir,
    checkpoint: Checkpoint,
) -> tuple[Size, pd.DataFrame, QuantizedModel]:
    """Apply the recipe and store its artifacts. Returns sizes, the site table, and the quantized model."""
    fp_bytes = site_table.model_bytes(model)
    if not config.method.quantizes:
        quantized = recipe.equipped(config, model)
        # Nothing is quantized: one blank image is enough to see the shapes.
        table = site_table.site_table(quantized, [site_table.blank(config, where)])
        quantized_bytes = fp_bytes
    else:
        work = recipe.apply(config, model, where, run_log, checkpoint, run_log.timed, MEMORY)
        quantized = work.model
        for name, artifact in work.artifacts.items():
            run_dir.write_artifact(name, artifact)
        with run_log.timed("sites"):
            run_log.stage("sites")
            # Errors are measured on the first calibration batch: they are a report, not a part of the method.
            table = site_table.site_table(quantized, work.batches(min(config.calib.size, config.calib.batch_size)))
        quantized_bytes = site_table.quantized_bytes(quantized, site_table.model_bytes(quantized.model))
    weight_bits, activation_bits = site_table.mean_bits(table)
    size = Size(
        mean_weight_bits=weight_bits,
        mean_activation_bits=activation_bits,
        fp_bytes=fp_bytes,
        quantized_bytes=quantized_bytes,
    )
    return size, table, quantized
