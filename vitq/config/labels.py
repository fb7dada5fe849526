"""How runs are called where people look: model, method, bits, calibration images, seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import yaml

from vitq.config.method import KINDS
from vitq.config.run import RunConfig
from vitq.config.search_path import shipped

# What every model of its family has at 224 pixels, so that it distinguishes none.
_USUAL = re.compile(r"_patch(16|4_window7)_224$")

_STAR = "*: with exceptions, of `bits` or of a recipe that leaves some activations in floating point"


def run_label(config: RunConfig) -> str:
    """Model, method, bits, calibration images and seed: `deit_tiny repq_vit W4A4 c32 s0`; `deit_tiny fp32`."""
    words = [model_label(config), config.method.name]
    if config.method.quantizes:
        words += [bits_label(config), f"c{config.calib.size}", f"s{config.seed}"]
    return " ".join(words)


def model_label(config: RunConfig) -> str:
    """timm name without tag and without the usual patch, window and image size: `deit_tiny`, `swin_small`; of a
    detector as by `network_name`."""
    return _USUAL.sub("", network_name(config).partition(".")[0])


def network_name(config: RunConfig) -> str:
    """`model.name`; of a detector, whose name stands for several shapes, the config of vitq's that has its shape:
    `mask_rcnn_swin_tiny`."""
    if not config.finds_objects:
        return config.model.name
    return _shapes().get(_shape(config.model.name, config.model.kwargs), config.model.name)


@cache
def _shapes() -> dict[str, str]:
    """Name and shape of a network → name of the config that vitq ships for it."""
    names = {}
    for file in sorted((shipped("conf") / "model").glob("*.yaml")):
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        names[_shape(str(raw["name"]), raw.get("kwargs", {}))] = file.stem
    return names


def _shape(name: str, kwargs: dict[str, Any]) -> str:
    return json.dumps([name, kwargs], sort_keys=True, default=str)


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


def star_note(labels: Iterable[str]) -> str:
    """What the star of `W8A8*` says, for below a table; '' where none of its labels has one."""
    starred = any(re.search(r"\bW\d+A\d+\*", label, re.IGNORECASE) for label in labels)
    return _STAR if starred else ""


def _partial(config: RunConfig) -> bool:
    """Whether the recipe leaves some, not all, of the activations in floating point that the bits quantize."""
    unsure = ("weight", "patch", "other", *(() if config.finds_objects else ("dense",)))
    asked = [kind for kind in KINDS if kind not in unsure and config.bits.applies(kind)]
    return 0 < sum(config.method.quantizer(kind) is not None for kind in asked) < len(asked)


def _limits(step: dict[str, Any], config: RunConfig) -> Iterator[str]:
    """Limits of a step `allocate` other than the mean bits of the run."""
    # By its name: the steps, which say themselves what they do (`Step.allocates_bits`), are layers above this one.
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
