"""The quantized model of a finished run, as a packed checkpoint in its folder."""

from __future__ import annotations

from vitq.deploy.packed.packed import Packed, load_packed, save_packed
from vitq.errors import DeployError
from vitq.job.requantize import requantize
from vitq.progress import Progress
from vitq.store import Run, RunDir


def packed_run(run_dir: RunDir, progress: Progress) -> Packed:
    """The run's packed model: the one that it kept, else made again, compared with its record, and kept from now on.

    Raises VitqError where the run has no result, quantizes nothing, or cannot be repeated here.
    """
    result = run_dir.require_result()
    if not run_dir.model_path.exists():
        config = Run(run_dir).config
        if not config.method.quantizes:
            text = f"run {run_dir.signature} ({config.method.name}) quantizes nothing; there is nothing to pack"
            raise DeployError(text, "method", config.method.name)
        model = requantize(run_dir, config, progress)
        save_packed(model, config, result.size.fp_bytes, run_dir.model_path)
        run_dir.clear_state()
    packed = load_packed(run_dir.model_path)
    if packed.signature != run_dir.signature:
        text = f"{run_dir.model_path} is of run {packed.signature}; remove it and export again"
        raise DeployError(text, "signature", packed.signature, [run_dir.signature])
    return packed
