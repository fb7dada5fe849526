"""Backbones without a head (DINOv2, DINOv3, MAE): how far their pooled features are from full precision's, and whether
the classes of images can still be told by them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitq.config import RunConfig
from vitq.data import Images, ImageSet, eval_set, neighbour_set
from vitq.errors import Problem
from vitq.progress import Progress
from vitq.store.metrics import FeatureMetrics
from vitq.tasks.task import TASKS, Outputs, Task, without_classes

# Weighted k-NN as self-supervised backbones are judged by it: Wu et al. (CVPR 2018), DINO (Caron et al., ICCV 2021).
NEIGHBOURS, TEMPERATURE = 20, 0.07
# Largest relative difference of a feature's length between two executions of one model.
_CLOSE = 1e-3


@dataclass(frozen=True, eq=False)
class FeatureSets:
    """The images that are scored, and behind them those among which their neighbours are looked for."""

    scored: ImageSet
    known: ImageSet

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.scored.fingerprint}{self.known.fingerprint}".encode()).hexdigest()[:32]

    @property
    def mean(self) -> tuple[float, ...]:
        return self.scored.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.scored.std

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate([self.scored.labels, self.known.labels])

    def __len__(self) -> int:
        return len(self.scored) + len(self.known)

    def batches(self, batch_size: int, device: str | torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.scored.batches(batch_size, device)
        yield from self.known.batches(batch_size, device)

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        chosen, count = np.asarray(indices, dtype=np.int64), len(self.scored)
        pixels = [self.scored.images[i] if i < count else self.known.images[i - count] for i in chosen]
        name = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()[:32]
        return ImageSet(np.stack(pixels), self.labels[chosen], self.mean, self.std, name)


@TASKS.register("features")
class Features(Task):
    """One feature for each image: what the network pools. Outputs: `features`, float32 (N, D), scored images first."""

    primary = "cosine"

    def images(self, config: RunConfig, progress: Progress) -> FeatureSets:
        return FeatureSets(eval_set(config, progress), neighbour_set(config, progress))

    def keep(self, given: Tensor, images: Images, start: int) -> Outputs:
        return {"features": given.float().cpu()}

    def join(self, parts: Sequence[Outputs], images: Images, stage: str) -> Outputs:
        features = torch.cat([part["features"] for part in parts])
        if not torch.isfinite(features).all():
            count = int((~torch.isfinite(features)).any(dim=1).sum())
            text = f"{stage}: the model gives NaN or infinity for {count} of {len(features)} images"
            raise ValueError(Problem(text, "features", count, where=stage))
        return {"features": features}

    def metrics(self, quantized: Outputs, reference: Outputs, images: Images) -> FeatureMetrics:
        sets = _compared(images)
        count = len(sets.scored)
        own, full = quantized["features"][:count].double(), reference["features"][:count].double()
        error = (own - full).norm(dim=1) / full.norm(dim=1).clamp_min(1e-12)
        labels, judged = torch.from_numpy(np.array(sets.scored.labels)), self._judged(sets)
        classes = [self._classes(outputs["features"], sets)[judged] for outputs in (quantized, reference)]
        right = [_percent(predicted == labels[judged]) for predicted in classes]
        return FeatureMetrics(
            cosine=100 * float(F.cosine_similarity(own, full, dim=1).mean()),
            relative_error=100 * float(error.mean()),
            knn_top1=right[0],
            fp_knn_top1=right[1],
            drop_knn=None if right[0] is None or right[1] is None else right[1] - right[0],
            knn_agreement=_percent(classes[0] == classes[1]),
            n_knn=int(judged.sum()),
            n_neighbours=len(sets.known),
            n_eval=count,
        )

    def predictions(self, outputs: Outputs, images: Images) -> dict[str, np.ndarray]:
        """Of the images whose class their neighbours can have: `correct` bool (N,), `label` int64 (N,), `topk_index`
        int32 (N, 1), the class by k-NN. Of all: `length` float32 (M,), of the features."""
        sets = _compared(images)
        judged, labels = self._judged(sets).numpy(), np.asarray(sets.scored.labels, dtype=np.int64)
        predicted = self._classes(outputs["features"], sets).numpy()
        return {
            "correct": (predicted == labels)[judged],
            "label": labels[judged],
            "topk_index": predicted[judged, None].astype(np.int32),
            "length": outputs["features"][: len(sets.scored)].norm(dim=1).numpy(),
        }

    def differs(self, now: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> str | None:
        other = int((now["topk_index"] != recorded["topk_index"]).sum())
        gap = float((np.abs(now["length"] - recorded["length"]) / np.maximum(recorded["length"], 1e-12)).max())
        if not other and gap <= _CLOSE:
            return None
        return (
            f"the neighbours of {other} of {len(now['label'])} images have another class than in its record (largest "
            f"relative difference of a feature's length: {gap:.3g})"
        )

    def problems(self, config: RunConfig) -> list[Problem]:
        wrong = without_classes(config)
        if config.bits.scope != "all":
            text = f"bits.scope={config.bits.scope}: nothing but the backbone is there; set bits.scope=all"
            wrong.append(Problem(text, "bits.scope", config.bits.scope, ["all"]))
        outputs = config.model.kwargs.get("num_classes", config.data.num_classes)
        if outputs != 0:
            text = f"task=features: model.kwargs.num_classes={outputs} builds a head; set it to 0, or leave it out"
            wrong.append(Problem(text, "model.kwargs.num_classes", outputs, [0]))
        return wrong

    def _judged(self, sets: FeatureSets) -> Tensor:
        """bool (N,): the scored images of whose class there are neighbours."""
        return torch.from_numpy(np.isin(sets.scored.labels, sets.known.labels))

    def _classes(self, features: Tensor, sets: FeatureSets) -> Tensor:
        """int64 (N,): classes of the scored images by k-NN among the others, all features (N + M, D) of one model."""
        count = len(sets.scored)
        return nearest_class(features[:count], features[count:], torch.from_numpy(np.array(sets.known.labels)))


def nearest_class(features: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """int64 (N,): class of each feature (N, D) by a vote of its nearest of `known` (M, D), whose classes are `labels`.

    Nearest by cosine s; each votes with exp(s / TEMPERATURE).
    """
    known = F.normalize(known.double(), dim=1)
    predicted = []
    for part in F.normalize(features.double(), dim=1).split(4096):
        near, which = (part @ known.T).topk(min(NEIGHBOURS, len(known)), dim=1)
        votes = torch.zeros(len(part), int(labels.max()) + 1, dtype=torch.float64)
        predicted.append(votes.scatter_add_(1, labels[which], (near / TEMPERATURE).exp()).argmax(dim=1))
    return torch.cat(predicted)


def _compared(images: Any) -> FeatureSets:
    assert isinstance(images, FeatureSets)
    return images


def _percent(right: Tensor) -> float | None:
    return 100 * float(right.double().mean()) if len(right) else None
