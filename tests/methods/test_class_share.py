"""The class token's share of the error that output search minimizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.methods.products import CALIBRATE, in_block, method, product_of
from tests.tiny import run, tiny
from vitq.methods.output_search import _arriving, _error, _row_weights
from vitq.steps import Workspace


@pytest.mark.parametrize("kind", ["post_gelu", "probs", "key", "value"])
@torch.no_grad()
def test_the_class_token_has_its_share(workspace: Callable[..., Workspace], kind: str) -> None:
    """Rows that count alike but for the class token's, which have as much weight as all others together."""
    work = workspace(tiny("vit"), method({"quantizer": "adalog"}), activation=3)
    run(work, CALIBRATE)
    product, site = product_of(work, kind)
    (operands,), transposed = _arriving(in_block(work), product, None)
    tokens = operands[0].shape[-2]
    weights = _row_weights(work.model.model, 0.5)
    assert weights is not None
    assert weights.tolist() == [tokens - 1, *[1] * (tokens - 1)]
    assert _row_weights(work.model.model, None) is None
    assert _row_weights(tiny("swin"), 0.5) is None
    assert site.quantizer is not None
    x, plain = _error(product, site, operands, transposed)
    _, weighted = _error(product, site, operands, transposed, weights)
    only = torch.zeros(tokens)
    only[0] = 1
    _, of_class = _error(product, site, operands, transposed, only)
    noisy = site.quantizer(x)
    expected = plain(noisy).sum() + (tokens - 2) * of_class(noisy).sum()
    assert float(of_class(noisy).sum()) > 0
    assert float(weighted(noisy).sum()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("from_bits", [3, 4])
@torch.no_grad()
def test_few_bits_take_no_notice_of_the_share(workspace: Callable[..., Workspace], from_bits: int) -> None:
    def found(**options: Any) -> list[Tensor]:
        work = workspace(tiny("vit"), method({"quantizer": "adalog"}), activation=3)
        run(work, CALIBRATE, {"do": "output_search", "kinds": ["post_gelu"], **options})
        quantizer = work.model.sites["blocks.0.mlp.fc2.input"].quantizer
        assert quantizer is not None
        return [getattr(quantizer, name) for name in quantizer.parameter_names]

    shared = found(class_share=0.9, class_share_bits=from_bits)
    assert all(map(torch.equal, shared, found())) == (from_bits == 4)


@pytest.mark.parametrize(
    ("name", "read"),
    [("deit_tiny_distilled_patch16_224", 2), ("deit_tiny_patch16_224", 1), ("pit_ti_224", None)],
)
def test_the_tokens_that_the_head_reads(name: str, read: int | None) -> None:
    """Of a distilled model both; none where the number of patches changes on the way."""
    weights = _row_weights(timm.create_model(name), 0.1)
    if read is None:
        assert weights is None
    else:
        assert weights is not None
        assert float(weights[:read].sum() / weights.sum()) == pytest.approx(0.1, abs=0.01)
        assert weights[read:].tolist() == [1.0] * 196
