"""Images that a step holds out: the last ones of the calibration set, which judge what it learned from the others."""

from __future__ import annotations

import logging

from vitq.config import RunConfig
from vitq.errors import Problem, bad

LOG = logging.getLogger("vitq.steps")


def learned_from(images: int, hold_out: float) -> int:
    """How many of so many images, the first ones, are learned from where this share is held out."""
    return images - round(hold_out * images)


def none_left(config: RunConfig, hold_out: float) -> list[Problem]:
    """The problem of a share that leaves no image to learn from."""
    size = config.calib.size
    if learned_from(size, hold_out):
        return []
    why = f"that holds out all of calib.size={size} images and leaves none to learn from; make it smaller"
    return [bad("hold_out", hold_out, why)]


def warn_unjudged(step: str, images: int, hold_out: float) -> None:
    """Say that nobody judges what is learned, where a share was to be held out and is less than one image."""
    if hold_out and learned_from(images, hold_out) == images:
        text = "%s: hold_out=%g of %d calibration images is less than one: what is learned is kept without being judged"
        LOG.warning(text, step, hold_out, images)
