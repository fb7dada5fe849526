"""Where a config and its data do not fit each other."""

from __future__ import annotations

from vitq.config import DataConfig, RunConfig
from vitq.data.choose import indices_of
from vitq.data.coco_entries import without_masks
from vitq.data.facts import describe
from vitq.data.location import PREFIXES, SCENES, form
from vitq.data.opening import open_source
from vitq.data.overlap import overlap
from vitq.data.pixels import unknown_white
from vitq.data.scenes import SceneSource
from vitq.data.sets import used_scenes
from vitq.errors import DataError, Problem, bad, shortened, unknown

# Path of a data set → the forms of images that are read with it.
_READ_BY = {
    "root": ("folder", "tar", "coco", *PREFIXES),
    "class_map": ("folder", "tar", *PREFIXES),
    "labels": ("folder", "tar"),
    "white": ("folder", "tar", "coco", *PREFIXES),
}
_SHOWN = 3  # images that cannot be used
INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest")


def problems(config: RunConfig) -> list[Problem]:
    """Everything wrong with a run's data, one line each; [] where it fits. Reads names and sizes, no image."""
    wrong = [*_preprocessing(config), *_classes(config)]
    try:
        facts = describe(config)
    except DataError as error:
        return [*wrong, *error.problems]
    data = config.data
    wrong += _unread(data)
    too_many = data.held_out is not None and data.held_out >= facts.calib_images
    if too_many:
        text = f"{facts.calib_images} images are in split {data.calib_split!r}, some must be left to calibrate"
        wrong.append(bad("data.held_out", data.held_out, text))
    unknown_ids = _ids(config)
    wrong += unknown_ids
    if config.method.quantizes and not unknown_ids:
        held_out = data.held_out or 0
        if config.calib.size > facts.calib_images - held_out and not too_many:
            split = f"the {facts.calib_images} images of split {data.calib_split!r} (data.calib_split)"
            less = f" less data.held_out={held_out}" if held_out else ""
            text = f"calib.size={config.calib.size} exceeds {split}{less}; lower calib.size"
            wrong.append(Problem(text, "calib.size", config.calib.size))
        shared, _ = overlap(config)
        if shared and not data.allow_overlap:
            wrong.append(Problem(shared, "data.calib_split", data.calib_split))
    if facts.num_classes != data.num_classes:
        alone = data.class_map or data.dataset in SCENES
        action = "set data.num_classes" if alone else "give data.class_map, or set data.num_classes"
        text = f"data.num_classes={data.num_classes}, but the data has {facts.num_classes} classes; {action}"
        wrong.append(Problem(text, "data.num_classes", data.num_classes, [facts.num_classes]))
    wrong += _white(config)
    if data.labels is not None and form(data) in _READ_BY["labels"]:
        splits = (data.calib_split, data.scored_split)
        if not any(open_source(data, split, config.cache_dir).labelled for split in splits):
            text = (
                f"data.labels={data.labels!r}: the images lie in class folders, so that nothing reads it; leave it out"
            )
            wrong.append(Problem(text, "data.labels", data.labels))
    if data.dataset in SCENES and not wrong:
        wrong += _scenes(config)
    if data.class_map is None:
        calib, evaluation = (
            open_source(data, split, config.cache_dir) for split in (data.calib_split, data.scored_split)
        )
        if calib.names != evaluation.names:
            one_sided = sorted(calib.names ^ evaluation.names)
            text = (
                f"splits {data.calib_split!r} and {data.scored_split!r} have different class folders (in one of them "
                f"alone: {shortened(one_sided, 5)}), so the folder's rank is no label; set data.class_map to a file "
                "with one class folder name per line"
            )
            wrong.append(Problem(text, "data.class_map", one_sided))
    return wrong


def warnings(config: RunConfig) -> list[str]:
    """What is done to a run's images that its config does not ask for, a line each. Raises DataError as `describe`."""
    data = config.data
    lines = []
    for split in _splits(config):
        lines += [f"split {split!r}: {line}" for line in open_source(data, split, config.cache_dir).left_out]
    if config.method.quantizes:
        shared, near = overlap(config)
        lines += [line.partition("; name two")[0] for line in (shared, near) if line]
    return lines


def _splits(config: RunConfig) -> list[str]:
    """The splits whose images are looked at."""
    calibrates = [config.data.calib_split] if config.method.quantizes else []
    return list(dict.fromkeys([*calibrates, config.data.scored_split]))


def _white(config: RunConfig) -> list[Problem]:
    data = config.data
    deep = sum(open_source(data, split, config.cache_dir).deep for split in _splits(config))
    return [unknown_white(None)] if deep and data.white is None else []


def _unread(data: DataConfig) -> list[Problem]:
    """Paths that images of this form are not read with: what they name would be another data set than what is used."""
    kind = form(data)
    what = {"digits": "the embedded digits", "digit_scenes": "the embedded scenes"}.get(kind, f"dataset={data.dataset}")
    return [
        Problem(
            f"data.{key}={getattr(data, key)!r}: {what} do not read it; leave it out, or choose other data",
            f"data.{key}",
            getattr(data, key),
        )
        for key, kinds in _READ_BY.items()
        if kind not in kinds and getattr(data, key) is not None
    ]


def _scenes(config: RunConfig) -> list[Problem]:
    """What is wrong with the scored images' objects, and with the files of all that are used."""
    data, used = config.data, used_scenes(config)
    scored, chosen = used[0]
    calib = open_source(data, data.calib_split, config.cache_dir)
    if isinstance(calib, SceneSource):
        ours, theirs = ({(c["id"], c["name"]) for c in source.categories} for source in (calib, scored))
        if one_sided := sorted(f"{name} (id {number})" for number, name in ours ^ theirs):
            text = (
                f"splits {data.calib_split!r} and {data.scored_split!r} have different categories (in one of them "
                f"alone: {shortened(one_sided, 5)}), so that their order is no label; give both annotation files the "
                "same list of categories"
            )
            return [Problem(text, "data.root", one_sided)]
    if not scored.counted(chosen):
        text = f"no object of split {data.scored_split!r} (data.eval_split) can be scored: it holds none"
        if len(chosen) < len(scored):
            text += f" in the {len(chosen)} images that are; choose others (data.eval_limit, data.eval_choice)"
        return [Problem(text, "data.eval_split", data.eval_split)]
    if config.task == "segmentation" and data.dataset == "coco" and (lacking := without_masks(scored.truth(chosen))):
        text = (
            f"{len(lacking)} objects of the scored images have no mask of their image (annotations of ids "
            f"{shortened(lacking, 3)}): polygons have three points or more, run-length codes the image's height and "
            "width; correct them, or score boxes alone (task=detection)"
        )
        return [Problem(text, "data.root", lacking)]
    wrong = [problem for source, indices in used for problem in source.unusable(indices, data.workers)]
    if len(wrong) <= _SHOWN:
        return [problem if problem.key else Problem(problem, "data.root", problem.value) for problem in wrong]
    text = f"{len(wrong)} images cannot be used, the first ones: {'; '.join(map(str, wrong[:_SHOWN]))}"
    return [Problem(text, "data.root", [problem.value for problem in wrong])]


def _ids(config: RunConfig) -> list[Problem]:
    if config.calib.ids is None:
        return []
    try:
        indices_of(open_source(config.data, config.data.calib_split, config.cache_dir), config.calib.ids)
        return []
    except DataError as error:
        return error.problems


def _classes(config: RunConfig) -> list[Problem]:
    outputs = config.model.kwargs.get("num_classes")
    if outputs is None or outputs == config.data.num_classes or config.task == "features":
        return []
    text = f"model.kwargs.num_classes={outputs}, but data.num_classes={config.data.num_classes}; make them equal"
    if outputs == 0:
        text = f"model.kwargs.num_classes=0 builds no head; set task=features, or give {config.data.num_classes}"
    return [Problem(text, "model.kwargs.num_classes", outputs, [config.data.num_classes])]


def _preprocessing(config: RunConfig) -> list[Problem]:
    wrong: list[Problem] = []
    if config.model.interpolation not in INTERPOLATIONS:
        key = "model.interpolation"
        wrong.append(unknown(key, config.model.interpolation, INTERPOLATIONS, key=key))
    mean, std = config.data.mean or config.model.mean, config.data.std or config.model.std
    channels = config.model.image_shape[0]
    if channels not in (1, 3):
        text = f"model.kwargs.in_chans={channels}: images have 3 channels, or 1 where they are read as gray"
        wrong.append(Problem(text, "model.kwargs.in_chans", channels, [1, 3]))
    if channels == 1 and (len(set(mean)) > 1 or len(set(std)) > 1):
        text = (
            f"model.kwargs.in_chans=1: a gray image has one mean and one std, not {list(mean)} and {list(std)}; write "
            "three equal values, e.g. model.mean=[0.5,0.5,0.5] model.std=[0.5,0.5,0.5]"
        )
        wrong.append(Problem(text, "model.kwargs.in_chans", 1))
    for key, given in (("model.std", config.model.std), ("data.std", config.data.std)):
        if given is not None and not all(value > 0 for value in given):
            text = f"{key}={list(given)}: every value must be above 0, on the scale where white is 1"
            wrong.append(Problem(text, key, list(given)))
    return [*wrong, *_scale(config)]


def _scale(config: RunConfig) -> list[Problem]:
    """Where mean or std is of pixels up to 255: images would reach the model nearly black."""
    wrong = []
    model, data = config.model, config.data
    means = (("model.mean", model.mean), ("data.mean", data.mean))
    for key, given in (*means, ("model.std", model.std), ("data.std", data.std)):
        if given is not None and max(given) > 1:
            scaled = ",".join(f"{value / 255:.4g}" for value in given)
            action = f"{key}=[{scaled}]"
            text = f"{key}={list(given)}: white is 1, so none is above it; of white as 255 it is {action}"
            wrong.append(Problem(text, key, list(given), action=action))
    return wrong
