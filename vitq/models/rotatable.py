"""What of a model can be rotated: residual streams with all that writes to them and reads them, and attention heads."""

from __future__ import annotations

from dataclasses import dataclass

from timm.layers import RmsNorm
from torch import nn


@dataclass(frozen=True)
class Writer:
    """A layer whose output channels are added to the stream. scale: the parameter (width,) that multiplies them.

    also: other layers whose outputs are added to it before the scale.
    """

    layer: str
    scale: str | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """Layers that read the stream through one norm.

    norm: None where none stands between. copies: so many tokens are concatenated in front of the norm (patch merging).
    padded: zeros are inserted between norm and layers, so that the norm's bias cannot be folded into the layers.
    """

    norm: str | None
    layers: tuple[str, ...]
    copies: int = 1
    padded: bool = False


@dataclass(frozen=True)
class ResidualStream:
    """Channels that blocks read and add to.

    tensors: parameters (…, width) that are added to it or put into it. fixed: why it cannot be rotated, "" where it
    can.
    """

    name: str
    width: int
    writers: tuple[Writer, ...]
    tensors: tuple[str, ...]
    readers: tuple[Reader, ...]
    fixed: str = ""


@dataclass(frozen=True)
class Heads:
    """The heads of one attention: rows of `qkv` are query, key and value, `heads` × `size` each; `proj` reads them.

    fixed_qk, fixed_vo: why query and key, or value and proj, cannot be rotated, "" where they can.
    """

    qkv: str
    proj: str
    heads: int
    size: int
    fixed_qk: str = ""
    fixed_vo: str = ""


@dataclass(frozen=True)
class Rotatable:
    """What a family's file reports."""

    streams: tuple[ResidualStream, ...] = ()
    heads: tuple[Heads, ...] = ()


def obstacle(name: str, norm: nn.Module) -> str:
    """Why a norm does not commute with a rotation that keeps the mean, "" where it does (or is no norm at all)."""
    over_channels = isinstance(norm, nn.LayerNorm | nn.RMSNorm | RmsNorm) and len(norm.normalized_shape) == 1
    if over_channels or isinstance(norm, nn.Identity):
        return ""
    return f"{name} is a {type(norm).__name__}, not a LayerNorm or RMSNorm over channels"
