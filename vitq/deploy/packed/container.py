"""The file of a packed checkpoint: safetensors, plain or compressed. Readers take either.

Plain: every tensor under its name; metadata `vitq`, JSON that holds the header and the sha256 of header and tensors.
Compressed (compress.py): the same in three streams, each a tensor of bytes; metadata `vitq` as above, the
sha256 of the streams.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vitq.deploy.packed import compress
from vitq.deploy.packed.header import COMPRESSED_VERSION, Header, compact, envelope, parse_header
from vitq.errors import DeployError


def plain(header: Header, tensors: dict[str, Tensor]) -> bytes:
    return _file(header.text(), tensors)


def compressed(path: Path) -> bytes:
    """The compressed form of a packed checkpoint; no bit of the model is lost. Raises DeployError as `read` does."""
    header, tensors = read(path)
    widths = {name: header.quantizers[i].bits for name, i in header.sites.items() if i is not None and name in tensors}
    streams_ = compress.compress(header.model_dump(mode="json"), tensors, widths)
    return _file(compact({"version": COMPRESSED_VERSION}), streams_)


def read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """(header, tensors) of either form, whole or not at all. The file is not named.

    Raises DeployError: missing, truncated, damaged, no packed checkpoint, a newer layout.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError as error:
        raise DeployError(
            "there is no such file; `vitq export SIGNATURE --format packed` writes one", "path", str(path)
        ) from error
    except (SafetensorError, OSError) as error:
        raise DeployError(f"it is damaged or truncated ({error}); export it again", "safetensors") from error
    if "vitq" not in metadata:
        text = "it is no packed checkpoint of vitq; `vitq export SIGNATURE --format packed` writes one"
        raise DeployError(text, "vitq", sorted(metadata))
    # The version first: a newer layout may have another digest.
    raw, expected, version = envelope(metadata["vitq"])
    # The text as the file has it was hashed: a field that this vitq knows and the file does not is no damage.
    actual = digest(compact(raw), tensors)
    if expected != actual:
        text = "it is damaged (its content differs from its sha256); export it again"
        raise DeployError(text, "sha256", actual, [expected])
    if version == COMPRESSED_VERSION:
        raw, tensors = compress.expand(tensors)
    return parse_header(raw), tensors


def narrow(values: Tensor) -> Tensor:
    """The same numbers in the narrowest type that holds each of them exactly.

    values: float32. Whole numbers: uint8, int8 or int16; float16; else as they are.
    """
    values = values.contiguous()
    whole = values.to(torch.int32)
    if torch.equal(whole.to(values.dtype), values):
        for dtype in (torch.uint8, torch.int8, torch.int16):
            if torch.equal(whole.to(dtype).to(torch.int32), whole):
                return whole.to(dtype)
    half = values.to(torch.float16)
    return half if torch.equal(half.to(values.dtype), values) else values


def digest(header: str, tensors: dict[str, Tensor]) -> str:
    """sha256 of a header and of the names, types, shapes and bytes of tensors."""
    sha256 = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha256.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha256.update(tensor.numpy().tobytes())
    return sha256.hexdigest()


def _file(header: str, tensors: dict[str, Tensor]) -> bytes:
    # One key alone: safetensors writes several in random order, and equal models are to be equal files.
    return save(tensors, {"vitq": f'{{"sha256":"{digest(header, tensors)}","header":{header}}}'})
