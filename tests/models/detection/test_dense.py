"""What two detectors are compared by: their outputs at boxes that are held fixed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.models.detection.small import sharp
from tests.models.detection.test_detector import images
from vitq.models.detection.dense import SURE, Dense, agreement, dense, divergence, fixed, likelihood
from vitq.models.structure import structure_of


def _value(network: torch.nn.Module, size: tuple[int, int] = (90, 120)) -> object:
    value: object = images(size)
    for segment in structure_of(network).segments[:-1]:
        value = segment.forward(value)
    return value


@torch.no_grad()
@pytest.mark.parametrize("cascade", [False, True])
def test_they_are_what_objects_are_made_from(cascade: bool) -> None:
    network = sharp(cascade)
    value = _value(network)
    boxes = fixed(network, value)  # type: ignore[arg-type]
    found = network(images((90, 120)))[0]
    assert len(boxes.stages) == (3 if cascade else 1)
    given = dense(network, value, boxes)  # type: ignore[arg-type]
    assert len(given.classes) == len(given.boxes) == sum(len(stage) for stage in boxes.stages)
    assert given.objectness.shape == given.anchors.shape[:1]
    # Fewer proposals than the network reads, so that fewer objects may be found: those that are have its masks.
    masks = given.masks.sigmoid().unflatten(0, (len(boxes.stages), -1)).mean(dim=0)
    pairs = [
        (a, b) for a, box in enumerate(boxes.objects) for b, own in enumerate(found.boxes) if torch.equal(box, own)
    ]
    assert pairs
    assert all(torch.allclose(masks[a], found.masks[b], atol=1e-6) for a, b in pairs)


@torch.no_grad()
@pytest.mark.parametrize("cascade", [False, True])
def test_a_network_does_not_differ_from_itself(cascade: bool) -> None:
    network = sharp(cascade)
    value = _value(network)
    given = dense(network, value, fixed(network, value))  # type: ignore[arg-type]
    assert float(divergence(given, given)) == 0
    assert float(agreement(given, given)) == 100
    for name in ("backbone.fpn.layer_blocks.0.0.weight", "rpn.head.cls_logits.bias"):
        other = sharp(cascade)
        other.get_parameter(name).data.add_(0.05)
        distance = float(divergence(given, dense(other, _value(other), fixed(network, value))))  # type: ignore[arg-type]
        assert distance > 1e-6


def test_the_divergence_by_hand() -> None:
    """In float64 loops: two anchors of which one is sure, two proposals of which one is background, one mask."""
    exact = Dense(
        torch.tensor([2.0, -1.0]),
        torch.tensor([[0.1, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0]]),
        torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 2.0]]),
        torch.zeros(2, 3, 4),
        torch.full((1, 2, 2), 1.0),
    )
    other = Dense(
        torch.tensor([1.0, -1.5]),
        torch.tensor([[0.6, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]),
        torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, 2.0]]),
        torch.full((2, 3, 4), 0.05),
        torch.full((1, 2, 2), 0.5),
    )
    assert 1 / (1 + math.exp(-2.0)) > SURE

    def bernoulli(a: float, b: float) -> float:
        p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    def categorical(a: list[float], b: list[float]) -> float:
        p, q = ([math.exp(v) / sum(map(math.exp, x)) for v in x] for x in (a, b))
        return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))

    classes = categorical([3, 0, 0], [2, 0.5, 0]) + categorical([0, 0, 2], [0, 1, 2])
    beta = 1 / 9
    want = (bernoulli(2, 1) + bernoulli(-1, -1.5)) / 256
    want += 0.5 - beta / 2  # the sure anchor, off by 0.5: the straight part
    want += classes / 2
    want += 4 * 0.05**2 / (2 * beta)  # the second proposal's own class: the parabola
    want += bernoulli(1.0, 0.5)
    assert float(divergence(exact, other)) == pytest.approx(want, rel=1e-6)
    warm = categorical([0.75, 0, 0], [0.5, 0.125, 0]) + categorical([0, 0, 0.5], [0, 0.25, 0.5])
    want = 16 * ((bernoulli(0.5, 0.25) + bernoulli(-0.25, -0.375)) / 256 + warm / 2 + bernoulli(0.25, 0.125))
    want += 0.5 - beta / 2 + 4 * 0.05**2 / (2 * beta)
    assert float(divergence(exact, other, temperature=4.0)) == pytest.approx(want, rel=1e-6)
    assert float(agreement(exact, other)) == 100


def test_nothing_found_is_no_fault() -> None:
    empty = Dense(torch.zeros(3), torch.zeros(3, 4), torch.zeros(0, 3), torch.zeros(0, 3, 4), torch.zeros(0, 28, 28))
    assert float(divergence(empty, empty)) == 0


def test_drawn_answers_have_the_divergence_s_second_derivative() -> None:
    """The mean of g² over draws, element by element, against autograd's second derivative of `divergence`."""
    given = Dense(
        torch.tensor([2.0, -0.5, 0.3]),
        torch.tensor([[0.1, 0.2, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.3, 1.0]]),
        torch.zeros(2, 3, 4),
        torch.tensor([[[1.0, 0.2], [-0.4, 0.0]]]),
    )
    generator = torch.Generator().manual_seed(0)
    leaves = [part.clone().requires_grad_(True) for part in given]
    squares = [torch.zeros_like(part) for part in given]
    draws = 2000
    for _ in range(draws):
        slopes = torch.autograd.grad(likelihood(Dense(*leaves), generator), leaves)
        for square, slope in zip(squares, slopes, strict=True):
            square += slope.square() / draws
    for number, square in enumerate(squares):

        def of(part: Tensor, number: int = number) -> Tensor:
            return divergence(given, Dense(*(part if i == number else other for i, other in enumerate(given))))

        second = torch.autograd.functional.hessian(of, given[number]).flatten()
        size = given[number].numel()
        assert torch.allclose(square.flatten(), second.view(size, size).diagonal(), rtol=0.2, atol=1e-6), number
    empty = Dense(torch.zeros(3), torch.zeros(3, 4), torch.zeros(0, 3), torch.zeros(0, 3, 4), torch.zeros(0, 28, 28))
    assert float(likelihood(empty, generator)) < 0
