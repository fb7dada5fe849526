"""Reconstruction losses of a whole run, as the table that reports and trackers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

# Points of one curve that are kept: a picture shows no more, and 20,000 iterations × 40 segments are megabytes.
_POINTS = 1000


class Curves:
    """Collects what each step adds to `Workspace.curves`."""

    def __init__(self) -> None:
        self.curves: list[tuple[str, str, Tensor]] = []
        self._seen: Counter[str] = Counter()

    def note(self, step: str, curves: Mapping[str, list[Tensor]]) -> None:
        """Take what is new since the last call as curves of `step`. Empty ones (nothing was learnt) are left out."""
        for segment, losses in curves.items():
            self.curves += [(step, segment, loss) for loss in losses[self._seen[segment] :] if len(loss)]
            self._seen[segment] = len(losses)

    def table(self) -> pd.DataFrame:
        """One row per point: step, segment, iteration (from 0), loss (float32). First and last points stay."""
        parts = []
        for step, segment, losses in self.curves:
            points = torch.linspace(0, len(losses) - 1, min(len(losses), _POINTS), dtype=torch.float64).round().long()
            parts.append(
                pd.DataFrame(
                    {
                        "step": step,
                        "segment": segment,
                        "iteration": points.numpy(),
                        "loss": losses[points].float().numpy(),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)
