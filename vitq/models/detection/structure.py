"""Structure of a detector: Swin's own under `backbone.body`, then the pyramid, then the heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from vitq.data.padded import Padded
from vitq.models.detection.dense import agreement, dense, divergence, fixed, likelihood
from vitq.models.detection.detector import Detector
from vitq.models.detection.outputs import Detections
from vitq.models.rotatable import Reader, Rotatable
from vitq.models.structure import FixedBoxComparison, Segment, Structure, layers_below, register_family
from vitq.models.swin import HEADLESS, WindowedAttention, swin_structure

BODY = "backbone.body"
PYRAMID = tuple(f"p{level}" for level in range(2, 7))  # stride 2^level
# What travels from segment to segment: the feature map, the sizes of the images, and the ends of earlier stages.
Value = tuple[Tensor, ...]


@register_family("detector", Detector, WindowedAttention)
def detector_structure(model: nn.Module) -> Structure:
    """Structure of a detector.

    Inputs of the layers of neck and heads are of the kind `dense`. The transposed convolution of the mask head is no
    site, as in all public code. `first_last` means the patch embedding and what gives scores, boxes and masks.
    """
    detector = cast(Detector, model)
    swin = swin_structure(detector.backbone.body)
    behind = [name for part in ("backbone.fpn", "rpn", "roi_heads") for name in layers_below(model, part)]
    outputs = ("cls_logits", "bbox_pred", "cls_score", "mask_fcn_logits")
    structure = Structure(
        "detector",
        model,
        inputs={f"{BODY}.{name}": kind for name, kind in swin.inputs.items()} | dict.fromkeys(behind, "dense"),
        attentions=[f"{BODY}.{name}" for name in swin.attentions],
        links=[
            replace(link, norm=f"{BODY}.{link.norm}", consumers=tuple(f"{BODY}.{name}" for name in link.consumers))
            for link in swin.links
        ],
        stem=tuple(f"{BODY}.{name}" for name in swin.stem),
        head=tuple(name for name in behind if name.rpartition(".")[2] in outputs),
        body=BODY,
        exported="backbone",
        outputs=PYRAMID,
    )
    structure.comparison = FixedBoxComparison(
        partial(fixed, detector), partial(dense, detector), divergence, agreement, likelihood
    )
    structure.rotatable = _rotatable(swin.rotatable)
    structure.segments = [
        Segment(f"{BODY}.{segment.name}", _carrying(detector, segment), tuple(f"{BODY}.{m}" for m in segment.modules))
        for segment in swin.segments[:-1]  # the last one is the classifier's head
    ]
    neck, heads = ("backbone.norms", "backbone.fpn"), ("rpn", "roi_heads")
    structure.segments.append(Segment("pyramid", lambda x: _pyramid(detector, x), neck, channel=1))
    structure.segments.append(Segment("heads", lambda x: _heads(detector, x), heads, learned=False))
    return structure


def _rotatable(swin: Rotatable) -> Rotatable:
    """Swin's own; each stage is read by its norm too, behind which the pyramid's 1×1 convolution stands."""

    def below(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{BODY}.{name}" for name in names)

    streams = []
    for index, stream in enumerate(swin.streams):
        # The classifier's norm and head are not there.
        readers = [
            replace(reader, norm=f"{BODY}.{reader.norm}", layers=below(reader.layers))
            for reader in stream.readers
            if reader.layers
        ]
        readers.append(Reader(f"backbone.norms.{index}", (f"backbone.fpn.inner_blocks.{index}.0",)))
        writers = tuple(replace(writer, layer=f"{BODY}.{writer.layer}") for writer in stream.writers)
        fixed = "" if stream.fixed == HEADLESS else stream.fixed
        read = tuple(readers)
        streams.append(replace(stream, name=f"{BODY}.{stream.name}", writers=writers, readers=read, fixed=fixed))
    heads = tuple(replace(head, qkv=f"{BODY}.{head.qkv}", proj=f"{BODY}.{head.proj}") for head in swin.heads)
    return Rotatable(tuple(streams), heads)


def _carrying(detector: Detector, segment: Segment) -> Callable[[Any], Any]:
    """A segment of Swin, and what travels along. Patch merging begins a stage: its input is the end of the last one."""
    if segment.name == "patch_embed":

        def first(images: Tensor | Padded) -> Value:
            padded = Padded.of(images)
            return segment.forward(padded.pixels), padded.sizes

        return first
    ends_stage = isinstance(detector.backbone.body.get_submodule(segment.name), PatchMerging)

    def forward(value: Value) -> Value:
        x, *others = value
        return (segment.forward(x), *others, x) if ends_stage else (segment.forward(x), *others)

    return forward


def _pyramid(detector: Detector, value: Value) -> Value:
    """Levels of the pyramid, then the sizes."""
    x, sizes, *ends = value
    return (*detector.backbone.neck(*ends, x), sizes)


def _heads(detector: Detector, value: Value) -> list[Detections]:
    *pyramid, sizes = value
    return detector.detect(tuple(pyramid), sizes)
