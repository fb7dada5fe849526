"""Walking the layers: in the order they run, each with exactly what reaches it, and nothing left changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.errors import refuses
from tests.tiny import images, part, run, tiny
from vitq.steps import Workspace
from vitq.steps.layer_walk import Unquantized, layers, quantized_walk, reach, teacher_walk

Make = Callable[..., Workspace]
UNIFORM = {"kinds": {"weight": {"granularity": "channel"}, "default": {}}}


def seen_by_hooks(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """Input of every layer in one plain run of a network, in the order they run."""
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _m, inputs, name=name: found.__setitem__(name, inputs[0])
        )
        for name in names
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_order_and_inputs_are_those_of_a_plain_run(workspace: Make, family: str) -> None:
    work = workspace(tiny(family), UNIFORM, images=12, weight=4, activation=4)
    run(work, {"do": "calibrate"})
    expected = seen_by_hooks(work.model.model, list(work.model.structure.inputs), images(work))
    exact = seen_by_hooks(tiny(family), list(work.model.structure.inputs), images(work))
    quantized, teacher, unquantized = quantized_walk(work), teacher_walk(work), Unquantized(work)
    order = []
    for name, layer in layers(work, [quantized, teacher, unquantized], "test"):
        order.append(name)
        assert layer is work.model.model.get_submodule(name)
        for walk, inputs in ((quantized, expected), (teacher, exact), (unquantized, exact)):
            assert torch.allclose(torch.cat(list(walk.arriving(name))), inputs[name], atol=1e-4), name
        assert all(site.on for site in work.model.quantized()), "the sites are on again"
    assert order == list(expected)


def test_unquantized_keeps_the_parameters_of_the_beginning(workspace: Make) -> None:
    """Replaced weights and biases are seen by the quantized network alone, in their segment and behind it."""
    work = workspace(tiny("vit"), UNIFORM, images=8, weight=4, activation=4)
    exact = seen_by_hooks(tiny("vit"), list(work.model.structure.inputs), images(work))
    quantized, unquantized = quantized_walk(work), Unquantized(work)
    for name, layer in layers(work, [quantized, unquantized], "test"):
        assert torch.allclose(torch.cat(list(unquantized.arriving(name))), exact[name], atol=1e-4), name
        changed = torch.cat(list(quantized.arriving(name)))
        layer.weight.data = layer.weight.data * 0.5
        layer.bias = nn.Parameter(torch.ones(len(layer.weight)), requires_grad=False)
        assert torch.allclose(torch.cat(list(unquantized.arriving(name))), exact[name], atol=1e-4), name
        assert float(layer.bias.mean()) == 1, "the new parameters are in place again"
    assert not torch.allclose(changed, exact["head"], atol=1e-2)


def test_nothing_behind_the_layer_is_computed(workspace: Make) -> None:
    model = tiny("vit")
    block = part(model, "blocks.0")
    ran = []
    block.mlp.fc1.register_forward_hook(lambda *_: ran.append("fc1"))
    x = torch.randn(2, 17, 48)
    with torch.no_grad():
        (found,) = reach(block, block.attn.proj, x)
    assert found.shape == (2, 17, 48)
    assert ran == []
    with refuses(RuntimeError, key="layer"):
        reach(block, part(model, "head"), x)
