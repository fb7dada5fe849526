"""The compressed form of a packed checkpoint: three streams of bytes, from which every tensor comes back bit for bit.

- `index`: JSON, LZMA: the plain form's header; of each tensor the name, type, shape, bits of its codes (0: none) and
  their bytes in `codes`.
- `codes`: of each quantized weight, its codes in 2, 4 or 8 bits each, deflated with Huffman coding alone (where
  something repeats in weights, it does so by chance); or as the plain form has them, where that is not longer.
- `rest`: all other tensors, grouped by the size of an element, byte planes apart (signs and exponents of floats are
  alike, mantissas are not), LZMA.
"""

from __future__ import annotations

import json
import lzma
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitq.deploy.packed.bitpack import pack, packed_bytes, unpack
from vitq.deploy.packed.header import compact
from vitq.errors import DeployError

_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.float16, torch.float32)
_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}
# An index is JSON about as many tensors as a model has; longer ones are not expanded.
_LONGEST_INDEX = 1 << 26


def compress(header: dict[str, Any], tensors: dict[str, Tensor], widths: dict[str, int]) -> dict[str, Tensor]:
    """The streams of a plain form. widths: bits of the codes, for each tensor that holds bit-packed ones."""
    codes: list[bytes] = []
    table: list[list[Any]] = []
    for name, tensor in sorted(tensors.items()):
        bits = widths.get(name, 0)
        if bits:
            codes.append(_deflated(tensor, bits))
        size = len(codes[-1]) if bits else 0
        table.append([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), bits, size])
    other = b"".join(_planes([t for name, t in sorted(tensors.items()) if name not in widths]))
    return {
        "index": _squeezed(compact({"tensors": table, "header": header}).encode()),
        "codes": _tensor(b"".join(codes)),
        "rest": _squeezed(other),
    }


def expand(streams: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of the plain form. The file is not named. Raises DeployError for streams that are none."""
    try:
        index = json.loads(_expanded(streams["index"], _LONGEST_INDEX))
        tensors, offset = {}, 0
        codes, table = streams["codes"].numpy().tobytes(), index["tensors"]
        others = {name: torch.empty(shape, dtype=_TYPES[dtype]) for name, dtype, shape, bits, _ in table if not bits}
        total = sum(tensor.nbytes for tensor in others.values())
        _fill(list(others.values()), _expanded(streams["rest"], total))
        for name, _, shape, bits, size in table:
            tensors[name] = _inflated(codes[offset : offset + size], bits, *shape) if bits else others[name]
            offset += size
        return index["header"], tensors
    except (KeyError, ValueError, TypeError, RuntimeError, lzma.LZMAError, zlib.error) as error:
        text = f"its streams cannot be read ({type(error).__name__}: {error}); export it again"
        raise DeployError(text, "streams") from error


def _symbol(bits: int) -> int:
    """Bits that a code takes where it is deflated: whole codes in each byte."""
    return 2 if bits <= 2 else 4 if bits <= 4 else 8


def _deflated(packed: Tensor, bits: int) -> bytes:
    """Bit-packed codes, with the bits that fill up the last byte, or the same deflated where that is shorter."""
    codes = unpack(packed, bits, packed.numel() * 8 // bits)
    encoder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1, zlib.Z_HUFFMAN_ONLY)
    short = encoder.compress(pack(codes, _symbol(bits)).numpy().tobytes()) + encoder.flush()
    plain = packed.numpy().tobytes()
    return short if len(short) < len(plain) else plain


def _inflated(data: bytes, bits: int, size: int) -> Tensor:
    """(size,) uint8: what `_deflated` was given."""
    if len(data) == size:
        return _tensor(data)
    count = size * 8 // bits
    length = packed_bytes(count, _symbol(bits))
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    codes = decoder.decompress(data, length)
    if len(codes) != length:
        raise ValueError(f"{len(codes)} bytes instead of {length}")
    return pack(unpack(_tensor(codes), _symbol(bits), count), bits)


def _planes(tensors: list[Tensor]) -> list[bytes]:
    """The bytes of tensors of each element size, least significant ones of all elements first."""
    planes = []
    for size in (1, 2, 4):
        data = b"".join(tensor.numpy().tobytes() for tensor in tensors if tensor.element_size() == size)
        planes.append(np.frombuffer(data, np.uint8).reshape(-1, size).T.tobytes())
    return planes


def _fill(tensors: list[Tensor], data: bytes) -> None:
    """Write into tensors what `_planes` made of them."""
    offset = 0
    for size in (1, 2, 4):
        chosen = [tensor for tensor in tensors if tensor.element_size() == size]
        total = sum(tensor.nbytes for tensor in chosen)
        elements = np.frombuffer(data, np.uint8, total, offset).reshape(size, -1).T.reshape(-1)
        offset, start = offset + total, 0
        for tensor in chosen:
            tensor.reshape(-1).numpy().view(np.uint8)[:] = elements[start : start + tensor.nbytes]
            start += tensor.nbytes


def _squeezed(data: bytes) -> Tensor:
    return _tensor(lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS))


def _expanded(stream: Tensor, most: int) -> bytes:
    """At most so many bytes: a stream cannot fill the memory."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
    return decoder.decompress(stream.numpy().tobytes(), most)


def _tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
