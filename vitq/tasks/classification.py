"""Image classification: figures and per-image record from logits (N, C) and labels (N,)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitq.config import RunConfig
from vitq.data import Images
from vitq.errors import Problem
from vitq.store.metrics import Metrics
from vitq.tasks.task import TASKS, Outputs, Task, without_classes


@TASKS.register("classification")
class Classification(Task):
    """One class for each image. Outputs: `logits`, float32 (N, C)."""

    primary = "top1"

    def keep(self, given: Tensor, images: Images, start: int) -> Outputs:
        return {"logits": given.float().cpu()}

    def join(self, parts: Sequence[Outputs], images: Images, stage: str) -> Outputs:
        logits = torch.cat([part["logits"] for part in parts])
        if not torch.isfinite(logits).all():
            bad = int((~torch.isfinite(logits)).any(dim=1).sum())
            text = f"{stage}: the model gives NaN or infinity for {bad} of {len(logits)} images"
            raise ValueError(Problem(text, "logits", bad))
        return {"logits": logits}

    def metrics(self, quantized: Outputs, reference: Outputs, images: Images) -> Metrics:
        labels = torch.from_numpy(images.labels)
        return Metrics(**metrics(quantized["logits"], reference["logits"], labels), n_eval=len(images))

    def predictions(self, outputs: Outputs, images: Images) -> dict[str, np.ndarray]:
        return predictions(outputs["logits"], torch.from_numpy(images.labels))

    def divergences(self, quantized: Outputs, reference: Outputs) -> dict[str, np.ndarray]:
        """`kl`: KL(full precision ‖ quantized), nats, float64 (N,)."""
        return {"kl": divergence(quantized["logits"], reference["logits"]).numpy()}

    def differs(self, now: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> str | None:
        other = int((now["topk_index"][:, 0] != recorded["topk_index"][:, 0]).sum())
        if not other:
            return None
        gap = float(np.abs(now["topk_logit"] - recorded["topk_logit"]).max())
        return (
            f"it predicts other classes than its record for {other} of {len(now['label'])} images (largest difference "
            f"of a logit: {gap:.3g})"
        )

    def problems(self, config: RunConfig) -> list[Problem]:
        problems = without_classes(config)
        if config.bits.scope != "all":
            text = f"bits.scope={config.bits.scope}: a classifier is its backbone; set bits.scope=all"
            problems.append(Problem(text, "bits.scope", config.bits.scope, ["all"]))
        return problems


def metrics(quantized: Tensor, reference: Tensor, labels: Tensor) -> dict[str, float]:
    """Figures of one run from (N, C) logits and (N,) labels.

    top1, top5, fp_top1, drop, agreement (same arg max as full precision): percent. nll: mean cross-entropy, nats.
    kl: mean KL(full precision ‖ quantized), nats.
    """
    top1 = accuracy(quantized, labels, 1)
    fp_top1 = accuracy(reference, labels, 1)
    log_q = F.log_softmax(quantized.double(), dim=1)
    return {
        "top1": top1,
        "top5": accuracy(quantized, labels, min(5, quantized.shape[1])),
        "nll": float(F.nll_loss(log_q, labels)),
        "fp_top1": fp_top1,
        "drop": fp_top1 - top1,
        "agreement": float((quantized.argmax(1) == reference.argmax(1)).double().mean() * 100),
        "kl": float(divergence(quantized, reference).mean()),
    }


def divergence(quantized: Tensor, reference: Tensor) -> Tensor:
    """KL(full precision ‖ quantized) of each image, nats, float64 (N,), from (N, C) logits."""
    log_q, log_p = F.log_softmax(quantized.double(), dim=1), F.log_softmax(reference.double(), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Top-k accuracy in percent."""
    if k == 1:
        # As `predictions` has it: with equal logits, topk may name another class than argmax.
        return float((logits.argmax(1) == labels).double().mean() * 100)
    top = logits.topk(k, dim=1).indices
    return float((top == labels.unsqueeze(1)).any(dim=1).double().mean() * 100)


def predictions(logits: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Per-image record: `correct` bool (N,), `label` int64 (N,), `topk_index` int32 and `topk_logit` float32 (N, k).

    k is 5, or the number of classes where there are fewer.
    """
    top = logits.topk(min(5, logits.shape[1]), dim=1)
    return {
        "correct": (logits.argmax(1) == labels).numpy(),
        "label": labels.to(torch.int64).numpy(),
        "topk_index": top.indices.to(torch.int32).numpy(),
        "topk_logit": top.values.numpy(),
    }
