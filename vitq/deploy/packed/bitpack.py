"""Codes of 1 to 8 bits, packed without gaps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitq.errors import Problem


def pack(codes: Tensor, bits: int) -> Tensor:
    """(⌈n·bits/8⌉,) uint8: the n codes of any shape in row-major order, first code in the highest bits.

    Raises ValueError for a width outside 1–8 and for codes outside [0, 2^bits).
    """
    _check(bits)
    flat = codes.reshape(-1).cpu()
    low, high = (int(flat.min()), int(flat.max())) if flat.numel() else (0, 0)
    if low < 0 or high >= 1 << bits:
        raise ValueError(Problem(f"codes from {low} to {high} do not fit {bits} bits", "codes", (low, high)))
    every = np.unpackbits(flat.to(torch.uint8).numpy()[:, None], axis=1)
    return torch.from_numpy(np.packbits(every[:, 8 - bits :]))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """(count,) uint8 codes. Raises ValueError where `packed` is not as long as that many codes take."""
    _check(bits)
    if packed.numel() != (expected := packed_bytes(count, bits)):
        text = f"{packed.numel()} bytes instead of {expected} for {count} codes of {bits} bits"
        raise ValueError(Problem(text, "packed", packed.numel(), [expected]))
    every = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    wide = np.zeros((count, 8), dtype=np.uint8)
    wide[:, 8 - bits :] = every
    return torch.from_numpy(np.packbits(wide, axis=1)[:, 0])


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return -(-count * bits // 8)


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}; valid bit-widths: 1 to 8")
