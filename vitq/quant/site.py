"""A site: one tensor of the model that gets quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from vitq.quant.layout import Axes
from vitq.quant.quantizer import Quantizer


class Observer(Protocol):
    """Sees every tensor that passes a site while it is attached."""

    def observe(self, site: Site, x: Tensor) -> None: ...


class Site(nn.Module):
    """Where one tensor passes: identity while off, its quantizer's round trip while on.

    name: e.g. `blocks.3.attn.qkv.input`. kind: see vitq.config.KINDS. axes: roles of the tensor's dimensions.
    owner: name of the layer that the tensor belongs to (for first/last rules and reports).
    quantizer: None for a site that stays in floating point. stand_in: replaces it while range or rounding are learned.
    left: bool, the shape of the tensor: elements that pass as they are while the site is learned with QDrop; else None.
    """

    def __init__(self, name: str, kind: str, axes: Axes, owner: str):
        super().__init__()
        self.name, self.kind, self.axes, self.owner = name, kind, axes, owner
        self.quantizer: Quantizer | None = None
        self.stand_in: nn.Module | None = None
        self.left: Tensor | None = None
        self.on = False
        self.observer: Observer | None = None

    @property
    def is_weight(self) -> bool:
        return self.kind == "weight"

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.observe(self, x)
        if self.on and self.quantizer is not None:
            quantized: Tensor = self.quantizer(x) if self.stand_in is None else self.stand_in(x)
            return quantized if self.left is None else torch.where(self.left, x, quantized)
        return x

    def extra_repr(self) -> str:
        return f"{self.name}, kind={self.kind}, on={self.on}"


class Shapes:
    """Observer that keeps the shape of the last tensor that passed each site, `seen`, and the elements of all that
    passed it, `elements`, by name: more where a layer runs several times."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Size] = {}
        self.elements: dict[str, int] = {}

    def observe(self, site: Site, x: Tensor) -> None:
        self.seen[site.name] = x.shape
        self.elements[site.name] = self.elements.get(site.name, 0) + x.numel()


@contextmanager
def watching(sites: Iterable[Site], observer: Observer) -> Iterator[None]:
    """The observer sees what passes these sites; none is attached afterwards."""
    watched = list(sites)
    for site in watched:
        site.observer = observer
    try:
        yield
    finally:
        for site in watched:
            site.observer = None
