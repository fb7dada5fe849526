"""Rotate: the channels of residual streams and heads turned by orthogonal matrices, folded into weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem
from vitq.models.rotatable import Heads, Reader, ResidualStream, Writer
from vitq.models.structure import Structure
from vitq.steps.orthogonal import Matrix, hadamard, mean_preserving, orthogonal
from vitq.steps.step import Network, Step, Workspace, register_step

# Whether a part is rotated: never, or where that is exact. `true` refuses a network where it is exact nowhere.
Wanted = bool | Literal["where_exact"]


@register_step("rotate")
class Rotate(Step):
    """Spread outliers over all channels, without changing the network's function and without cost at run time.

    stream: rows x of a residual stream become xR, R orthogonal with R·1 = 1 (`mean_preserving`). LayerNorm without its
        affine part keeps mean and variance and commutes with R, so norms stay what they are: their weights and biases
        are folded into the layers that read them (γ = 1, β = 0), layers that write to the stream get RᵀW and Rᵀb, those
        that read it WR, tokens and position embeddings are rotated, LayerScale is folded into the layer before it.
        Swin: a rotation for each stage; patch merging, which norms four tokens at once, commutes with diag(R, R, R, R).
        Where zeros are padded between norm and layer, β/γ stays in the norm, rotated.
    heads_qk, heads_vo: for each head one orthogonal matrix on query and key, another on value and proj's columns.
    Each of the three is `where_exact` (a network where a part cannot be rotated keeps it as it is, as query and key
        with rotary embeddings, and the plan says so), `true` (the plan refuses such a network) or `false`.
    matrix: `hadamard` with random signs, or `random` for widths without a known Hadamard matrix.
    seed: added to the run's seed; the matrices of one part do not depend on which others are switched on.

    It must be the first step. The full-precision network of later steps is rotated too, so that both are compared in
    the same coordinates. Source: rotations of language models (QuaRot, arXiv 2404.00456) and of ViTs by way of RMSNorm
    (GLF-Q); that R·1 = 1 spares the change of the norm is our own [I].
    """

    stream: Wanted = "where_exact"
    heads_qk: Wanted = "where_exact"
    heads_vo: Wanted = "where_exact"
    matrix: Matrix = "hadamard"
    seed: int = 0
    changes_weights: ClassVar[bool] = True
    detectors: ClassVar[bool] = True
    adapts: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        if self.stream or self.heads_qk or self.heads_vo:
            return []
        text = "stream, heads_qk and heads_vo are all off; use enabled=false to leave the step out"
        return [Problem(text, "stream", self.stream, [True])]

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        if not before:
            return super().check_order(before, behind)
        text = f"must be the first step of the recipe, before {before[0].name}; move it to the front, or leave it out"
        return [Problem(text, value=before[0].name)]

    def check_network(self, network: Network) -> list[Problem]:
        """Parts that must be rotated and can be nowhere in this network, and sizes without a matrix."""
        structure, problems = network.model.structure, []
        for part, (wanted, parts) in self._parts(structure).items():
            sizes = sorted({size for fixed, size in parts if not fixed})
            if wanted is True and not sizes:
                text = f"{part}=true, but {_nowhere(structure, parts)}; set {part}=where_exact or {part}=false"
                problems.append(Problem(text, part, True, ["where_exact", False]))
            elif wanted and self.matrix == "hadamard":
                missing = [size for size in sizes if hadamard(size) is None]
                problems += [
                    Problem(f"{part}: no Hadamard matrix of size {size} is known; set matrix=random", part, size)
                    for size in missing
                ]
        return problems

    def left_out(self, config: RunConfig, structure: Structure) -> list[str]:
        return [
            f"{part} is left out: {_nowhere(structure, parts)}"
            for part, (wanted, parts) in self._parts(structure).items()
            if wanted == "where_exact" and all(fixed for fixed, _ in parts)
        ]

    def _parts(self, structure: Structure) -> dict[str, tuple[Wanted, list[tuple[str, int]]]]:
        """Name of a part → whether it is wanted, and why each such part of the network is fixed ("": not), its size."""
        streams, heads = structure.rotatable.streams, structure.rotatable.heads
        return {
            "stream": (self.stream, [(stream.fixed, stream.width) for stream in streams]),
            "heads_qk": (self.heads_qk, [(head.fixed_qk, head.size) for head in heads]),
            "heads_vo": (self.heads_vo, [(head.fixed_vo, head.size) for head in heads]),
        }

    @torch.no_grad()
    def run(self, work: Workspace) -> None:
        rotatable = work.model.structure.rotatable
        targets = [work.model.model]
        if work.has_teacher:
            targets.append(work.teacher.model)
        edits = [Edit(model) for model in targets]
        generator = torch.Generator().manual_seed(work.config.seed + self.seed)
        for stream in work.progress.over(rotatable.streams, "rotate", len(rotatable.streams)):
            if stream.fixed or not (self.stream or self._known(stream.width)):
                continue
            matrix = mean_preserving(stream.width, generator, self.matrix)
            for edit in edits if self.stream else []:
                rotate_stream(edit, stream, matrix)
        for head in rotatable.heads:
            turned = (self.heads_qk and not head.fixed_qk) or (self.heads_vo and not head.fixed_vo)
            if not (turned or self._known(head.size)):
                continue
            qk, vo = (
                torch.stack([orthogonal(head.size, generator, self.matrix) for _ in range(head.heads)])
                for _ in range(2)
            )
            for edit in edits:
                rotate_heads(
                    edit,
                    head,
                    qk if self.heads_qk and not head.fixed_qk else None,
                    vo if self.heads_vo and not head.fixed_vo else None,
                )
        for edit in edits:
            edit.write()
        parts = (bool(self.stream), bool(self.heads_qk), bool(self.heads_vo))
        work.coordinates += ((*parts, self.matrix, work.config.seed + self.seed),)

    def _known(self, size: int) -> bool:
        """Whether there is a matrix of this size, which is drawn for parts that are switched off too."""
        return self.matrix == "random" or hadamard(size) is not None


def _nowhere(structure: Structure, parts: list[tuple[str, int]]) -> str:
    reason = parts[0][0] if parts else f"the family {structure.family!r} reports nothing of the kind"
    return f"nothing can be rotated exactly ({reason})"


class Edit:
    """Parameters of a model as float64 tensors, changed there and written back at once: rounded to float32 one time."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._values: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._values:
            self._values[name] = self._model.get_parameter(name).detach().double()
        return self._values[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._values[name] = value

    def find(self, name: str) -> Tensor | None:
        """A parameter that the module may have or not."""
        owner, _, leaf = name.rpartition(".")
        present = getattr(self._model.get_submodule(owner), leaf, None) is not None or name in self._values
        return self[name] if present else None

    def rows(self, layer: str) -> Tensor:
        """(O, I) weight of a linear or convolution layer."""
        return self[f"{layer}.weight"].flatten(1)

    def put(self, layer: str, rows: Tensor) -> None:
        """Its new weight (O, I)."""
        self[f"{layer}.weight"] = rows.view(self[f"{layer}.weight"].shape)

    def add_bias(self, layer: str, shift: Tensor) -> None:
        """Add (O,) to its bias; one that has none gets one."""
        bias = self.find(f"{layer}.bias")
        self[f"{layer}.bias"] = shift if bias is None else bias + shift

    def write(self) -> None:
        """Put all that was changed into the model, as new tensors."""
        for name, value in self._values.items():
            owner, _, leaf = name.rpartition(".")
            module = self._model.get_submodule(owner)
            old = getattr(module, leaf)
            like = module.get_parameter("weight") if old is None else old
            new = nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=like.requires_grad)
            setattr(module, leaf, new)


def rotate_stream(edit: Edit, stream: ResidualStream, matrix: Tensor) -> None:
    """x ↦ xR in one residual stream. matrix: R (C, C) float64. Raises ValueError where that cannot be exact."""
    for writer in stream.writers:
        _write(edit, writer, matrix)
    for name in stream.tensors:
        edit[name] = edit[name] @ matrix.to(edit[name].device)
    for reader in stream.readers:
        _read(edit, reader, matrix)


def _write(edit: Edit, writer: Writer, matrix: Tensor) -> None:
    gamma = None if writer.scale is None else edit[writer.scale]
    for layer in (writer.layer, *writer.also):
        rows, bias = edit.rows(layer), edit.find(f"{layer}.bias")
        if gamma is not None:
            rows, bias = gamma.unsqueeze(1) * rows, None if bias is None else gamma * bias
        matrix = matrix.to(rows.device)
        edit.put(layer, matrix.T @ rows)
        if bias is not None:
            edit[f"{layer}.bias"] = bias @ matrix
    if writer.scale is not None and gamma is not None:
        edit[writer.scale] = torch.ones_like(gamma)


def _read(edit: Edit, reader: Reader, matrix: Tensor) -> None:
    inputs = [edit.rows(layer) for layer in reader.layers]
    matrix = torch.block_diag(*[matrix.to(inputs[0].device)] * reader.copies)
    weight = None if reader.norm is None else edit.find(f"{reader.norm}.weight")
    bias = None if reader.norm is None else edit.find(f"{reader.norm}.bias")
    if weight is None:
        weight = torch.ones(len(matrix), dtype=torch.float64, device=matrix.device)
    elif reader.norm is not None:
        edit[f"{reader.norm}.weight"] = torch.ones_like(weight)
    if bias is not None:
        kept = torch.zeros_like(bias)
        if reader.padded:
            alone = (weight == 0) & (bias != 0)
            if bool(alone.any()):
                text = (
                    f"rotate: {reader.norm} has weight 0 and bias {float(bias[alone][0]):g} in channel "
                    f"{int(alone.nonzero()[0])}, and zeros are padded behind it: not exact; set stream=false"
                )
                raise ValueError(Problem(text, "stream", reader.norm, [False]))
            kept = torch.where(weight == 0, kept, bias / weight) @ matrix
        else:
            for layer, rows in zip(reader.layers, inputs, strict=True):
                edit.add_bias(layer, rows @ bias)
        edit[f"{reader.norm}.bias"] = kept
    for layer, rows in zip(reader.layers, inputs, strict=True):
        edit.put(layer, (rows * weight) @ matrix)


def rotate_heads(edit: Edit, head: Heads, qk: Tensor | None, vo: Tensor | None) -> None:
    """One matrix for each head, (heads, size, size) float64, on query and key, and one on value and proj's columns."""
    for part, matrices in enumerate((qk, qk, vo)):
        if matrices is None:
            continue
        rows, bias = edit.rows(head.qkv), edit.find(f"{head.qkv}.bias")
        matrices = matrices.to(rows.device)
        edit.put(head.qkv, _turned(rows, part, matrices))
        if bias is not None:
            edit[f"{head.qkv}.bias"] = _turned(bias.unsqueeze(1), part, matrices).squeeze(1)
    if vo is not None:
        columns = edit.rows(head.proj).unflatten(1, (head.heads, head.size))
        edit.put(head.proj, torch.einsum("ohd,hde->ohe", columns, vo.to(columns.device)).flatten(1))


def _turned(rows: Tensor, part: int, matrices: Tensor) -> Tensor:
    """(3·heads·size, I) with the rows of one part (query, key or value) turned: Rᵀ of each head times its rows."""
    heads, size = matrices.shape[:2]
    parts: Tensor = rows.unflatten(0, (3, heads, size)).clone()
    parts[part] = torch.einsum("hde,hdi->hei", matrices, parts[part])
    return parts.flatten(0, 2)
