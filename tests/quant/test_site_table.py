"""The table of sites: errors, bits and bytes against references worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tests.tiny import part, run, tiny
from vitq.quant import site_table
from vitq.quant.site_table import shapes_of
from vitq.steps import Workspace

METHOD = {"kinds": {"weight": {"quantizer": "uniform", "granularity": "channel"}, "default": {"quantizer": "uniform"}}}


@pytest.fixture
def work(workspace: Callable[..., Workspace]) -> Workspace:
    made = workspace(tiny("vit"), METHOD, weight=4, activation=8)
    run(made, {"do": "calibrate"})
    return made


def test_errors_are_those_of_the_tensors_that_pass(work: Workspace) -> None:
    table = site_table.site_table(work.model, work.batches()).set_index("site")
    layer = part(work.model.model, "blocks.0.mlp.fc1")
    weight = layer.weight.detach()
    error = (layer.weight_site.quantizer(weight) - weight).double().square()
    row = table.loc["blocks.0.mlp.fc1.weight"]
    assert row.mse == pytest.approx(float(error.mean()), rel=1e-9)
    assert row.sqnr_db == pytest.approx(10 * math.log10(float(weight.double().square().sum() / error.sum())), rel=1e-9)
    assert (row["shape"], row.elements, row.bits, row.granularity) == ("192x48", 192 * 48, 4, "channel")
    image = table.loc["patch_embed.proj.input"]
    assert (image["shape"], image.bits, image.quantizer) == ("3x32x32", 32, "fp")
    assert image.mse != image.mse, "a site in floating point has no error"
    assert table.loc["blocks.0.attn.context.probs", "elements"] == 3 * 17 * 17


def test_mean_bits_weigh_elements(work: Workspace) -> None:
    table = site_table.site_table(work.model, work.batches(8))
    weight_bits, activation_bits = site_table.mean_bits(table)
    assert weight_bits == 4
    image = 3 * 32 * 32
    rest = table[(table.kind != "weight") & (table.kind != "patch")].elements.sum()
    assert activation_bits == pytest.approx((32 * image + 8 * rest) / (image + rest))


def test_windows_of_swin_count_as_one_image(workspace: Callable[..., Workspace]) -> None:
    work = workspace(tiny("swin"), METHOD, weight=4, activation=8)
    run(work, {"do": "calibrate"})
    table = site_table.site_table(work.model, work.batches(8)).set_index("site")
    elements = dict(zip(table.index, table["elements"], strict=True))
    qkv, mlp = (elements[f"layers.0.blocks.0.{name}.input"] for name in ("attn.qkv", "mlp.fc1"))
    assert qkv == mlp, "the same tokens, cut into windows"
    counted = shapes_of(work.model, next(iter(work.batches(1))))
    for name, site in work.model.sites.items():
        if not site.is_weight:
            assert elements[name] == math.prod(counted[name]), name


def test_a_site_that_no_step_calibrated_counts_as_floating_point(workspace: Callable[..., Workspace]) -> None:
    work = workspace(tiny("vit"), METHOD, weight=4, activation=8)
    run(work, {"do": "calibrate", "sites": "activations"})
    table = site_table.site_table(work.model, work.batches(8)).set_index("site")
    assert set(table[table.kind == "weight"].bits) == {32}
    assert site_table.mean_bits(table)[0] == 32
    assert table.loc["blocks.0.mlp.fc1.weight", "quantizer"] == "fp"
    fp_bytes = site_table.model_bytes(work.model.model)
    assert site_table.quantized_bytes(work.model, fp_bytes) == fp_bytes + 5 * sum(
        s.on for s in work.model.sites.values()
    )
    planned = site_table.site_table(work.model, work.batches(8), planned=True).set_index("site")
    assert set(planned[planned.kind == "weight"].bits) == {4}


def test_quantized_bytes_count_packed_weights_and_scales(work: Workspace) -> None:
    model = work.model.model
    fp_bytes = site_table.model_bytes(model)
    assert fp_bytes == 4 * sum(p.numel() for p in model.parameters())
    expected = fp_bytes
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            expected -= module.weight.numel() * 4
            expected += module.weight.numel() // 2 + module.weight.shape[0] * 5
    activations = sum(not s.is_weight for s in work.model.quantized())
    assert site_table.quantized_bytes(work.model, fp_bytes) == expected + activations * 5


def test_observers_are_gone_afterwards(work: Workspace) -> None:
    site_table.site_table(work.model, work.batches(8))
    assert all(site.observer is None for site in work.model.sites.values())
