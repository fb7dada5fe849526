"""The three heads of Cascade Mask R-CNN (Cai & Vasconcelos 2019, arXiv 1906.09756), each on the last one's boxes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import clip_boxes_to_image

from vitq.errors import Problem
from vitq.models.detection.anchors import Coder
from vitq.models.detection.heads import BoxPredictor, MaskPredictor, Shapes, best
from vitq.models.detection.pooling import Pooler

# Standard deviations of the box offsets that each head was trained on: x, y, width, height.
STAGES = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


class CascadeHeads(nn.Module):
    """Class scores are the mean logits of the three heads, boxes those of the last, masks the mean probabilities."""

    def __init__(
        self,
        pyramid: int,
        hidden: int,
        num_classes: int,
        strides: tuple[int, ...],
        score_thresh: float,
        nms_thresh: float,
        detections_per_img: int,
    ):
        super().__init__()
        self.score_thresh, self.nms_thresh, self.detections_per_img = score_thresh, nms_thresh, detections_per_img
        self.box_coders = [Coder((1 / x, 1 / y, 1 / width, 1 / height)) for x, y, width, height in STAGES]
        self.box_roi_pool, self.mask_roi_pool = Pooler(7, strides), Pooler(14, strides)
        count = range(len(STAGES))
        self.box_head = nn.ModuleList(
            FastRCNNConvFCHead((pyramid, 7, 7), [pyramid] * 4, [hidden], nn.BatchNorm2d) for _ in count
        )
        self.box_predictor = nn.ModuleList(BoxPredictor(hidden, num_classes) for _ in count)
        self.mask_head = nn.ModuleList(MaskRCNNHeads(pyramid, [pyramid] * 4, 1) for _ in count)
        self.mask_predictor = nn.ModuleList(MaskPredictor(pyramid, num_classes) for _ in count)

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Shapes, targets: None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's RoIHeads: `boxes`, `labels` from 1, `scores` and `masks` (D, 1, 28, 28) of each image."""
        if self.training:
            text = "Cascade Mask R-CNN is not trained here; load a checkpoint (model.checkpoint)"
            raise ValueError(Problem(text, "model.checkpoint"))
        counts = [len(boxes) for boxes in proposals]
        logits = []
        for _, scores, refined in self.stages(features, proposals, image_shapes):
            logits.append(scores)
            decoded = refined
        mean = (sum(logits[1:], logits[0]) / len(logits)).softmax(dim=-1).split(counts)
        kept = [
            best(image, scores, shape, self.score_thresh, self.nms_thresh, self.detections_per_img)
            for image, scores, shape in zip(decoded, mean, image_shapes, strict=True)
        ]
        masks = self._masks(features, [boxes for boxes, _, _ in kept], [labels for _, _, labels in kept])
        results = [
            {"boxes": boxes, "scores": scores, "labels": labels, "masks": mask}
            for (boxes, scores, labels), mask in zip(kept, masks, strict=True)
        ]
        return results, {}

    def stages(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Shapes
    ) -> Iterator[tuple[list[Tensor], Tensor, list[Tensor]]]:
        """Of each head the boxes (R_i, 4) of each image that it reads, its class logits (R, 1 + K), and its boxes
        (R_i, 1 + K, 4) for each class; the next one reads those of the likeliest class."""
        counts = [len(boxes) for boxes in proposals]
        boxes = proposals
        for coder, head, predictor in zip(self.box_coders, self.box_head, self.box_predictor, strict=True):
            scores, offsets = predictor(head(self.box_roi_pool(features, boxes)))
            decoded = [
                clip_boxes_to_image(image, list(shape))
                for image, shape in zip(coder.decode(offsets, boxes).split(counts), image_shapes, strict=True)
            ]
            yield boxes, scores, decoded
            likeliest = (scores[:, 1:].argmax(dim=1) + 1).split(counts)
            boxes = [_own(image, label) for image, label in zip(decoded, likeliest, strict=True)]

    def _masks(self, features: dict[str, Tensor], boxes: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, ...]:
        pooled = self.mask_roi_pool(features, boxes)
        heads = zip(self.mask_head, self.mask_predictor, strict=True)
        probabilities = torch.stack([predictor(head(pooled)).sigmoid() for head, predictor in heads]).mean(dim=0)
        own = _own(probabilities, torch.cat(labels))[:, None]
        return tuple(torch.split(own, [len(image) for image in boxes]))


def _own(values: Tensor, labels: Tensor) -> Tensor:
    """(R, …): of the values (R, 1 + K, …) those of each row's class."""
    return values[torch.arange(len(values), device=values.device), labels]
