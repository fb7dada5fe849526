"""Bit operations, bytes and the integer share, against counts written down from the architecture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.deploy.test_packed import quantized, recipe
from tests.job.planner import Planner
from vitq.deploy.cost import cost
from vitq.steps import Workspace
from vitq.store.result import Result

# tests/tiny.py: 32×32 images, 8×8 patches, two blocks of width 48 with 3 heads, MLP ratio 4, 5 classes.
DEPTH, WIDTH, TOKENS, PATCHES, CLASSES, INPUTS = 2, 48, 17, 16, 5, 3 * 8 * 8
PATCH = PATCHES * INPUTS * WIDTH
LINEAR = DEPTH * TOKENS * 12 * WIDTH**2
ATTENTION = DEPTH * 2 * TOKENS**2 * WIDTH
HEAD = WIDTH * CLASSES


def test_counts_of_a_vit(workspace: Callable[..., Workspace]) -> None:
    raw = recipe("minmax")
    work, _ = quantized(workspace, "vit", raw, weight=4, activation=8)
    found = cost(work.model, torch.zeros(1, 3, 32, 32))
    assert found.macs == PATCH + LINEAR + ATTENTION + HEAD
    # The image is not quantized: 32 bits; both operands of attention are activations.
    assert found.bops == PATCH * 4 * 32 + (LINEAR + HEAD) * 4 * 8 + ATTENTION * 8 * 8
    weights = INPUTS * WIDTH + DEPTH * 12 * WIDTH**2 + HEAD
    assert found.weight_bytes == weights // 2
    tokens = TOKENS * WIDTH
    # A block's operands: inputs of qkv, proj, fc1 (one width each) and fc2 (four), query, key, value, probabilities.
    operands = DEPTH * (7 * tokens + 3 * tokens + 3 * TOKENS**2) + WIDTH
    assert found.activation_bytes == operands + 4 * 3 * 32 * 32
    assert found.integer_share == pytest.approx(100 * (found.macs - PATCH) / found.macs)


def test_float_products_are_outside_the_integer_share(workspace: Callable[..., Workspace]) -> None:
    work, _ = quantized(workspace, "vit", recipe("repq_vit"), weight=4, activation=4)
    found = cost(work.model, torch.zeros(1, 3, 32, 32))
    # The image, and log-type probabilities times values.
    assert found.integer_share == pytest.approx(100 * (1 - (PATCH + ATTENTION / 2) / found.macs))


def test_a_run_records_its_cost(planner: Planner) -> None:
    run_dir = planner.plan("minmax", bits={"weight": 8, "activation": 8})
    result = planner.execute(run_dir)
    assert result.cost.weight_bytes < result.size.quantized_bytes < result.size.fp_bytes
    plain = planner.plan("fp32")
    planner.execute(plain)
    stored = plain.read_result()
    assert stored is not None
    assert stored.cost is not None
    assert stored.cost.integer_share == 0
    assert stored.cost.bops == 32 * 32 * stored.cost.macs == 32 * 32 * result.cost.macs
    old = stored.model_dump()
    del old["cost"]
    assert Result.model_validate(old).cost is None
