"""YOLOS against its definition, written down once more over Hugging Face's names, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests.errors import refuses
from tests.models.detection.small import YOLOS
from tests.models.detection.test_detector import assert_same, images
from vitq.errors import ModelError
from vitq.models.checkpoint import fitting
from vitq.models.detection.yolos import GAPS, Yolos, checkpoint_filter_fn
from vitq.models.detection.yolos_structure import agreement, divergence
from vitq.models.structure import structure_of
from vitq.quant.model import QuantizedModel

WIDTH, DEPTH, HEADS, QUERIES = (YOLOS[key] for key in ("embed_dim", "depth", "num_heads", "queries"))
GRID = (4, 6)


def weights(outputs: int, middle: bool) -> dict[str, Tensor]:
    """Random ones under Hugging Face's names."""
    generator = torch.Generator().manual_seed(0)
    tokens, layer = 1 + GRID[0] * GRID[1] + QUERIES, "vit.encoder.layer.{}."
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, WIDTH), "vit.embeddings.detection_tokens": (1, QUERIES, WIDTH),
        "vit.embeddings.position_embeddings": (1, tokens, WIDTH),
        "vit.embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 16, 16),
        "vit.embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "vit.layernorm.weight": (WIDTH,), "vit.layernorm.bias": (WIDTH,),
    }  # fmt: skip
    if middle:
        shapes["vit.encoder.mid_position_embeddings"] = (DEPTH - 1, 1, tokens, WIDTH)
    for index in range(DEPTH):
        linear = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {
            "attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (4 * WIDTH, WIDTH),
            "output.dense": (WIDTH, 4 * WIDTH),
        }  # fmt: skip
        for name, shape in linear.items():
            shapes[f"{layer.format(index)}{name}.weight"] = shape
            shapes[f"{layer.format(index)}{name}.bias"] = shape[:1]
        for norm in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{layer.format(index)}{norm}.{part}": (WIDTH,) for part in ("weight", "bias")}
    for head, last in (("class_labels_classifier", outputs + 1), ("bbox_predictor", 4)):
        for index, rows in enumerate((WIDTH, WIDTH, last)):
            shapes[f"{head}.layers.{index}.weight"] = (rows, WIDTH)
            shapes[f"{head}.layers.{index}.bias"] = (rows,)
    return {
        name: torch.randn(shape, generator=generator) * (1.0 if "norm" in name or "token" in name else 0.2)
        for name, shape in shapes.items()
    }


def reference(state: dict[str, Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, 1 + K) logits and (Q, 4) boxes, float64, of one image (1, 3, H, W)."""
    w = {name: value.double() for name, value in state.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        return (
            centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-12).sqrt() * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    rows, columns = image.shape[2] // 16, image.shape[3] // 16
    stem = "vit.embeddings.patch_embeddings.projection"
    patches = []
    for row in range(rows):
        for column in range(columns):
            cut = image[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].double()
            patches.append((w[f"{stem}.weight"] * cut).sum(dim=(1, 2, 3)) + w[f"{stem}.bias"])

    def positions(table: Tensor) -> Tensor:
        plane = table[1:-QUERIES].T.reshape(1, WIDTH, *GRID)
        scaled = F.interpolate(plane, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([table[:1], scaled.reshape(WIDTH, -1).T, table[-QUERIES:]])

    x = torch.cat([w["vit.embeddings.cls_token"][0], torch.stack(patches), w["vit.embeddings.detection_tokens"][0]])
    x = x + positions(w["vit.embeddings.position_embeddings"][0])
    for index in range(DEPTH):
        layer = f"vit.encoder.layer.{index}"
        read = norm(x, f"{layer}.layernorm_before")
        query, key, value = (
            linear(read, f"{layer}.attention.attention.{part}").reshape(len(x), HEADS, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        probabilities = (query @ key.transpose(1, 2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
        joined = (probabilities @ value).transpose(0, 1).reshape(len(x), WIDTH)
        x = x + linear(joined, f"{layer}.attention.output.dense")
        hidden = F.gelu(linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        x = x + linear(hidden, f"{layer}.output.dense")
        if index < DEPTH - 1 and "vit.encoder.mid_position_embeddings" in w:
            x = x + positions(w["vit.encoder.mid_position_embeddings"][index, 0])
    given = norm(x, "vit.layernorm")[-QUERIES:]
    answers = []
    for head in ("class_labels_classifier", "bbox_predictor"):
        out = given
        for index in range(3):
            out = linear(out, f"{head}.layers.{index}")
            out = out.clamp(min=0) if index < 2 else out
        answers.append(out)
    return answers[0], answers[1].sigmoid()


def network(state: dict[str, Tensor], folder: Path, **more: Any) -> Yolos:
    """Filled by the reader of checkpoints, strictly."""
    file = folder / "yolos.safetensors"
    save_file(state, file)
    made = Yolos(**{**YOLOS, "num_classes": 7, **more}).eval()
    made.load_state_dict(fitting(made, file, None)[0], strict=True)
    return made


@torch.no_grad()
@pytest.mark.parametrize("middle", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (90, 71)])
def test_it_computes_its_definition(middle: bool, size: tuple[int, int], tmp_path: Path) -> None:
    """At the size of its position embeddings, and at one whose last rows and columns fill no patch."""
    state = weights(7, middle)
    batch = images(size)
    image = batch.pixels[:, :, : size[0], : size[1]]
    logits, boxes = reference(state, image)
    found = network(state, tmp_path, middle=middle)(batch)[0]
    scores, labels = logits.softmax(dim=-1)[:, :-1].max(dim=-1)
    order = scores.argsort(descending=True)
    assert torch.equal(found.labels, labels[order])
    assert torch.allclose(found.scores.double(), scores[order], atol=1e-5)
    x, y, w, h = boxes[order].unbind(dim=1)
    sides = torch.tensor([size[1], size[0]] * 2)
    want = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1) * sides
    assert torch.allclose(found.boxes.double(), want, atol=1e-3)
    assert len(found.boxes) == QUERIES


@torch.no_grad()
def test_cocos_numbers_become_categories(tmp_path: Path) -> None:
    """91 numbers of which 80 are categories, in their order: the others are never found."""
    state = weights(91, False)
    state["class_labels_classifier.layers.2.bias"][list(GAPS)] += 50
    made = network(state, tmp_path, num_classes=80, outputs=91)
    logits, _ = reference(state, images((64, 96)).pixels)
    numbers = [number for number in range(91) if number not in GAPS]
    assert len(numbers) == 80
    found = made(images((64, 96)))[0]
    want = logits.softmax(dim=-1)[:, numbers].max(dim=-1)
    assert torch.allclose(found.scores.double(), want.values.sort(descending=True).values, atol=1e-6)
    assert set(found.labels.tolist()) <= set(range(80))
    with refuses(ValueError, "outputs", 90, [80]):
        Yolos(**YOLOS, num_classes=80, outputs=90)


def test_a_cut_checkpoint_is_refused() -> None:
    state = {"vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(2, 2)}
    with refuses(ModelError, "model.checkpoint", "body.blocks.0.attn.qkv.weight"):
        checkpoint_filter_fn(state, Yolos(**YOLOS))


@torch.no_grad()
@pytest.mark.parametrize("middle", [False, True])
def test_segments_composed_are_the_network(middle: bool) -> None:
    torch.manual_seed(0)
    made, batch = Yolos(**YOLOS, middle=middle).eval(), images((90, 71))
    structure = structure_of(made)
    value: object = batch
    for segment in structure.segments:
        value = segment.forward(value)
    assert_same(made(batch), value)
    values = structure.segments[0].forward(images((90, 71), (64, 96)))
    assert isinstance(values, list)
    assert torch.equal(values[0][0], structure.segments[0].forward(images((90, 71), (64, 96))[:1])[0])
    twin = QuantizedModel(made)
    for one, other in zip(made(batch), twin(batch), strict=True):
        assert torch.allclose(one.boxes, other.boxes, atol=1e-3)
    layers = [m for m in made.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert len([site for site in twin.sites.values() if site.is_weight]) == len(layers)
    outside = [s for s in twin.sites.values() if not any(g.holds(s.owner) for g in twin.structure.segments)]
    assert outside == []


@torch.no_grad()
def test_a_network_does_not_differ_from_itself() -> None:
    torch.manual_seed(0)
    one, other = Yolos(**YOLOS).eval(), Yolos(**YOLOS).eval()
    given, others = (n.answers(n.stem(images((64, 96)))) for n in (one, other))
    assert float(divergence(given, given)) == 0
    assert float(agreement(given, given)) == 100
    assert float(divergence(given, others)) > 0
