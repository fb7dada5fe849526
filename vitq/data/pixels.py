"""Any PIL image as 8-bit RGB or gray, no value clipped in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitq.errors import Problem, bad

if TYPE_CHECKING:
    from PIL.Image import Image


def unknown_white(white: int | None, largest: int | None = None) -> Problem:
    """What to say of gray images of 16 bits where their white is unknown, or less than the largest of their values."""
    why = "gray images of 16 bits" if largest is None else f"gray of 16 bits with values up to {largest}"
    why += ", and no file says which value is white: set data.white=65535 (all of the range), 4095 (12 bits), …"
    return bad("data.white", "null" if white is None else white, why)


def to_mode(image: Image, mode: str, white: int | None = None) -> Image:
    """The image as `RGB` or `L`. Gray of 16 bits is scaled so that `white` becomes 255, rounded.

    Raises ValueError for 16 bits where white is None or less than a pixel, and for pixels of 32 bits.
    """
    from PIL import Image as Pillow

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion clips at 255: all but the darkest pixels become white.
        deep = np.asarray(image).astype(np.uint32)
        if white is None or deep.max(initial=0) > white:
            raise ValueError(unknown_white(white, int(deep.max(initial=0))))
        image = Pillow.fromarray(((255 * deep + white // 2) // white).astype(np.uint8))
    elif image.mode in ("I", "F"):
        text = f"pixels of mode {image.mode} have 32 bits and no known white; convert the images to 8 bits"
        raise ValueError(Problem(text, value=image.mode))
    return image.convert(mode)
