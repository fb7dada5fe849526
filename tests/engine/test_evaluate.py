"""Metrics against independent float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import top_k_accuracy_score

from vitq.tasks import classification


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    fp = torch.randn(200, 12, generator=generator) * 3
    quantized = fp + torch.randn(200, 12, generator=generator)
    return quantized, fp, torch.randint(0, 12, (200,), generator=generator)


def test_metrics_match_scipy_and_sklearn(logits: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    quantized, fp, labels = logits
    found = classification.metrics(quantized, fp, labels)
    q, p = log_softmax(quantized.double().numpy(), axis=1), log_softmax(fp.double().numpy(), axis=1)
    y, classes = labels.numpy(), np.arange(12)
    assert found["top1"] == pytest.approx(100 * top_k_accuracy_score(y, q, k=1, labels=classes))
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(y, q, k=5, labels=classes))
    assert found["fp_top1"] == pytest.approx(100 * top_k_accuracy_score(y, p, k=1, labels=classes))
    assert found["drop"] == pytest.approx(found["fp_top1"] - found["top1"])
    assert found["nll"] == pytest.approx(-q[np.arange(200), y].mean())
    assert found["kl"] == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean())
    assert found["agreement"] == pytest.approx(100 * (q.argmax(1) == p.argmax(1)).mean())


def test_the_record_has_the_kl_of_each_image(logits: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    quantized, fp, _ = logits
    q, p = log_softmax(quantized.double().numpy(), axis=1), log_softmax(fp.double().numpy(), axis=1)
    kept = classification.Classification().divergences({"logits": quantized}, {"logits": fp})
    np.testing.assert_allclose(kept["kl"], (np.exp(p) * (p - q)).sum(axis=1), rtol=0, atol=1e-14)


def test_equal_logits_have_no_drop(logits: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    _, fp, labels = logits
    found = classification.metrics(fp, fp, labels)
    assert (found["drop"], found["agreement"], found["kl"]) == (0, 100, 0)


def test_predictions_keep_what_a_paired_comparison_needs(
    logits: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    quantized, _, labels = logits
    record = classification.predictions(quantized, labels)
    assert 100 * record["correct"].mean() == classification.accuracy(quantized, labels, 1)
    assert record["topk_index"].shape == (200, 5)
    assert record["topk_index"].dtype == np.int32
    assert np.array_equal(record["topk_index"][:, 0], quantized.argmax(1).numpy())
    assert np.array_equal(record["label"], labels.numpy())
    # Equal logits: however they are ranked, the record and the figure agree.
    ties, tied = torch.zeros(200, 12), torch.arange(200) % 12
    assert 100 * classification.predictions(ties, tied)["correct"].mean() == classification.accuracy(ties, tied, 1)
    few = classification.predictions(quantized[:, :3], labels % 3)
    assert few["topk_logit"].shape == (200, 3)
