"""Under which conditions a figure was obtained."""

from __future__ import annotations

import dataclasses
import re

from pydantic import field_validator
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.published.cell import BITS, MODELS

Fact = int | float | str


@dataclass(frozen=True, config=RULES)
class Protocol:
    """What a source says about its protocol; None: not stated in what was read.

    A fact may depend on the model or the bits: `{deit: 0.875, vit: 0.9}`, `{W6A6: 200, W3A3: 1000}`; a key is the
    beginning of a model's name, or bits.

    transform: how calibration images are made. learning_images: images that a reconstruction or regression reads.
    iterations: of each block and stage, 0 where nothing is learned. seeds: number that a figure is the mean of.
    """

    checkpoint: Fact | dict[str, Fact] | None = None
    crop: Fact | dict[str, Fact] | None = None
    timm: Fact | dict[str, Fact] | None = None
    calibration_images: Fact | dict[str, Fact] | None = None
    learning_images: Fact | dict[str, Fact] | None = None
    transform: Fact | dict[str, Fact] | None = None
    granularity: Fact | dict[str, Fact] | None = None
    levels: Fact | dict[str, Fact] | None = None
    image: Fact | dict[str, Fact] | None = None
    first_last: Fact | dict[str, Fact] | None = None
    scope: Fact | dict[str, Fact] | None = None
    iterations: Fact | dict[str, Fact] | None = None
    batch_size: Fact | dict[str, Fact] | None = None
    rate: Fact | dict[str, Fact] | None = None
    seeds: Fact | dict[str, Fact] | None = None
    hardware: Fact | dict[str, Fact] | None = None
    note: Fact | dict[str, Fact] | None = None

    @field_validator("*")
    @classmethod
    def _keys(cls, value: Fact | dict[str, Fact] | None) -> Fact | dict[str, Fact] | None:
        for key in value if isinstance(value, dict) else ():
            if not re.fullmatch(BITS, key) and not any(model.startswith(key) for model in MODELS):
                raise ValueError(f"{key!r} is neither bits (W4A4) nor the beginning of a model's name (deit)")
        return value

    def facts(self, model: str, bits: str | None) -> dict[str, Fact]:
        """What is known for one model and bit-width, by field."""
        known: dict[str, Fact] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                value = next((v for key, v in value.items() if key == bits or model.startswith(key)), None)
            if value is not None:
                known[field.name] = value
        return known


# Field of `Protocol` → what people call it.
LABELS = {field.name: field.name.replace("_", " ") for field in dataclasses.fields(Protocol)} | {
    "timm": "timm version",
    "learning_images": "images to learn from",
    "transform": "calibration transform",
    "granularity": "granularity of activations",
    "first_last": "first and last layer",
    "scope": "what is quantized",
    "rate": "learning rate",
}
