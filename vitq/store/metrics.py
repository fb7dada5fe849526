"""Scores of a run on the evaluation images, one record for each task."""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from vitq.store.record import Count, StoredRecord


def score_name(task: str) -> str:
    """Name of the figure that runs of a task are compared by (`Metrics.score`), before they have a result."""
    return {"features": "feature cosine", "detection": "AP box", "segmentation": "AP mask"}.get(task, "top-1")


class Metrics(StoredRecord):
    """Scores on the `n_eval` evaluation images; null where a value was not finite or does not apply.

    top1, top5, fp_top1, agreement: percent. drop: fp_top1 - top1, percent points.
    agreement: images on which quantized and full-precision model predict the same class.
    nll: mean negative log-likelihood of the label, nats. kl: mean KL(full precision || quantized), nats.
    """

    top1: float | None
    top5: float | None
    nll: float | None
    fp_top1: float | None
    drop: float | None
    agreement: float | None
    kl: float | None
    n_eval: Count

    @property
    def score(self) -> tuple[str, float | None]:
        """The figure that runs are compared by, its name and its value in percent."""
        return "top-1", self.top1


class OtherMetrics(Metrics):
    """Scores of what is no classifier: a classifier's own are null and left out."""

    top1: float | None = None
    top5: float | None = None
    nll: float | None = None
    fp_top1: float | None = None
    drop: float | None = None
    agreement: float | None = None
    kl: float | None = None

    @model_serializer(mode="wrap")
    def _own(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own: dict[str, Any] = plain(self)
        return {key: value for key, value in own.items() if key not in Metrics.model_fields or key == "n_eval"}


class FeatureMetrics(OtherMetrics):
    """Scores of a backbone without a head, from the pooled feature of each image.

    cosine: mean cosine between own and full precision's feature, percent. relative_error: mean length of their
    difference by that of full precision's, percent. knn_top1, fp_knn_top1: images whose class is that of their nearest
    neighbours among `n_neighbours` calibration images, by own and by full precision's features, percent of the `n_knn`
    images whose class is among these. drop_knn: the latter less the former, points. knn_agreement: images of one class
    by both, percent.
    """

    cosine: float | None
    relative_error: float | None
    knn_top1: float | None
    fp_knn_top1: float | None
    drop_knn: float | None
    knn_agreement: float | None
    n_knn: Count
    n_neighbours: Count

    @property
    def score(self) -> tuple[str, float | None]:
        """Cosine between features."""
        return "feature cosine", self.cosine


class DetectionMetrics(OtherMetrics):
    """Scores of a detector. Average precision (COCO's) in percent.

    ap_box, ap_mask: mean over IoU 0.5 to 0.95; at IoU 0.5 and 0.75; of small, medium and large objects. fp_: of full
    precision. drop_: fp less own, points. fidelity_: AP against the objects that full precision finds with a score of
    at least 0.5, which needs no labels. Masks are null for the task `detection`.
    """

    ap_box: float | None
    ap_box50: float | None
    ap_box75: float | None
    ap_box_small: float | None
    ap_box_medium: float | None
    ap_box_large: float | None
    fp_ap_box: float | None
    drop_box: float | None
    fidelity_box: float | None
    ap_mask: float | None = None
    ap_mask50: float | None = None
    ap_mask75: float | None = None
    ap_mask_small: float | None = None
    ap_mask_medium: float | None = None
    ap_mask_large: float | None = None
    fp_ap_mask: float | None = None
    drop_mask: float | None = None
    fidelity_mask: float | None = None

    @property
    def score(self) -> tuple[str, float | None]:
        """Average precision of masks, of boxes where there are no masks."""
        return ("AP box", self.ap_box) if self.ap_mask is None else ("AP mask", self.ap_mask)
