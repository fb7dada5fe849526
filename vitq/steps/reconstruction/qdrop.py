"""QDrop's random dropping of quantization (Wei et al., ICLR 2022, arXiv 2203.05740, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vitq.quant.site import Shapes, Site, watching


class Dropping:
    """Masks of the activation sites of one segment, new ones for each batch: elements that are not quantized.

    Each element of each site is left in full precision with `probability`, drawn for whole batches, so that it does not
    matter how many images go through at once. Use as a context manager: on leaving the sites quantize everything again.
    """

    def __init__(self, sites: Sequence[Site], probability: float, device: torch.device, seed: int):
        self._sites = [site for site in sites if not site.is_weight and site.on]
        self._probability = probability
        self._generator = torch.Generator(device).manual_seed(seed)
        self._shapes: dict[str, torch.Size] = {}
        self._masks: dict[str, Tensor] = {}

    def __enter__(self) -> Dropping:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def hide(self) -> None:
        """Let the sites quantize everything, until masks are shown again."""
        for site in self._sites:
            site.left = None

    def draw(self, forward: Callable[[Any], Any], inputs: Any) -> None:
        """New masks for a batch of the segment's inputs (B, …), or for one image of a detector."""
        if not self._shapes or not isinstance(inputs, Tensor):  # images of a detector have their own sizes
            self.hide()  # masks of an image of another size
            shapes = Shapes()
            with watching(self._sites, shapes), torch.no_grad():
                forward(inputs[:1] if isinstance(inputs, Tensor) else inputs)
            # What one image looks like at a site: (rows, …), rows being 1, or Swin's windows.
            self._shapes = shapes.seen
        count = len(inputs) if isinstance(inputs, Tensor) else 1
        for name, shape in self._shapes.items():
            mask = torch.empty((count * shape[0], *shape[1:]), dtype=torch.bool, device=self._generator.device)
            self._masks[name] = mask.bernoulli_(self._probability, generator=self._generator)

    def show(self, first: int, count: int) -> None:
        """Give the sites the masks of the images first … first + count − 1 of the batch."""
        for site in self._sites:
            rows = self._shapes[site.name][0]
            site.left = self._masks[site.name][first * rows : (first + count) * rows]
