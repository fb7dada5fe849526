"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) and Cascade Mask R-CNN on Swin, with the numbers of mmdet 2.11."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead

from vitq.data.padded import Padded
from vitq.models.build import EMBEDDED
from vitq.models.detection.anchors import RATIOS, Anchors, Coder
from vitq.models.detection.backbone import LEVELS, STRIDES, Backbone
from vitq.models.detection.cascade import CascadeHeads
from vitq.models.detection.heads import BoxHeads, BoxPredictor, MaskPredictor, Proposals
from vitq.models.detection.mmdet_names import checkpoint_filter_fn as checkpoint_filter_fn
from vitq.models.detection.outputs import Detections
from vitq.models.detection.pooling import Pooler

PROPOSALS = 1000  # of each level before and of all levels after suppression, in evaluation
TRAINED = 2000  # the same in training
DETECTIONS = 100  # of an image
SCORE, OVERLAP, PROPOSAL_OVERLAP = 0.05, 0.5, 0.7  # least score; suppression of boxes and of proposals


class Detector(nn.Module):
    """backbone: image → pyramid. rpn: pyramid → proposals. roi_heads: pyramid, proposals → boxes, classes, masks.

    embed_dim, depths, num_heads, window_size: of Swin. pyramid: channels of each level. hidden: width of the box head.
    num_classes: without the background. anchor_scale: side of an anchor in cells of its level. cascade: three heads.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        pyramid: int = 256,
        hidden: int = 1024,
        num_classes: int = 80,
        anchor_scale: int = 8,
        cascade: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = Backbone(embed_dim, tuple(depths), tuple(num_heads), window_size, pyramid)
        self.rpn = Proposals(
            Anchors(STRIDES, anchor_scale),
            RPNHead(pyramid, len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": TRAINED, "testing": PROPOSALS},
            post_nms_top_n={"training": PROPOSALS, "testing": PROPOSALS},
            nms_thresh=PROPOSAL_OVERLAP,
        )
        self.rpn.box_coder = Coder((1.0, 1.0, 1.0, 1.0))
        self.rpn.min_size = 0.0  # boxes without an area are proposals, too
        levels = STRIDES[:-1]  # the coarsest one makes proposals alone
        self.roi_heads: BoxHeads | CascadeHeads
        if cascade:
            self.roi_heads = CascadeHeads(pyramid, hidden, num_classes, levels, SCORE, OVERLAP, DETECTIONS)
        else:
            self.roi_heads = BoxHeads(
                Pooler(7, levels),
                TwoMLPHead(pyramid * 7 * 7, hidden),
                BoxPredictor(hidden, num_classes),
                fg_iou_thresh=0.5,
                bg_iou_thresh=0.5,
                batch_size_per_image=512,
                positive_fraction=0.25,
                bbox_reg_weights=None,
                score_thresh=SCORE,
                nms_thresh=OVERLAP,
                detections_per_img=DETECTIONS,
                mask_roi_pool=Pooler(14, levels),
                mask_head=MaskRCNNHeads(pyramid, [pyramid] * 4, 1),
                mask_predictor=MaskPredictor(pyramid, num_classes),
            )
            self.roi_heads.box_coder = Coder((10.0, 10.0, 5.0, 5.0))

    def forward(self, images: Tensor | Padded) -> list[Detections]:
        """The objects of each image. A tensor (B, 3, H, W) is images that fill it."""
        padded = Padded.of(images)
        return self.detect(self.backbone(padded.pixels), padded.sizes)

    def detect(self, pyramid: tuple[Tensor, ...], sizes: Tensor) -> list[Detections]:
        """The objects of each image, from its pyramid and its size (B, 2)."""
        features, shapes = _named(pyramid), shapes_of_images(sizes)
        proposals, _ = self.rpn(ImageList(pyramid[0], shapes), features)
        objects, _ = self.roi_heads(features, proposals, shapes)
        return [Detections(o["boxes"], o["scores"], o["labels"] - 1, o["masks"][:, 0]) for o in objects]

    def sample(self, boxes: int) -> None:
        """How many boxes of an image the heads learn from."""
        if isinstance(self.roi_heads, BoxHeads):
            self.roi_heads.fg_bg_sampler.batch_size_per_image = boxes

    def losses(self, images: Padded, targets: list[dict[str, Tensor]]) -> Tensor:
        """Sum of the five training losses of Mask R-CNN, in training mode.

        targets: for each image `boxes` (G, 4) float32, `labels` (G,) int64 from 1, `masks` (G, H, W) uint8. Which
        proposals are sampled comes from torch's global generator.
        """
        pyramid, shapes = self.backbone(images.pixels), shapes_of_images(images.sizes)
        features = _named(pyramid)
        proposals, first = self.rpn(ImageList(images.pixels, shapes), features, targets)
        _, second = self.roi_heads(features, proposals, shapes, targets)
        return torch.stack([*first.values(), *second.values()]).sum()


def _named(pyramid: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return dict(zip(LEVELS, pyramid, strict=True))


def shapes_of_images(sizes: Tensor) -> list[tuple[int, int]]:
    """Height and width of each image, from int64 (B, 2)."""
    return [(int(height), int(width)) for height, width in sizes.tolist()]


EMBEDDED.register("mask_rcnn")(Detector)
EMBEDDED.register("cascade_mask_rcnn")(partial(Detector, cascade=True))
