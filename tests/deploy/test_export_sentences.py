"""What `vitq export` says to people."""

from __future__ import annotations

from vitq.cli.export import sentences

SIZES = {"bytes": 500_000, "float32_bytes": 2_000_000, "float16_bytes": 1_000_000}
RATIOS = {"float32_ratio": 4.0, "float16_ratio": 2.0}


def test_a_packed_checkpoint() -> None:
    forms = {"plain": SIZES | RATIOS, "compressed": SIZES | {"float32_ratio": 5.0, "float16_ratio": 2.5}}
    lines = list(sentences({"format": "packed", "path": "m.safetensors", **SIZES, **RATIOS, "forms": forms}))
    assert lines == [
        "packed checkpoint written to m.safetensors",
        "0.500 MB, 4.00 times smaller than float32 and 2.00 times smaller than float16",
        "  plain: 0.500 MB, 4.00 times smaller than float32",
        "  compressed: 0.500 MB, 5.00 times smaller than float32",
    ]


def test_a_detector_s_graph_says_what_it_gives() -> None:
    done = {"format": "onnx", "path": "m.onnx", **SIZES, **RATIOS, "int8_products": 7, "float_products": {}}
    lines = list(sentences({**done, "module": "backbone", "image": (3, 64, 96), "outputs": ("p2", "p3")}))
    assert lines[2:] == [
        "backbone alone, images [3, 64, 96], outputs p2, p3",
        "7 matrix products run in int8, 0 in floating point",
    ]


def test_a_graph_says_what_stays_in_floating_point_and_why_once() -> None:
    left = {"blocks.0.attn": "log2", "blocks.1.attn": "log2", "head": "not quantized"}
    done = {"format": "onnx", "path": "m.onnx", **SIZES, "float32_ratio": 0.5, "float16_ratio": 0.25}
    lines = list(sentences({**done, "int8_products": 7, "float_products": left, "int4_weights": 9, "int8_weights": {}}))
    assert lines[1:] == [
        "0.500 MB, 2.00 times larger than float32 and 4.00 times larger than float16",
        "7 matrix products run in int8, 3 in floating point:",
        "  blocks.0.attn and 1 more: log2",
        "  head: not quantized",
        "9 weights are stored in 4 bits, 0 of 4 bits and less in 8",
    ]
