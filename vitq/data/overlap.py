"""Images that calibrate a model and are scored as well, however they got into both splits."""

from __future__ import annotations

import hashlib

import numpy as np

from vitq.config import RunConfig
from vitq.data import digits
from vitq.data.choose import calibration_indices, evaluation_indices, held_out_indices, indices_of
from vitq.data.location import form
from vitq.data.opening import open_source
from vitq.data.source import Source
from vitq.errors import DataError

# Calibration images up to which all of them are compared, not only those that calibrate.
_FEW = 5000


def overlap(config: RunConfig) -> tuple[str | None, str | None]:
    """(why the run must be refused, what is worth a warning) where both splits share images.

    Refused: the splits are the same images, or an image that calibrates (of this seed and size) has the content of one
    that is scored, be it a link, a copy or the same file of an archive. Warned: splits share images that do not
    calibrate. Streams are compared as wholes. Raises DataError.
    """
    data, ids = config.data, config.calib.ids
    if data.held_out is not None:  # images of one split, chosen apart from those that calibrate
        if ids is None:
            return None, None
        source = open_source(data, data.calib_split, config.cache_dir)
        return _named(config, source, held_out_indices(source, data.held_out)), None
    if form(data) == "digits":
        shared = np.intersect1d(digits.indices(data.calib_split), digits.indices(data.eval_split)).size
        return (_both(config, f"{shared}"), None) if shared else (None, None)
    if form(data) == "digit_scenes":
        same = (data.calib_split == "test") == (data.eval_split == "test")
        return (_both(config, "scenes of the same digits"), None) if same else (None, None)
    calib, evaluation = (open_source(data, split, config.cache_dir) for split in (data.calib_split, data.eval_split))
    if calib is evaluation or data.calib_split == data.eval_split or calib.fingerprint == evaluation.fingerprint:
        if ids is None:
            return _both(config, "all of them"), None
        spread = data.eval_choice == "spread"
        return _named(config, calib, evaluation_indices(evaluation, data.eval_limit, spread)), None
    if calib.read is None or evaluation.read is None or config.calib.size > len(calib):
        return None, None
    by_seed = config.calib.size, config.seed, config.calib.balanced
    chosen = calibration_indices(calib, *by_seed) if ids is None else indices_of(calib, ids)
    if pair := _same(calib, chosen, evaluation):
        return _both(config, f"e.g. {calib.name(pair[0])} = {evaluation.name(pair[1])}"), None
    if len(calib) <= _FEW and (pair := _same(calib, np.arange(len(calib)), evaluation)):
        text = f"{calib.name(pair[0])} and {evaluation.name(pair[1])} are the same image"
        return None, f"{text}; it does not calibrate with seed={config.seed}, and may with another seed or calib.size"
    return None, None


def _named(config: RunConfig, source: Source, scored: np.ndarray) -> str | None:
    """Why `calib.ids` must be refused where the images at these positions are scored."""
    ids = config.calib.ids or ()
    shared = [number for number, index in zip(ids, indices_of(source, ids), strict=True) if index in scored]
    return _both(config, f"calib.ids {', '.join(map(str, shared))}") if shared else None


def _both(config: RunConfig, what: str) -> str:
    splits = f"data.calib_split={config.data.calib_split!r} and data.eval_split={config.data.eval_split!r}"
    return (
        f"{splits} share images ({what}): a model must not be scored on images that calibrated it; name two splits of "
        "different images, or say that it is meant with data.allow_overlap=true"
    )


def _same(calib: Source, chosen: np.ndarray, evaluation: Source) -> tuple[int, int] | None:
    """Positions of an image in both splits: equal sizes first, then equal bytes."""
    assert calib.sizes is not None
    assert evaluation.sizes is not None
    scored = np.flatnonzero(np.isin(evaluation.sizes, calib.sizes[chosen]))
    candidates = chosen[np.isin(calib.sizes[chosen], evaluation.sizes[scored])]
    known = {_digest(evaluation, int(index)): int(index) for index in scored} if len(candidates) else {}
    for index in candidates:
        if (digest := _digest(calib, int(index))) in known:
            return int(index), known[digest]
    return None


def _digest(source: Source, index: int) -> bytes:
    assert source.read is not None
    if index not in source.digests:
        try:
            source.digests[index] = hashlib.blake2b(source.read(index), digest_size=16).digest()
        except OSError as error:
            text = f"image {source.name(index)} cannot be read: {error.strerror or error}"
            raise DataError(text, value=source.name(index)) from error
    return source.digests[index]
