"""QDrop's dropping inside a block: what is left out, how often, that it repeats, and that it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import images, part, run, tiny
from vitq.models.structure import Segment
from vitq.quant.site import Site
from vitq.steps import Workspace
from vitq.steps.reconstruction.qdrop import Dropping

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}
LEARN: dict[str, Any] = {
    "do": "reconstruct",
    "learn": ["rounding", "activation_scales"],
    "input": "qdrop",
    "iterations": 6,
    "batch_size": 8,
    "lr_rounding": 0.05,
    "lr_scales": 1e-3,
}


def calibrated(workspace: Make, family: str = "vit") -> Workspace:
    work = workspace(tiny(family), UNIFORM, images=8, weight=3, activation=2)
    run(work, {"do": "calibrate"})
    return work


@torch.no_grad()
def block(workspace: Make, family: str) -> tuple[torch.device, Segment, list[Site], Tensor]:
    """Device, first block, its sites and its inputs."""
    work = calibrated(workspace, family)
    patches, segment = work.model.structure.segments[:2]
    sites = [site for site in work.model.quantized() if segment.holds(site.owner)]
    return work.device, segment, sites, patches.forward(images(work))


@pytest.mark.parametrize("family", ["vit", "swin"])
@torch.no_grad()
def test_elements_are_left_as_they_are_with_the_probability(workspace: Make, family: str) -> None:
    device, segment, sites, inputs = block(workspace, family)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for site in sites:
        site.register_forward_hook(
            lambda site, args, out: seen.__setitem__(site.name, (args[0].clone(), out.clone())), prepend=True
        )
    with Dropping(sites, 0.3, device, seed=0) as dropping:
        dropping.draw(segment.forward, inputs)
        dropping.show(0, len(inputs))
        segment.forward(inputs)
        for site in sites:
            x, out = seen[site.name]
            assert site.quantizer is not None
            if site.is_weight:
                assert torch.equal(out, site.quantizer(x)), "weights are always quantized"
                continue
            assert site.left is not None
            assert torch.equal(out, torch.where(site.left, x, site.quantizer(x)))
            assert float(site.left.float().mean()) == pytest.approx(0.3, abs=4 * (0.21 / x.numel()) ** 0.5)
        first = {site.name: site.left for site in sites if site.left is not None}
        dropping.draw(segment.forward, inputs)
        dropping.show(0, len(inputs))
        second = {site.name: site.left for site in sites if site.left is not None}
        assert first
        assert not any(torch.equal(second[name], mask) for name, mask in first.items())
    assert all(site.left is None for site in sites)


@pytest.mark.parametrize("family", ["vit", "swin"])
@torch.no_grad()
def test_parts_of_a_batch_see_its_masks(workspace: Make, family: str) -> None:
    """Swin's windows stay with their images."""
    device, segment, sites, inputs = block(workspace, family)
    with Dropping(sites, 0.5, device, seed=0) as dropping:
        dropping.draw(segment.forward, inputs)
        dropping.show(0, len(inputs))
        whole = segment.forward(inputs)
        parts = []
        for first in (0, 3, 6):
            dropping.show(first, 3)
            parts.append(segment.forward(inputs[first : first + 3]))
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_each_element_of_a_blocks_input_is_drawn_on_its_own(workspace: Make) -> None:
    """In every image, and in every token of it, some elements are the full-precision network's; of all, the share."""
    work = calibrated(workspace)
    mixed: list[Tensor] = []

    def keep(_: object, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # an iteration; the passes that advance the streams need no gradient
            mixed.append(args[0].detach().clone())

    hook = part(work.model.model, "blocks.0").register_forward_pre_hook(keep)
    run(work, LEARN | {"drop": 0.3, "drop_at": "input", "learn": ["activation_scales"], "iterations": 2})
    hook.remove()
    with torch.no_grad():
        # Without the class token, which no quantizer is in front of.
        exact, noisy = (
            chain[0].forward(images(work))[:, 1:] for chain in (work.teacher.segments, work.model.structure.segments)
        )
    drawn = []
    for image in torch.cat(mixed)[:, 1:]:
        sources = [(image == full, image == noise) for full, noise in zip(exact, noisy, strict=True)]
        (taken,) = [fp for fp, quantized in sources if bool((fp | quantized).all())]
        drawn.append(taken)
        assert float(taken.float().mean()) == pytest.approx(0.3, abs=4 * (0.21 / image.numel()) ** 0.5)
        assert 0 < int(taken.sum(1).min()) <= int(taken.sum(1).max()) < image.shape[1]
    assert len(drawn) == 2 * len(exact)
    assert not torch.equal(drawn[0], drawn[1]), "each image its own"


def test_the_recipe_drops_everywhere_repeats_and_stops_dropping(workspace: Make) -> None:
    found: dict[str, Tensor] = {}
    for name, at in (("first", "everywhere"), ("second", "everywhere"), ("input", "input")):
        torch.manual_seed(len(found))
        work = calibrated(workspace)
        run(work, LEARN | {"drop_at": at})
        assert all(site.left is None and site.on for site in work.model.quantized())
        found[name] = torch.cat([curve for (curve,) in work.curves.values()])
    assert torch.equal(found["first"], found["second"])
    assert not torch.equal(found["first"], found["input"])


def test_probabilities_zero_and_one(workspace: Make) -> None:
    """Nothing dropped is learning on the quantized input; everything dropped leaves activations out of the loss."""
    curves = {}
    ways: dict[str, dict[str, Any]] = {
        "none": {"drop": 0.0},
        "quantized": {"input": "quantized"},
        "all": {"drop": 1.0, "learn": ["rounding"]},
        "weights alone": {"input": "fp", "quantize": ["weights"], "learn": ["rounding"]},
    }
    for name, options in ways.items():
        work = calibrated(workspace)
        run(work, LEARN | options)
        curves[name] = torch.cat([curve for (curve,) in work.curves.values()])
    # Each batch holds all images; their order alone differs.
    assert torch.allclose(curves["none"], curves["quantized"], rtol=1e-3)
    assert torch.allclose(curves["all"], curves["weights alone"], rtol=1e-3)


@torch.no_grad()
def test_masks_of_an_image_do_not_meet_the_next_one_of_another_size(workspace: Make) -> None:
    """A detector's images, which are no tensor of a batch."""
    device, _, sites, _ = block(workspace, "swin")
    site = next(site for site in sites if not site.is_weight and site.kind == "post_norm")
    assert site.quantizer is not None
    channels = site.quantizer.layout.params[-1]
    with Dropping([site], 0.5, device, seed=0) as dropping:
        for windows in (5, 3):
            image = (torch.randn(windows, 49, channels),)
            dropping.draw(lambda image: site(image[0]), image)
            dropping.show(0, 1)
            assert site.left is not None
            assert site(image[0]).shape == site.left.shape == image[0].shape
