"""The parts of detectors: what they do that timm's and torchvision's do not, and how they come apart into segments."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from tests.errors import refuses
from tests.models.detection.released import release
from tests.models.detection.small import sharp, small
from vitq.data.padded import Padded
from vitq.errors import ModelError
from vitq.models.checkpoint import fitting
from vitq.models.detection.anchors import Anchors, Coder
from vitq.models.detection.mmdet_names import checkpoint_filter_fn
from vitq.models.detection.paste import paste
from vitq.models.pad_first import PadFirstBlock, pad_first
from vitq.models.structure import structure_of
from vitq.quant.model import QuantizedModel
from vitq.quant.site_table import shapes_of


def images(*sizes: tuple[int, int], seed: int = 0) -> Padded:
    """Noise of these sizes, padded to whole strides of the coarsest level."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    pixels = torch.zeros(len(sizes), 3, height, width)
    for image, (h, w) in zip(pixels, sizes, strict=True):
        image[:, :h, :w] = torch.randn(3, h, w, generator=generator)
    return Padded(pixels, torch.tensor(sizes))


def _swin(window: int) -> SwinTransformer:
    torch.manual_seed(0)
    swin = SwinTransformer(
        embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=window, strict_img_size=False, always_partition=True,
        num_classes=0,
    )  # fmt: skip
    return swin.eval()


@torch.no_grad()
@pytest.mark.parametrize(("side", "equal"), [(64, True), (72, False)])
def test_padding_first_differs_where_windows_do_not_divide(side: int, equal: bool) -> None:
    swin = _swin(4)
    padded = pad_first(copy.deepcopy(swin))
    image = images((side, side)).pixels[..., :side, :side]
    assert torch.equal(swin(image), padded(image)) is equal
    blocks = [block for stage in padded.layers for block in stage.get_submodule("blocks").children()]
    assert {type(block) for block in blocks} == {PadFirstBlock}


@torch.no_grad()
def test_padding_first_is_what_swin_writes_down() -> None:
    """Against the definition: pad, roll, cut into windows, attend with the mask of the padded map, and back."""
    block = pad_first(_swin(4)).get_submodule("layers.0.blocks.1")
    assert isinstance(block, PadFirstBlock)
    x = torch.randn(1, 10, 13, 8, generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(1, 12, 16, 8)
    padded[:, :10, :13] = x
    rolled = padded.roll((-2, -2), (1, 2))
    region = torch.zeros(12, 16)
    for row, column in np.ndindex(12, 16):
        region[row, column] = 3 * ((row >= 8) + (row >= 10)) + (column >= 12) + (column >= 14)
    out = torch.zeros_like(rolled)
    for top in range(0, 12, 4):
        for left in range(0, 16, 4):
            window = rolled[:, top : top + 4, left : left + 4].reshape(1, 16, 8)
            part = region[top : top + 4, left : left + 4].reshape(16)
            mask = torch.where(part[:, None] == part[None], 0.0, -100.0)[None]
            out[:, top : top + 4, left : left + 4] = block.attn(window, mask=mask).view(1, 4, 4, 8)
    want = out.roll((2, 2), (1, 2))[:, :10, :13]
    assert torch.allclose(block._attn(x), want, atol=1e-6)


def test_anchors_are_unrounded_and_of_fixed_strides() -> None:
    anchors = Anchors((4, 64), 8)
    levels = [torch.zeros(1, 1, 3, 5), torch.zeros(1, 1, 1, 2)]
    (boxes,) = anchors(ImageList(torch.zeros(1, 3, 12, 20), [(12, 20)]), levels)
    assert boxes.shape == (3 * (3 * 5 + 1 * 2), 4)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert torch.allclose(heights[:3] / widths[:3], torch.tensor([0.5, 1.0, 2.0]))
    assert torch.allclose((widths * heights)[:45], torch.tensor(32.0**2))
    assert torch.allclose((widths * heights)[45:], torch.tensor(512.0**2), rtol=1e-6)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centres[-1].tolist() == [64.0, 0.0]
    assert centres[3].tolist() == [4.0, 0.0]


def test_boxes_shrink_as_little_as_they_grow() -> None:
    codes = torch.tensor([[0.0, 0.0, -100.0, 100.0]])
    (box,) = Coder((1.0, 1.0, 1.0, 1.0)).decode_single(codes, torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    assert float(box[2] - box[0]) == pytest.approx(16 * 16 / 1000)
    assert float(box[3] - box[1]) == pytest.approx(1000)


@torch.no_grad()
@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("sizes", [((96, 128),), ((90, 120), (96, 101))])
def test_segments_composed_are_the_network(cascade: bool, sizes: tuple[tuple[int, int], ...]) -> None:
    network, batch = sharp(cascade), images(*sizes)
    value: object = batch
    for segment in structure_of(network).segments:
        value = segment.forward(value)
    found = network(batch)
    assert sum(len(image.boxes) for image in found) > 0
    assert_same(found, value)


@torch.no_grad()
def test_an_image_in_a_batch_is_found_as_alone() -> None:
    network, batch = sharp(), images((96, 128), (90, 100))
    together = network(batch)
    for index in range(2):
        alone = network(batch[index : index + 1])[0]
        assert torch.equal(alone.labels, together[index].labels)
        assert torch.allclose(alone.boxes, together[index].boxes, atol=1e-3)
        assert bool((alone.boxes <= batch.sizes[index].flip(0).repeat(2)).all())


@torch.no_grad()
@pytest.mark.parametrize("cascade", [False, True])
def test_quantized_twin_with_all_sites_off_is_the_network(cascade: bool) -> None:
    network, batch = sharp(cascade), images((90, 120))
    want = network(batch)
    twin = QuantizedModel(network)
    for one, other in zip(want, twin(batch), strict=True):
        # The twin multiplies in another order than timm's attention.
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.scores, other.scores, atol=1e-4)
        assert torch.allclose(one.boxes, other.boxes, atol=1e-2)
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    weights = [site for site in twin.sites.values() if site.is_weight]
    assert len(weights) == len(layers)
    assert {site.kind for site in twin.sites.values() if "roi_heads" in site.name} == {"weight", "dense"}
    assert len([site for site in twin.sites.values() if site.kind == "probs"]) == 8
    # Every module with weights belongs to a segment, so that steps reach it.
    outside = [
        name for name in twin.sites if not any(s.holds(name.rpartition(".")[0]) for s in twin.structure.segments)
    ]
    assert outside == []


@pytest.mark.parametrize("cascade", [False, True])
def test_shapes_are_known_without_numbers(cascade: bool) -> None:
    with torch.device("meta"):
        network = small(cascade)
    twin = QuantizedModel(network)
    shapes = shapes_of(twin, torch.zeros(1, 3, 96, 128, device="meta"))
    assert shapes.keys() == twin.sites.keys()
    first = "roi_heads.box_head.0.0.0.input" if cascade else "roi_heads.box_head.fc6.input"
    assert shapes[first][0] == 1000
    mask = "roi_heads.mask_head.0.0.0.input" if cascade else "roi_heads.mask_head.0.0.input"
    assert shapes[mask] == (100, 16, 14, 14)


def test_no_object_is_found_without_a_fault() -> None:
    network = small()
    with torch.no_grad():
        network.get_parameter("roi_heads.box_predictor.cls_score.bias")[0] = 50  # the background's
        found = network(images((64, 64)))[0]
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 28, 28)


@torch.no_grad()
def test_masks_are_pasted_at_pixel_centres() -> None:
    ones = torch.ones(3, 28, 28)
    boxes = torch.tensor([[2.0, 1.0, 5.0, 4.0], [-3.0, -3.0, 1.6, 2.4], [4.0, 4.0, 4.0, 9.0]])
    masks = paste(ones, boxes, 6, 8)
    want = torch.zeros(3, 6, 8, dtype=torch.bool)
    want[0, 1:4, 2:5] = True
    want[1, :2, :2] = True  # the centres 0.5 and 1.5 lie within 1.6 and 2.4
    want[2, 4:, 3:5] = True  # a box without width covers the columns beside it
    assert torch.equal(masks, want)
    half = torch.zeros(1, 28, 28)
    half[:, :, :14] = 1
    assert paste(half, torch.tensor([[0.0, 0.0, 8.0, 6.0]]), 6, 8)[0].sum(dim=1).tolist() == [4] * 6


@torch.no_grad()
def test_masks_are_those_of_the_whole_image() -> None:
    """Only the surroundings of a box are computed; outside of them nothing could be foreground."""
    generator = torch.Generator().manual_seed(3)
    probabilities = torch.rand(20, 28, 28, generator=generator)
    corners = torch.rand(20, 2, 2, generator=generator) * torch.tensor([70.0, 50.0])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    x, y = torch.arange(64) + 0.5, torch.arange(48) + 0.5
    whole = []
    for mask, (x0, y0, x1, y1) in zip(probabilities, boxes, strict=True):
        gx, gy = (x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([gx.expand(48, 64), gy[:, None].expand(48, 64)], dim=-1)[None]
        whole.append(torch.nn.functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0] >= 0.5)
    assert torch.equal(paste(probabilities, boxes, 48, 64), torch.stack(whole))


def test_the_other_layout_is_refused() -> None:
    state = {"backbone.stages.0.blocks.0.attn.w_msa.qkv.weight": torch.zeros(1)}
    with refuses(ModelError, "model.checkpoint", "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"):
        checkpoint_filter_fn(state, small())


@pytest.mark.parametrize("cascade", [False, True])
def test_files_as_released_are_read(cascade: bool, tmp_path: Path) -> None:
    """Every weight arrives where it was, among what else these files hold."""
    network, other = small(cascade), small(cascade, seed=1)
    release(network, tmp_path / "released.pth")
    other.load_state_dict(fitting(other, tmp_path / "released.pth", None)[0], strict=True)
    want = network.state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in other.state_dict().items())


def test_names_of_ours_stay() -> None:
    """So that a checkpoint of ours for other classes is refused by the layers that differ, and by no others."""
    network = small()
    assert checkpoint_filter_fn(network.state_dict(), network).keys() == network.state_dict().keys()


def test_a_cascade_is_not_trained() -> None:
    network = small(cascade=True).train()
    target = {"boxes": torch.tensor([[2.0, 2.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, 64, 64, dtype=torch.uint8)
    with refuses(ValueError, "model.checkpoint"):
        network.losses(images((64, 64)), [target])


def test_mask_rcnn_learns() -> None:
    """Gradients of the training loss reach every parameter."""
    network = small().train()
    target = {"boxes": torch.tensor([[2.0, 2.0, 40.0, 40.0]]), "labels": torch.tensor([3])}
    target["masks"] = torch.ones(1, 64, 64, dtype=torch.uint8)
    loss = network.losses(images((64, 64)), [target])
    loss.backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def assert_same(want: list[Tensor] | object, given: object) -> None:
    """Two lists of detections, bit for bit."""
    assert isinstance(want, list)
    assert isinstance(given, list)
    assert len(want) == len(given)
    for one, other in zip(want, given, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b)
