"""Where a config and its data do not fit each other."""

from __future__ import annotations

import numpy as np

from vitq.config import RunConfig
from vitq.data import digits
from vitq.data.facts import describe, split_facts
from vitq.data.folder import split_folder
from vitq.data.location import form
from vitq.errors import DataError, Problem, unknown

INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")


def problems(config: RunConfig) -> list[Problem]:
    """Everything wrong with a run's data, one line each; [] where it fits. Reads names and sizes, no image."""
    found = [*_preprocessing(config), *_classes(config)]
    try:
        facts = describe(config)
    except DataError as error:
        return [*found, *error.problems]
    data = config.data
    if config.method.quantizes:
        if config.calib.size > facts.calib_images:
            text = (
                f"calib.size={config.calib.size} exceeds the {facts.calib_images} images of split "
                f"{data.calib_split!r} (data.calib_split); lower calib.size"
            )
            found.append(Problem(text, "calib.size", config.calib.size))
        if _overlap(config):
            text = (
                f"data.calib_split={data.calib_split!r} and data.eval_split={data.eval_split!r} share images: a model "
                "must not be scored on images that calibrated it; name two different splits"
            )
            found.append(Problem(text, "data.calib_split", data.calib_split))
    if facts.num_classes != data.num_classes:
        action = "set data.num_classes" if data.class_map else "give data.class_map, or set data.num_classes"
        text = f"data.num_classes={data.num_classes}, but the data has {facts.num_classes} classes; {action}"
        found.append(Problem(text, "data.num_classes", data.num_classes, [facts.num_classes]))
    if form(data) == "folder" and data.class_map is None:
        calib, evaluation = split_facts(data, data.calib_split), split_facts(data, data.eval_split)
        if calib.names != evaluation.names:
            text = (
                f"splits {data.calib_split!r} and {data.eval_split!r} have different class folders, so the folder's "
                "rank is no label; set data.class_map to a file with one class folder name per line"
            )
            found.append(Problem(text, "data.class_map"))
    return found


def _overlap(config: RunConfig) -> bool:
    data = config.data
    if form(data) == "digits":
        return bool(np.intersect1d(digits.indices(data.calib_split), digits.indices(data.eval_split)).size)
    if form(data) == "folder":
        # `val`, `validation` … may be one folder.
        calib, evaluation = (split_folder(data.root or "", s) for s in (data.calib_split, data.eval_split))
        return calib.resolve() == evaluation.resolve()
    return data.calib_split == data.eval_split


def _classes(config: RunConfig) -> list[Problem]:
    outputs = config.model.kwargs.get("num_classes")
    if outputs is None or outputs == config.data.num_classes:
        return []
    text = f"model.kwargs.num_classes={outputs}, but data.num_classes={config.data.num_classes}; make them equal"
    return [Problem(text, "model.kwargs.num_classes", outputs, [config.data.num_classes])]


def _preprocessing(config: RunConfig) -> list[Problem]:
    found: list[Problem] = []
    if config.model.interpolation not in INTERPOLATIONS:
        key = "model.interpolation"
        found.append(unknown(key, config.model.interpolation, INTERPOLATIONS, key=key))
    for key, std in (("model.std", config.model.std), ("data.std", config.data.std)):
        if std is not None and not all(value > 0 for value in std):
            text = f"{key}={list(std)}: every value must be above 0, on the scale where white is 1"
            found.append(Problem(text, key, list(std)))
    return found
