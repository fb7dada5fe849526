"""The shape of the images that an integer graph takes."""

from __future__ import annotations

from vitq.data.ragged import STRIDE
from vitq.deploy.onnx.export_onnx import Shape
from vitq.deploy.packed.packed import Packed
from vitq.errors import DeployError, bad

Size = tuple[int, int]  # height, width


def graph_shape(packed: Packed, size: Size | None) -> Shape:
    """Channels, height and width. size: of a detector's padded images; None for that of the config.

    Raises DeployError for a network without an integer graph, for a size of a classifier, and for one that images are
    not padded to.
    """
    structure, image = packed.model.structure, packed.config.model.image_shape
    if not structure.outputs:
        text = (
            f"networks of the family {structure.family!r} have no integer graph: there is no pyramid to give, and the "
            "embeddings of positions follow the size of each image; pack it (`vitq export --format packed`)"
        )
        raise DeployError(text, "model.name", packed.config.model.name, ["mask_rcnn", "cascade_mask_rcnn"])
    if not structure.exported:
        if size is not None:
            text = f"is of detectors; images of {packed.config.model.name!r} have {image[1]}x{image[2]}; leave it out"
            raise DeployError(bad("--size", _text(size), text))
        return image
    height, width = size or image[1:]
    if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
        text = f"images are padded to multiples of {STRIDE}, e.g. 800x1216"
        raise DeployError(bad("--size", _text((height, width)), text))
    return image[0], height, width


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
