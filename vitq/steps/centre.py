"""Centre: keys and values of every head moved to mean zero, by biases alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.models.attention import AttentionTwin
from vitq.models.structure import Structure
from vitq.quant.layers import QuantMatmul
from vitq.quant.model import QuantizedModel
from vitq.steps.layer_walk import NetworkWalk, layers, quantized_walk
from vitq.steps.step import Step, Workspace, register_step
from vitq.steps.weight_grid import add_bias


@register_step("centre")
class Centre(Step):
    """Take the mean over images and tokens out of keys and values, without changing the network's function.

        softmax(q·(k − m)ᵀ) = softmax(q·kᵀ), since q·m is the same for all keys;
        p·(v − m) + m = p·v, since probabilities sum to 1.

    So m is taken out of the rows of key and value in the bias of `qkv`, and W·m of the value's goes into the bias of
    `proj`, whose weight is W. What the means took of the ranges is free for codes, and quantized probabilities that do
    not sum to 1 err no longer by the mean. Nothing is left to compute at run time.

    keys, values: which. least_bits: keys and values of fewer bits stay as they are. images: the mean is of the first so
    many calibration images (none: all).
    It stands in front of all steps that fit ranges. Where norms, rotary embeddings or products of other than
    probabilities stand between, the part is left out, and the plan says so.
    Source: keys smoothed by their mean at run time are SageAttention's (arXiv 2410.02367); that the mean over images
    goes into a bias, and values likewise, is our own [I].
    """

    keys: bool = True
    values: bool = True
    least_bits: Annotated[int, Field(ge=1)] = 1
    images: int | None = None
    changes_weights: ClassVar[bool] = True
    adapts: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def run(self, work: Workspace) -> None:
        chosen = {}
        for attention, twin in joint_twins(work.model):
            keys = self.keys and twin.bare_scores and self._wide(twin.scores)
            values = self.values and sums_to_one(twin) and self._wide(twin.context)
            if keys or values:
                chosen[f"{attention}.qkv"] = (f"{attention}.proj", keys, values)
        if not chosen:
            return
        walk = quantized_walk(work, self.images)
        for name, layer in layers(work, [walk], "centre"):
            if name not in chosen:
                continue
            projection, keys, values = chosen[name]
            _, key, value = mean_output(walk, name).chunk(3)
            key, value = key * keys, value * values
            shift = -torch.cat([torch.zeros_like(key), key, value])
            add_bias(layer, shift)
            work.moved[name] = work.moved.get(name, 0) + shift
            proj = work.model.layer(projection)
            add_bias(proj, proj.weight.double() @ value)

    def _wide(self, product: nn.Module) -> bool:
        """Whether the right operand, key or value, has the bits."""
        assert isinstance(product, QuantMatmul)
        quantizer = product.right_site.quantizer
        return quantizer is None or quantizer.bits >= self.least_bits

    def check(self, config: RunConfig) -> list[Problem]:
        problems = []
        if not (self.keys or self.values):
            text = "keys and values are both off; use enabled=false to leave the step out"
            problems.append(Problem(text, "keys", False, [True]))
        if self.images is not None and self.images < 1:
            problems.append(bad("images", self.images, "at least 1, or null for the whole calibration set"))
        return problems

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        problems = super().check_order(before, behind)
        fitting = [step.name for step in before if step.fits() and "weight" not in step.fits()]
        if fitting:
            text = f"moves keys and values after {fitting[0]!r} has fitted their ranges; move it in front"
            problems.append(Problem(text, value=fitting[0]))
        return problems

    def left_out(self, config: RunConfig, structure: Structure) -> list[str]:
        twins = [twin for _, twin in joint_twins(QuantizedModel(copy.deepcopy(structure.model)))]
        parts = (
            ("keys", self.keys, any(twin.bare_scores for twin in twins)),
            ("values", self.values, any(sums_to_one(twin) for twin in twins)),
        )
        why = "no attention makes query, key and value in one layer and uses them as they are"
        return [f"{part} are left out: {why}" for part, wanted, there in parts if wanted and not there]


def joint_twins(model: QuantizedModel) -> Iterator[tuple[str, AttentionTwin]]:
    """Attentions, by name, whose `qkv` gives query, key and value of one input and whose `proj` reads the heads."""
    for name, module in model.model.named_modules():
        if isinstance(module, AttentionTwin) and module.joint and module.over_tokens:
            yield name, module


def sums_to_one(twin: AttentionTwin) -> bool:
    """Whether what multiplies the values sums to 1, and `proj` reads the product as it is."""
    return twin.weights == "probs" and twin.bare_proj


@torch.no_grad()
def mean_output(walk: NetworkWalk, name: str) -> Tensor:
    """(O,) float64: mean over images and positions of what a linear layer of the current segment gives."""
    layer = walk.module(name)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for x in walk.arriving(name):
        rows = layer(x).flatten(0, -2)
        total = total.to(rows.device) + rows.sum(dim=0, dtype=torch.float64)
        count += len(rows)
    return total / count
