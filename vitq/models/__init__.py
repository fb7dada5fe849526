"""Models: how they are built and loaded, and what their parts are.

A family of one's own: `@register_family("name", ItsModel, ItsAttentionTwin)` on what reports its structure.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitq.models.attention import AttentionTwin, Parts
    from vitq.models.structure import FAMILIES, Family, Link, Segment, Structure, register_family

__all__ = ["FAMILIES", "AttentionTwin", "Family", "Link", "Parts", "Segment", "Structure", "register_family"]


def __getattr__(name: str) -> object:
    # On demand: what identifies a model's weights, and plans, must not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    attention = name in ("AttentionTwin", "Parts")
    return getattr(import_module("vitq.models.attention" if attention else "vitq.models.structure"), name)
