"""What one process keeps from run to run: loaded models and full-precision activations, as far as memory allows.

Runs of one model that follow each other in a process would load and compute these again, to the same bits. What lies
here is shared and only read; whoever changes a model takes a copy.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitq.machine import free_memory

# A process keeps at most this share of the memory that was free before it kept anything: it has neighbours.
SHARE = 0.1


@dataclass
class _Item:
    value: Any
    size: int
    device: torch.device


class MemoryCache:
    """Values by key, in groups. For a new group old ones make room, the longest unused first; a group never pushes out
    its own values, so that a chain of activations that does not fit as a whole keeps its beginning.
    """

    def __init__(self, free: Callable[[torch.device], int] | None = None):
        """free: bytes that are free on a device; `vitq.machine.free_memory` where None."""
        self._free = free or free_memory
        self._groups: OrderedDict[Hashable, dict[Hashable, _Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def model(self, key: Hashable, load: Callable[[], nn.Module]) -> nn.Module:
        """A model for the caller alone: a copy of what `load` gave when the key was asked for first."""
        group = ("model", key)  # of its own: models make room for each other
        kept = self._get(group, key)
        if kept is None:
            kept = load()
            size = sum(t.numel() * t.element_size() for t in (*kept.parameters(), *kept.buffers()))
            if not self._put(group, key, kept, size, next(kept.parameters()).device):
                return kept
        own: nn.Module = copy.deepcopy(kept)
        return own

    def tensor(self, group: Hashable, key: Hashable) -> Tensor | None:
        value: Tensor | None = self._get(group, key)
        return value

    def put(self, group: Hashable, key: Hashable, value: Tensor) -> None:
        self._put(group, key, value, value.numel() * value.element_size(), value.device)

    def _get(self, group: Hashable, key: Hashable) -> Any:
        if group not in self._groups:
            return None
        self._groups.move_to_end(group)
        item = self._groups[group].get(key)
        return None if item is None else item.value

    def clear(self) -> bool:
        """Drop everything; False where there was nothing."""
        held = bool(self._groups)
        self._groups.clear()
        return held

    def _put(self, group: Hashable, key: Hashable, value: Any, size: int, device: torch.device) -> bool:
        room = SHARE * (self._free(device) + self._held(device))
        others = [name for name in self._groups if name != group]
        if size + self._held(device, group) > room:
            return False
        while size + self._held(device) > room:
            self._groups.pop(others.pop(0))
        self._groups.setdefault(group, {})[key] = _Item(value, size, device)
        self._groups.move_to_end(group)
        return True

    def _held(self, device: torch.device, group: Hashable | None = None) -> int:
        groups = self._groups.values() if group is None else [self._groups.get(group, {})]
        return sum(item.size for items in groups for item in items.values() if item.device == device)


# Of this process.
MEMORY = MemoryCache()
