"""Sensitivities that were measured before: kept in the cache under all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vitq.config import SCHEMA_VERSION, RunConfig, canonical, orders
from vitq.store.atomic import write_bytes

# Site → width → mean KL(full precision ‖ quantized) with this site alone quantized, nats.
Losses = dict[str, dict[int, float]]
# Raised when the same key would mean other numbers.
_VERSION = 1


class SensitivityTable:
    """The table of one model, calibration set and recipe up to a step.

    steps: the steps that ran before. images: how many calibration images measured it.
    """

    def __init__(self, config: RunConfig, steps: Sequence[dict[str, Any]], images: int, device: torch.device):
        plain = canonical(config)
        key = {
            "version": [_VERSION, SCHEMA_VERSION],
            **{part: plain.get(part) for part in ("model", "data", "bits", "calib", "seed")},
            "order": orders(config)["bits.sites"],
            "kinds": plain["method"]["kinds"],
            "iterations": plain["method"]["iterations"],
            "steps": steps,
            "images": images,
            "device": device.type,
            "torch": torch.__version__,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=list).encode()).hexdigest()[:24]
        self.path = Path(config.cache_dir).expanduser() / "sensitivity" / f"{digest}.json"

    def losses(self, names: Iterable[str], widths: Sequence[int]) -> Losses | None:
        """The losses of these sites at these widths; None where one of them is not known."""
        known = self._read()
        losses: Losses = {}
        for name in names:
            at = known.get(name, {})
            if any(str(width) not in at for width in widths):
                return None
            losses[name] = {width: float(at[str(width)]) for width in widths}
        return losses

    def add(self, losses: Mapping[str, Mapping[int, float]]) -> None:
        """Keep these, beside what is known."""
        known = self._read()
        for name, at in losses.items():
            known[name] = {**known.get(name, {}), **{str(width): loss for width, loss in at.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, json.dumps(known, sort_keys=True).encode())

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            known = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError):  # a damaged entry of the cache is computed and written anew
            return {}
        return known if isinstance(known, dict) else {}
