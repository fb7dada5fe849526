"""Any PIL image as 8-bit RGB or gray, no value clipped in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitq.errors import Problem

if TYPE_CHECKING:
    from PIL.Image import Image


def to_mode(image: Image, mode: str) -> Image:
    """The image as `RGB` or `L`. Gray of 16 bits is divided by 257, rounded.

    Raises ValueError for pixels of 32 bits, whose white is unknown.
    """
    from PIL import Image as Pillow

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion clips at 255: all but the darkest pixels become white.
        deep = np.asarray(image).astype(np.uint32)
        image = Pillow.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        text = f"pixels of mode {image.mode} have 32 bits and no known white; convert the images to 8 bits"
        raise ValueError(Problem(text, value=image.mode))
    return image.convert(mode)
