"""What a tracker is shown of a run: names, config, summary, rows. Plain Python values only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vitq.config import KINDS, SCHEMA_VERSION, RunConfig, canonical
from vitq.result import Result

if TYPE_CHECKING:
    import pandas as pd

# What every model of its family has at 224 pixels, and what therefore tells nobody anything.
_USUAL = re.compile(r"_patch(16|4_window7)_224$")


def run_label(config: RunConfig) -> str:
    """Model, method, bits, calibration images and seed: `deit_tiny repq_vit W4A4 c32 s0`; `deit_tiny fp32`."""
    words = [model_label(config), config.method.name]
    if config.method.quantizes:
        words += [bits_label(config), f"c{config.calib.size}", f"s{config.seed}"]
    return " ".join(words)


def model_label(config: RunConfig) -> str:
    """timm name without tag and without the usual patch, window and image size: `deit_tiny`, `swin_small`."""
    return _USUAL.sub("", config.model.name.partition(".")[0])


def bits_label(config: RunConfig) -> str:
    """`W4A4`, `W8A8*` …; `FP` for a method that quantizes nothing, whatever bits its config holds, and for no other.

    A method whose bits leave everything in floating point still changes the model: `W32A32`. Quantizers for some
    activations only are an exception like those of the bits: `W4A4*`. Bits that are allocated within a limit of its own
    say which: `W4A4 (mean 5/5)`, `W4A4 (≤ 0.15 MB)`; at the run's own mean they stand beside its single precision.
    """
    if not config.method.quantizes:
        return "FP"
    label = "W32A32" if config.bits.label == "FP" else config.bits.label
    if _partial(config) and not label.endswith("*"):
        label += "*"
    limits = ", ".join(limit for raw in config.method.enabled.values() for limit in _limits(raw, config))
    return f"{label} ({limits})" if limits else label


def _partial(config: RunConfig) -> bool:
    """Whether the recipe leaves some, not all, of the activations in floating point that the bits quantize."""
    asked = [kind for kind in KINDS if kind not in ("weight", "patch", "other") and config.bits.applies(kind)]
    return 0 < sum(config.method.quantizer(kind) is not None for kind in asked) < len(asked)


def _limits(step: dict[str, Any], config: RunConfig) -> Iterator[str]:
    """Limits of a step `allocate` other than the mean bits of the run."""
    if step.get("do") != "allocate":
        return
    mean = step.get("mean_bits")
    if mean is not None:
        means = [float(m) for m in (mean if isinstance(mean, list | tuple) else (mean, mean))]
        run = [bits if bits == "fp" else float(bits) for bits in (config.bits.weight, config.bits.activation)]
        if means != run:
            yield "mean " + "/".join(f"{m:g}" for m in means)
    for key, unit in (("size_mb", "MB"), ("bops", "bit operations")):
        if step.get(key) is not None:
            yield f"≤ {float(step[key]):g} {unit}"


def config_of(config: RunConfig, signature: str) -> dict[str, Any]:
    """The hashed fields, and labels to group by. Nothing volatile, so that a second attempt has the same config."""
    labels: dict[str, Any] = {
        "name": run_label(config),
        "model": model_label(config),
        "bits": bits_label(config),
        "cell": f"{config.method.name} {bits_label(config)}",  # W&B's bars group by one key
        "steps": list(config.method.steps),  # in order, which the keys of `method.steps` lose on the way
    }
    plain: dict[str, Any] = undotted(
        {"signature": signature, "schema_version": SCHEMA_VERSION, "label": labels, **canonical(config)}
    )
    return plain


def summary_of(result: Result) -> dict[str, Any]:
    """The fixed vocabulary of a run's summary, under the names of result.json; missing values are left out.

    Percent: top1, top5, fp_top1, agreement; percent points: drop; nats: nll, kl; bytes and bits as they are named;
    `seconds` is the wall-clock total. Volatile facts are under `provenance`.
    """
    flat: dict[str, Any] = {
        **result.metrics.model_dump(),
        **result.size.model_dump(),
        **({} if result.cost is None else result.cost.model_dump()),
        **result.memory.model_dump(),
        "seconds": result.timings.total,
    }
    known = {name: value for name, value in flat.items() if value is not None}
    return {**known, "provenance": undotted(result.provenance.model_dump()), "nonfinite": result.nonfinite}


def rows_of(table: pd.DataFrame) -> list[list[Any]]:
    """Rows as plain Python; missing values, NaN and infinities, which are not JSON, become None."""
    return [[_cell(value) for value in row] for row in table.to_numpy(dtype=object).tolist()]


def _cell(value: Any) -> Any:
    plain = value.item() if hasattr(value, "item") else value
    if type(plain).__name__ in ("NAType", "NaTType"):  # pandas' own missing value, where a column holds integers
        return None
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def undotted(value: Any) -> Any:
    """W&B reads a dot in a key as nesting: the key `blocks.0.attn` becomes `blocks/0/attn`, at every depth."""
    if isinstance(value, dict):
        return {str(key).replace(".", "/"): undotted(item) for key, item in value.items()}
    return [undotted(item) for item in value] if isinstance(value, list | tuple) else value
