"""Which of timm's transformers vitq quantizes: `python docs/models.py docs/results/models.md`.

Every name of `timm.list_models` whose network is a vision transformer is built on torch's meta device (shapes without
numbers), its sites are made, and one image passes the chain of its segments.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import timm
import torch
from timm.models import model_entrypoint

from vitq.errors import VitqError, first_line
from vitq.quant.model import QuantizedModel

# Modules of timm.models whose networks have attention by products of query, key and value in (nearly) every block.
TRANSFORMERS = (
    *("beit", "cait", "coat", "convit", "crossvit", "davit", "deit", "eva", "gcvit", "hiera", "hieradet_sam2", "levit"),
    *("maxxvit", "metaformer", "mvitv2", "naflexvit", "nest", "nextvit", "pit", "pvt_v2", "swin_transformer"),
    *("swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit", "tnt", "twins", "visformer", "vision_transformer"),
    *("vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "vitamin", "volo", "xcit"),
)
# How many of them worked with vitq 0.1.0, before the families of 2026 were added; measured by this script.
BEFORE = (160, 588)

# Why classes without a family are left out, by class.
LEFT_OUT = {
    "CoaT": "no matrix of attention: keys are multiplied by values first; scales of tokens run beside each other",
    "ConVit": "attention is a learned mixture of two softmaxes, one of them of positions alone",
    "CrossVit": "two streams of tokens, which exchange their class tokens",
    "GlobalContextVit": "queries of a stage come from convolutions over the whole map, beside the stream of tokens",
    "HieraDet": "a backbone of a segmenter: queries pooled on maps in windows, no classifier",
    "Eva: block is grouped-query attention": "several heads share a key and a value; here each head has its own",
    "MetaFormer": "tokens are mixed by pooling or convolutions; caformer has attention in two of its four stages",
    "MultiScaleVit": "query, key and value are pooled by convolutions, and queries are added to what attention gives",
    "NaFlexVit": "takes patches and their coordinates in place of images",
    "Nest": "attention over a fifth dimension, blocks of tokens; nothing else stands in the way",
    "NextViT": "most blocks are convolutions by groups; keys and values are pooled with a batch norm behind",
    "PyramidVisionTransformerV2": "keys and values of a map that convolutions or pooling made smaller",
    "Twins": "keys and values of a map that convolutions made smaller, and position embeddings by convolutions",
    "VisionTransformerSAM": "a backbone of a segmenter: bias of positions is made of the queries, no classifier",
    "Visformer": "attention on maps by convolutions of one pixel, with batch norms in front",
    "VisionTransformer: block is of type DiffAttention": "attention is the difference of two softmaxes",
    "VisionTransformer: block is of type DiffParallelScalingBlock": "attention is the difference of two softmaxes",
    "VOLO": "outlook attention has no queries and keys: a layer gives its weights",
}


def names() -> list[str]:
    """timm's names of transformers, in its order."""
    return [name for name in timm.list_models() if model_entrypoint(name).__module__.rpartition(".")[2] in TRANSFORMERS]


@torch.no_grad()
def attempt(name: str) -> tuple[str, str]:
    """(family, "") of a name that works, ("", reason) of one that does not."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False).eval()
        size = model.pretrained_cfg["input_size"]
        try:
            quantized = QuantizedModel(model)
        except VitqError as error:
            return "", reason(error, model)
        x = torch.zeros(1, *size)
        for segment in quantized.structure.segments:
            x = segment.forward(x)
    if x.ndim != 2:
        return "", f"its output has shape {tuple(x.shape)}: it is built without pooling"
    return quantized.structure.family, ""


def reason(error: VitqError, model: torch.nn.Module) -> str:
    """Why a network is refused, without what differs from block to block."""
    (problem,) = error.problems
    if not problem.key:
        return f"class {type(model).__name__}: no family"
    part = "block" if problem.key.startswith("blocks.") else problem.key
    return f"class {type(model).__name__}: {part} is {problem.value}"


def page(found: dict[str, tuple[str, str]]) -> str:
    """The page as Markdown."""
    works, refused = defaultdict(list), defaultdict(list)
    for name, (family, why) in found.items():
        (refused[why] if why else works[family]).append(name)
    count = sum(map(len, works.values()))
    lines = [
        "<!-- Written by `python docs/models.py docs/results/models.md`. Do not edit: run the command again. -->",
        "# Which of timm's transformers work",
        "",
        f"**{count} of {len(found)}** names of vision transformers in timm {timm.__version__} can be quantized; with "
        f"vitq 0.1.0 it was {BEFORE[0]} of {BEFORE[1]}. Each was built on torch's meta device, its sites were made, "
        "and the shape of an image passed its segments. That quantized networks compute what they should is tested on "
        "a small instance of each class (`tests/models/`).",
        "",
        "| family | names | which |",
        "|---|---|---|",
        *(f"| {family} | {len(works[family])} | {listed(works[family])} |" for family in sorted(works)),
        "",
        f"## The {len(found) - count} that are refused",
        "",
        "A refusal is one message with this reason, before anything is computed. How a family is added: "
        "[extending](../extending.md#a-model-family).",
        "",
        "| reason | names | why | which |",
        "|---|---|---|---|",
    ]
    by_size = sorted(refused, key=lambda why: (-len(refused[why]), why))
    lines += [f"| {why} | {len(refused[why])} | {left_out(why)} | {listed(refused[why])} |" for why in by_size]
    return "\n".join([*lines, ""])


def left_out(why: str) -> str:
    """What is said of a reason of refusal, "" where it says all itself."""
    return LEFT_OUT.get(why.removeprefix("class ").removesuffix(": no family"), "")


def listed(which: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in which)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="the page to write; none: counts alone")
    out = parser.parse_args().out
    found: dict[str, tuple[str, str]] = {}
    for name in names():
        try:
            found[name] = attempt(name)
        except (RuntimeError, NotImplementedError, ValueError, AssertionError, TypeError) as error:
            found[name] = "", f"not on the meta device ({type(error).__name__}: {first_line(error)})"
    if out is not None:
        out.write_text(page(found))
    print(f"{sum(not why for _, why in found.values())} of {len(found)}", file=sys.stderr)


if __name__ == "__main__":
    main()
