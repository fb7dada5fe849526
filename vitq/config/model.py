"""Which model, which weights, and the preprocessing that its paper protocol prescribes."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES

_Side = Annotated[int, Field(ge=8)]
SHIFT = 1 / 32  # of a training image; configs that do not say another one are signed as before there was a choice


@dataclass(frozen=True, config=RULES)
class TrainConfig:
    """How vitq trains an embedded model on first use. Every value is part of the run's identity.

    seed: of initial weights and batches.
    epochs: passes over the training images.
    batch_size: images in a step.
    lr, weight_decay: of AdamW.
    label_smoothing: of the cross-entropy.
    shift: of a classifier's images: each is moved by up to this share of its side in x and y, anew in each epoch.
    """

    seed: int = 0
    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[float, Field(ge=0, lt=0.5)] = SHIFT


@dataclass(frozen=True, config=RULES)
class ModelConfig:
    """A timm model.

    name: timm name with its pretrained tag, e.g. `vit_base_patch16_224.augreg_in21k_ft_in1k`.
    kwargs: passed to `timm.create_model`.
    pretrained: take weights from the hub (ignored where `checkpoint` or `train` is given).
    checkpoint: path of a safetensors or `.pth` file; replaces the hub. Volatile: `weights` is its content hash.
    checkpoint_key: under which key of the file the weights lie (`model_ema`, `teacher`, `state_dict.ema`), or the
        prefix of their names; None: `state_dict` or `model` where they are there, else the whole file.
    weights: sha256 of the checkpoint's content, commit of a hub model; filled in by the plan, part of the identity.
    train: recipe of an embedded model that vitq trains itself.
    input_size: side of the images, or [height, width]. `kwargs.in_chans=1` is a model of gray images.
    crop_pct: side of the centre crop, as a part of the shorter side of the resized image.
    interpolation: of resizing: `bicubic`, `bilinear`, `nearest`.
    mean, std: by which images are normalized, per channel, of values between 0 and 1.
    short_side, long_side: of a detector's images: the short side gets this length unless the long one would become
        longer than this; None: images keep their size. input_size is then the size for which costs are counted.
    fp_top1: published full-precision top-1 in percent, for reference beside the measured one.
    """

    name: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    weights: str | None = None
    train: TrainConfig | None = None
    input_size: _Side | tuple[_Side, _Side] = 224
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.9
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    fp_top1: float | None = None
    short_side: _Side | None = None
    long_side: _Side | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input image."""
        size = self.input_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.kwargs.get("in_chans", 3)), height, width
