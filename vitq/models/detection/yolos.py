"""YOLOS (Fang et al., NeurIPS 2021, arXiv 2106.00666): a DeiT with a hundred detection tokens and two small MLPs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from vitq.data.padded import Padded
from vitq.errors import ModelError, bad
from vitq.models.build import EMBEDDED
from vitq.models.checkpoint import renamed_by
from vitq.models.detection.outputs import Detections

# COCO's 80 categories among the 91 numbers that its classifier knows.
GAPS = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_NUMBERS = 91

_BLOCK = r"vit\.encoder\.layer\.(\d+)\."
# Names of Hugging Face's weights, and ours.
_RULES = (
    (r"vit\.embeddings\.cls_token", "cls_token"),
    (r"vit\.embeddings\.detection_tokens", "det_tokens"),
    (r"vit\.embeddings\.position_embeddings", "pos_embed"),
    (r"vit\.encoder\.mid_position_embeddings", "mid_pos_embed"),
    (r"vit\.embeddings\.patch_embeddings\.projection\.", "body.patch_embed.proj."),
    (_BLOCK + r"attention\.output\.dense\.", r"body.blocks.\1.attn.proj."),
    (_BLOCK + r"layernorm_before\.", r"body.blocks.\1.norm1."),
    (_BLOCK + r"layernorm_after\.", r"body.blocks.\1.norm2."),
    (_BLOCK + r"intermediate\.dense\.", r"body.blocks.\1.mlp.fc1."),
    (_BLOCK + r"output\.dense\.", r"body.blocks.\1.mlp.fc2."),
    (r"vit\.layernorm\.", "body.norm."),
    (r"class_labels_classifier\.layers\.", "class_embed.layers."),
    (r"bbox_predictor\.layers\.", "bbox_embed.layers."),
)
_PROJECTION = re.compile(_BLOCK + r"attention\.attention\.(query|key|value)\.(weight|bias)")


class Queries(NamedTuple):
    """What each detection token of an image says. logits: (Q, 1 + K), no object last. boxes: (Q, 4), x y of the centre,
    width and height, as parts of the image."""

    logits: Tensor
    boxes: Tensor


class Perceptron(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


class Yolos(nn.Module):
    """body: timm's blocks, patch embedding and last norm. Images go through one at a time, cut to whole patches.

    img_size: height and width that the position embeddings were trained at; they are resampled to those of an image.
    middle: whether every block but the last has position embeddings behind it. outputs: numbers that the classifier
    knows, 91 for COCO's own numbering of 80 categories.
    """

    columns: Tensor

    def __init__(
        self,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        img_size: Sequence[int] = (800, 1333),
        patch_size: int = 16,
        queries: int = 100,
        middle: bool = False,
        num_classes: int = 80,
        outputs: int | None = None,
    ):
        super().__init__()
        outputs = num_classes if outputs is None else outputs
        if outputs != num_classes and (outputs, num_classes) != (COCO_NUMBERS, COCO_NUMBERS - len(GAPS)):
            why = f"there are {num_classes} classes; valid: {num_classes}, or 91 for COCO's 80"
            raise ValueError(bad("outputs", outputs, why, [num_classes]))
        left = [number for number in range(outputs) if outputs == num_classes or number not in GAPS]
        self.register_buffer("columns", torch.tensor(left), persistent=False)
        self.patch_size, self.queries = patch_size, queries
        self.grid = img_size[0] // patch_size, img_size[1] // patch_size
        self.body = VisionTransformer(
            img_size=(self.grid[0] * patch_size, self.grid[1] * patch_size),
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=0,
            global_pool="",
            class_token=False,
            pos_embed="none",
            dynamic_img_size=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-12),
        )
        tokens = 1 + self.grid[0] * self.grid[1] + queries
        self.cls_token, self.det_tokens = _parameter(1, 1, embed_dim), _parameter(1, queries, embed_dim)
        self.pos_embed = _parameter(1, tokens, embed_dim)
        self.mid_pos_embed = _parameter(depth - 1, 1, tokens, embed_dim) if middle else None
        self.class_embed, self.bbox_embed = Perceptron(embed_dim, outputs + 1), Perceptron(embed_dim, 4)

    def forward(self, images: Tensor | Padded) -> list[Detections]:
        """The objects of each image. A tensor (B, 3, H, W) is images that fill it."""
        padded = Padded.of(images)
        return [self._one(padded[index : index + 1]) for index in range(len(padded))]

    def _one(self, image: Padded) -> Detections:
        x = self.stem(image)
        for index, block in enumerate(self.body.blocks):
            x = self.behind(index, block(x), image.sizes)
        return self.detections(x, image.sizes)

    def stem(self, image: Padded) -> Tensor:
        """Tokens (1, T, C) of one image: class, patches, detections."""
        height, width = (side * self.patch_size for side in self._cells(image.sizes))
        patches = self.body.patch_embed(image.pixels[:, :, :height, :width]).flatten(1, 2)
        return torch.cat([self.cls_token, patches, self.det_tokens], dim=1) + self._positions(
            self.pos_embed, image.sizes
        )

    def behind(self, index: int, x: Tensor, sizes: Tensor) -> Tensor:
        """What goes into the block behind number `index`."""
        if self.mid_pos_embed is None or index >= len(self.mid_pos_embed):
            return x
        return x + self._positions(self.mid_pos_embed[index], sizes)

    def answers(self, x: Tensor) -> Queries:
        """From the tokens (1, T, C) of one image."""
        tokens = self.body.norm(x)[0, -self.queries :]
        return Queries(self.class_embed(tokens), self.bbox_embed(tokens).sigmoid())

    def detections(self, x: Tensor, sizes: Tensor) -> Detections:
        """One object for each detection token, the likeliest class of each, best first; no masks."""
        given = self.answers(x)
        scores, labels = given.logits.softmax(dim=-1)[:, self.columns].max(dim=-1)
        height, width = sizes[0].tolist()
        centre, side = given.boxes[:, :2], given.boxes[:, 2:]
        boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1)
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        order = scores.argsort(descending=True, stable=True)
        return Detections(boxes[order], scores[order], labels[order], boxes.new_zeros(len(boxes), 0, 0))

    def _cells(self, sizes: Tensor) -> tuple[int, int]:
        height, width = sizes[0].tolist()
        return height // self.patch_size, width // self.patch_size

    def _positions(self, table: Tensor, sizes: Tensor) -> Tensor:
        """A table (1, tokens, C) for an image of this size."""
        first, patches, last = table[:, :1], table[:, 1 : -self.queries], table[:, -self.queries :]
        plane = patches.transpose(1, 2).unflatten(2, self.grid)
        scaled = F.interpolate(plane, self._cells(sizes), mode="bicubic", align_corners=False)
        return torch.cat([first, scaled.flatten(2).transpose(1, 2), last], dim=1)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.02)


EMBEDDED.register("yolos")(Yolos)


def checkpoint_filter_fn(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Hugging Face's weights under our names; names of ours stay. Raises ModelError where a projection is missing."""
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if projection := _PROJECTION.fullmatch(name):
            parts.setdefault(f"body.blocks.{projection[1]}.attn.qkv.{projection[3]}", {})[projection[2]] = tensor
        else:
            renamed[renamed_by(_RULES, name)] = tensor
    for name, given in parts.items():
        missing = {"query", "key", "value"} - given.keys()
        if missing:
            text = f"the checkpoint has no {', '.join(sorted(missing))} for {name}; it was cut, give the whole file"
            raise ModelError(text, "model.checkpoint", name)
        renamed[name] = torch.cat([given["query"], given["key"], given["value"]])
    return renamed
