"""Which quantizer and which bit-width every site gets."""

from __future__ import annotations

from typing import Any

import pytest

from tests.errors import is_about
from tests.tiny import tiny
from vitq.config import BitsConfig, MethodConfig, QuantizerConfig
from vitq.errors import ConfigError
from vitq.quant.model import QuantizedModel

METHOD = MethodConfig(name="m", kinds={"default": QuantizerConfig(), "probs": QuantizerConfig("log2")})


def widths(**bits: Any) -> dict[str, int | str]:
    model = QuantizedModel(tiny("vit"))
    model.equip(METHOD, BitsConfig(**bits))
    return {s.name: "fp" if s.quantizer is None else s.quantizer.bits for s in model.sites.values()}


def test_the_rule_and_its_exceptions() -> None:
    found = widths(weight=4, activation=6)
    assert {bits for name, bits in found.items() if name.endswith(".weight")} == {4}
    assert {bits for name, bits in found.items() if not name.endswith(".weight")} == {6, "fp"}
    assert found["patch_embed.proj.input"] == "fp", "the image is left alone by default"
    assert widths(weight=4, image=8)["patch_embed.proj.input"] == 8
    assert widths(weight="fp")["head.weight"] == "fp"


def test_kinds_beat_the_rule_and_sites_beat_kinds() -> None:
    found = widths(
        weight=4, activation=4, kinds={"probs": 8}, sites={"blocks.1.*.probs": 3, "blocks.1.mlp.fc?.weight": 2}
    )
    assert found["blocks.0.attn.context.probs"] == 8
    assert found["blocks.1.attn.context.probs"] == 3
    assert found["blocks.1.mlp.fc1.weight"] == found["blocks.1.mlp.fc2.weight"] == 2
    assert found["blocks.0.mlp.fc1.weight"] == 4
    last_wins = widths(sites={"*": 3, "blocks.0.*": 5, "blocks.*.weight": 4})
    assert (last_wins["head.weight"], last_wins["blocks.0.mlp.fc1.weight"]) == (3, 4)
    assert last_wins["blocks.0.mlp.fc1.input"] == 5


def test_first_and_last_layer() -> None:
    found = widths(weight=3, activation=3, first_last=8)
    assert [found[f"{layer}.weight"] for layer in ("patch_embed.proj", "head", "blocks.0.mlp.fc1")] == [8, 8, 3]
    assert found["head.input"] == 8
    assert found["patch_embed.proj.input"] == "fp", "the image has a rule of its own"
    found = widths(weight=3, first_last=8, kinds={"weight": 4, "head": 4}, sites={"head.*": 5})
    assert [found[f"{layer}.weight"] for layer in ("patch_embed.proj", "head", "blocks.0.mlp.fc1")] == [8, 5, 4]
    assert found["head.input"] == 5


def test_kinds_choose_the_quantizer() -> None:
    model = QuantizedModel(tiny("vit"))
    model.equip(METHOD, BitsConfig())
    names = {s.kind: type(s.quantizer).__name__ for s in model.quantized()}
    assert names["probs"] == "Log2Quantizer"
    assert names["post_norm"] == "UniformQuantizer"
    model.equip(MethodConfig(name="w", kinds={"weight": QuantizerConfig()}), BitsConfig())
    assert {s.kind for s in model.quantized()} == {"weight"}, (
        "a kind that the recipe leaves out stays in floating point"
    )


def test_all_problems_are_listed() -> None:
    method = MethodConfig(
        name="m", kinds={"weight": QuantizerConfig("lgo2"), "probs": QuantizerConfig("log2", options={"x": 1})}
    )
    with pytest.raises(ConfigError) as caught:
        QuantizedModel(tiny("vit")).equip(method, BitsConfig(sites={"blocks.9.*": 4}))
    pattern, name, option = caught.value.problems
    assert is_about(pattern, "bits.sites.blocks.9.*", "blocks.9.*")
    assert is_about(name, "method.kinds.weight.quantizer", "lgo2", ["log2"])
    assert is_about(option, "method.kinds.probs.options.x", "x", ["levels"])
