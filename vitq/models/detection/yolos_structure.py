"""Structure of YOLOS: timm's blocks under `body`, then the two MLPs on the detection tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitq.data.padded import Padded
from vitq.models.detection.dense import drawn_class
from vitq.models.detection.yolos import Queries, Yolos
from vitq.models.structure import FixedBoxComparison, Segment, Structure, layers_below, register_family
from vitq.models.vit import GlobalAttention, vit_structure

BODY = "body"
# What travels from segment to segment: the tokens of one image, and its size.
Value = tuple[Tensor, Tensor]


@register_family("yolos", Yolos, GlobalAttention)
def yolos_structure(model: nn.Module) -> Structure:
    """Structure of a YOLOS. Inputs of both MLPs are of the kind `dense`; `first_last` means the patch embedding and
    what gives classes and boxes. Values are of one image."""
    yolos = cast(Yolos, model)
    vit = vit_structure(yolos.body)
    dense = [name for part in ("class_embed", "bbox_embed") for name in layers_below(model, part)]
    structure = Structure(
        "yolos",
        model,
        inputs={f"{BODY}.{name}": kind for name, kind in vit.inputs.items()} | dict.fromkeys(dense, "dense"),
        attentions=[f"{BODY}.{name}" for name in vit.attentions],
        links=[
            replace(link, norm=f"{BODY}.{link.norm}", consumers=tuple(f"{BODY}.{name}" for name in link.consumers))
            for link in vit.links
            if link.consumers
        ],
        stem=tuple(f"{BODY}.{name}" for name in vit.stem),
        head=tuple(name for name in dense if name.endswith(".2")),
        body=BODY,
        outputs=(),  # it has no pyramid, and embeddings of positions that follow the size of each image
    )
    structure.segments.append(Segment("body.patch_embed", lambda images: _stem(yolos, images), ("body.patch_embed",)))
    for index, block in enumerate(yolos.body.blocks):
        name = f"{BODY}.blocks.{index}"
        structure.segments.append(Segment(name, partial(_block, yolos, index, block), (name,)))
    heads = ("body.norm", "class_embed", "bbox_embed")
    structure.segments.append(Segment("heads", lambda value: [yolos.detections(*value)], heads, learned=False))
    structure.comparison = FixedBoxComparison(
        lambda value: None, lambda value, _: yolos.answers(value[0]), divergence, agreement, likelihood
    )
    return structure


def _stem(yolos: Yolos, images: Tensor | Padded) -> Value | list[Value]:
    """A value for each image, whose numbers of tokens differ; that of a single one alone."""
    padded = Padded.of(images)
    each = [padded[index : index + 1] for index in range(len(padded))]
    values = [(yolos.stem(image), image.sizes) for image in each]
    return values[0] if len(values) == 1 else values


def _block(yolos: Yolos, index: int, block: nn.Module, value: Value) -> Value:
    x, sizes = value
    return yolos.behind(index, block(x), sizes), sizes


def divergence(exact: Queries, other: Queries, temperature: float = 1.0) -> Tensor:
    """float64 scalar, nats: KL of the classes, mean over detection tokens, and L1 of the boxes of those that see an
    object. The parts and their equal weights are ours [I]. temperature: as in `dense.divergence`."""
    t = temperature
    log_p, log_q = ((network.logits.double() / t).log_softmax(dim=-1) for network in (exact, other))
    objects = log_p.argmax(dim=-1) < log_p.shape[-1] - 1
    apart = F.l1_loss(other.boxes[objects].double(), exact.boxes[objects].double(), reduction="sum")
    kl = t * t * (log_p.exp() * (log_p - log_q)).sum() / len(log_p)
    return kl + apart / max(1, len(exact.boxes[objects]))


def likelihood(network: Queries, generator: torch.Generator) -> Tensor:
    """Σ √w·log p(y|·) over the parts of `divergence`, y drawn from the network's own prediction: a class for each
    token, and boxes from a Laplace distribution of scale 1, whose negative logarithm the L1 is. See `dense.likelihood`.
    """
    objects = network.logits.detach().argmax(dim=-1) < network.logits.shape[-1] - 1
    boxes = network.boxes[objects]
    sides = torch.randint(0, 2, boxes.shape, generator=generator).to(boxes) * 2 - 1  # the gradient of |y − box|
    apart = (boxes * sides).sum() / math.sqrt(max(1, len(boxes)))
    return drawn_class(network.logits, generator) / math.sqrt(len(network.logits)) + apart


@torch.no_grad()
def agreement(exact: Queries, other: Queries) -> Tensor:
    """float64 scalar, percent: detection tokens whose likeliest class, or no object, is the same."""
    return (exact.logits.argmax(dim=-1) == other.logits.argmax(dim=-1)).double().mean() * 100
