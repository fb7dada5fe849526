"""Predictors without outputs for the background, and the choice of the best boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms, clip_boxes_to_image

Shapes = Sequence[tuple[int, int]]


class BoxPredictor(nn.Module):
    """Scores (R, 1 + K), the background first, and offsets (R, 4 · (1 + K)), zeros for the background."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, num_classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From (R, width)."""
        return self.cls_score(x), F.pad(self.bbox_pred(x), (4, 0))


class MaskPredictor(MaskRCNNPredictor):
    """Mask logits (R, 1 + K, 28, 28), zeros for the background."""

    def __init__(self, width: int, num_classes: int):
        super().__init__(width, width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """From (R, width, 14, 14)."""
        return F.pad(super().forward(x), (0, 0, 0, 0, 1, 0))


class Proposals(RegionProposalNetwork):
    """torchvision's, which on the `meta` device, where no box can be compared with another, keeps as many as it may."""

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, image_shapes: Shapes, num_anchors_per_level: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes (P, 4) and scores (P,) of each image, best first."""
        if proposals.is_meta:
            first = proposals[:, : self.post_nms_top_n()]
            return list(first), list(first[..., 0])
        kept: tuple[list[Tensor], list[Tensor]] = super().filter_proposals(
            proposals, objectness, list(image_shapes), num_anchors_per_level
        )
        return kept


class BoxHeads(RoIHeads):
    """torchvision's heads of Mask R-CNN, which keep narrow boxes as mmdet does."""

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: Shapes
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes (D, 4), scores (D,) and labels (D,), from 1, of each image."""
        counts = [len(boxes) for boxes in proposals]
        decoded = self.box_coder.decode(box_regression, proposals).split(counts)
        scores = class_logits.softmax(dim=-1).split(counts)
        kept = [
            best(boxes, probabilities, shape, self.score_thresh, self.nms_thresh, self.detections_per_img)
            for boxes, probabilities, shape in zip(decoded, scores, image_shapes, strict=True)
        ]
        boxes_of, scores_of, labels_of = (list(part) for part in zip(*kept, strict=True))
        return boxes_of, scores_of, labels_of


def best(
    boxes: Tensor, scores: Tensor, shape: tuple[int, int], threshold: float, overlap: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (D, 4), scores (D,) and labels (D,) of one image, best first, D at most `limit`.

    boxes: (R, 1 + K, 4) for each class. scores: (R, 1 + K), the background first. Those above the threshold pass
    non-maximum suppression within their class.
    """
    if boxes.is_meta:  # shapes alone: as many as there may be
        return boxes[:limit, 1], scores[:limit, 1], boxes.new_empty(min(limit, len(boxes)), dtype=torch.int64)
    clipped = clip_boxes_to_image(boxes, list(shape))
    row, label = torch.where(scores[:, 1:] > threshold)
    label = label + 1
    chosen, score = clipped[row, label], scores[row, label]
    keep = batched_nms(chosen, score, label, overlap)[:limit]
    return chosen[keep], score[keep], label[keep]
