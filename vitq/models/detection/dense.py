"""What a detector gives before objects are chosen, at boxes that are held fixed, and how far two networks differ there.

Which objects a network finds jumps with its numbers, and those of two networks have no partners. Their scores, offsets
and masks at the same boxes do.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from vitq.models.detection.backbone import LEVELS
from vitq.models.detection.cascade import CascadeHeads
from vitq.models.detection.detector import Detector, shapes_of_images

Value = tuple[Tensor, ...]
# Of an image: the best proposals that are compared, and what the sum over its anchors is divided by, as in training.
PROPOSALS, ANCHORS = 256, 256
# Objectness from which an anchor's offsets are compared (APHQ-ViT's public code).
SURE = 0.7
BETA = 1 / 9  # of the smooth L1 distance, as in training


class Boxes(NamedTuple):
    """Of one image. stages: float32 (P, 4), what each of the heads reads, one or three. objects: (D, 4), with masks.
    labels: int64 (D,), from 1."""

    stages: tuple[Tensor, ...]
    objects: Tensor
    labels: Tensor


class Dense(NamedTuple):
    """Of one image. objectness: (A,) logits. anchors: (A, 4) offsets. classes: (S·P, 1 + K) logits of all stages, the
    background first. boxes: (S·P, 1 + K, 4) offsets. masks: (S·D, M, M) logits of the objects' own classes."""

    objectness: Tensor
    anchors: Tensor
    classes: Tensor
    boxes: Tensor
    masks: Tensor


@torch.no_grad()
def fixed(detector: Detector, value: Value) -> Boxes:
    """The boxes of this network for one image: value: its pyramid, then its size (1, 2)."""
    *levels, sizes = value
    features, shapes = dict(zip(LEVELS, levels, strict=True)), shapes_of_images(sizes)
    proposals, _ = detector.rpn(ImageList(levels[0], shapes), features)
    best = [boxes[:PROPOSALS] for boxes in proposals]
    heads = detector.roi_heads
    if isinstance(heads, CascadeHeads):
        stages = tuple(boxes[0] for boxes, _, _ in heads.stages(features, best, shapes))
    else:
        stages = (best[0],)
    (objects,), _ = heads(features, best, shapes)
    return Boxes(stages, objects["boxes"], objects["labels"])


def dense(detector: Detector, value: Value, at: Boxes) -> Dense:
    """What the network gives at these boxes for one image: value: its pyramid, then its size (1, 2)."""
    *levels, _ = value
    features, heads = dict(zip(LEVELS, levels, strict=True)), detector.roi_heads
    objectness, offsets = detector.rpn.head(list(levels))
    boxed = zip(_pairs(heads.box_head, heads.box_predictor), at.stages, strict=True)
    predicted = [predictor(head(heads.box_roi_pool(features, [stage]))) for (head, predictor), stage in boxed]
    pooled, rows = heads.mask_roi_pool(features, [at.objects]), torch.arange(len(at.labels), device=at.labels.device)
    masks = [
        predictor(head(pooled))[rows, at.labels] for head, predictor in _pairs(heads.mask_head, heads.mask_predictor)
    ]
    return Dense(
        torch.cat([level.permute(0, 2, 3, 1).flatten() for level in objectness]),
        torch.cat([level.permute(0, 2, 3, 1).reshape(-1, 4) for level in offsets]),
        torch.cat([scores for scores, _ in predicted]),
        torch.cat([offsets for _, offsets in predicted]).unflatten(1, (-1, 4)),
        torch.cat(masks),
    )


def _pairs(head: nn.Module, predictor: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """One head with its predictor, or a cascade's three."""
    if isinstance(head, nn.ModuleList) and isinstance(predictor, nn.ModuleList):
        return list(zip(head, predictor, strict=True))
    return [(head, predictor)]


def divergence(exact: Dense, other: Dense, temperature: float = 1.0) -> Tensor:
    """float64 scalar, nats: how far `other` is from `exact`. Zero where they are equal, never negative.

    The losses that detectors are trained by, with the full-precision network's own outputs for the truth, less what
    they are for itself: KL of objectness over anchors and of classes over proposals, smooth L1 of the offsets of sure
    anchors and of proposals that are no background, KL of masks. The parts and their equal weights are ours [I].
    temperature T: KL of logits/T, times T², so that the parts keep their weights.
    """
    e, o = (Dense(*(part.double() for part in network)) for network in (exact, other))
    sure = e.objectness.sigmoid() > SURE
    label = e.classes.argmax(dim=1)
    inside = torch.arange(len(label), device=label.device)[label > 0], label[label > 0]
    t = temperature
    log_p, log_q = (e.classes / t).log_softmax(dim=1), (o.classes / t).log_softmax(dim=1)
    return (
        t * t * _bernoulli(e.objectness / t, o.objectness / t).sum() / ANCHORS
        + _distance(e.anchors[sure], o.anchors[sure])
        + t * t * (log_p.exp() * (log_p - log_q)).sum() / max(1, len(label))
        + _distance(e.boxes[inside], o.boxes[inside])
        + t * t * _bernoulli(e.masks / t, o.masks / t).sum() / max(1, e.masks.numel())
    )


def likelihood(network: Dense, generator: torch.Generator) -> Tensor:
    """Σ √w·log p(y|·) over the parts of `divergence`, each with its weight w there; a scalar that has a gradient.

    y is drawn from the network's own prediction, on the CPU: objectness and cells of masks from their probability,
    classes from theirs, offsets from a normal distribution of variance BETA, whose negative logarithm the smooth L1 is
    near 0. As draws are independent, the mean of the gradient's square is the second derivative of `divergence`.
    """
    sure = network.objectness.detach().sigmoid() > SURE
    label = network.classes.detach().argmax(dim=1)
    inside = torch.arange(len(label), device=label.device)[label > 0], label[label > 0]
    masks = max(1, network.masks.numel())
    return (
        _drawn_bernoulli(network.objectness, generator) / math.sqrt(ANCHORS)
        + _drawn_normal(network.anchors[sure], generator)
        + drawn_class(network.classes, generator) / math.sqrt(max(1, len(label)))
        + _drawn_normal(network.boxes[inside], generator)
        + _drawn_bernoulli(network.masks, generator) / math.sqrt(masks)
    )


def drawn_class(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Σ log p(y) over logits (N, K), one class drawn for each."""
    if not len(logits):
        return logits.sum()
    drawn = torch.multinomial(logits.detach().softmax(dim=-1).cpu(), 1, generator=generator).to(logits.device)
    return logits.log_softmax(dim=-1).gather(1, drawn).sum()


def _drawn_bernoulli(logits: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.bernoulli(logits.detach().sigmoid().cpu(), generator=generator).to(logits.device)
    return -F.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")


def _drawn_normal(offsets: Tensor, generator: torch.Generator) -> Tensor:
    """Of offsets (N, 4), over √N."""
    noise = torch.randn(offsets.shape, generator=generator).to(offsets) * math.sqrt(BETA)
    square = (offsets.detach() + noise - offsets).square().sum()
    return -square / (2 * BETA) / math.sqrt(max(1, len(offsets)))


@torch.no_grad()
def agreement(exact: Dense, other: Dense) -> Tensor:
    """float64 scalar, percent: proposals of which both networks say the same class, or the background."""
    return (exact.classes.argmax(dim=1) == other.classes.argmax(dim=1)).double().mean() * 100


def _bernoulli(exact: Tensor, other: Tensor) -> Tensor:
    """KL of each pair of logits."""
    p = exact.sigmoid()
    return p * (F.logsigmoid(exact) - F.logsigmoid(other)) + (1 - p) * (F.logsigmoid(-exact) - F.logsigmoid(-other))


def _distance(exact: Tensor, other: Tensor) -> Tensor:
    """Smooth L1, summed over the four offsets, mean over boxes; 0 without boxes."""
    return F.smooth_l1_loss(other, exact, beta=BETA, reduction="sum") / max(1, len(exact))
