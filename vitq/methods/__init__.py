"""What a YAML recipe cannot say: one file for each method that brings a quantizer or a step of its own.

Every module of this package is imported by `load`, so a new file is found without being listed. An import error raises.
"""

from __future__ import annotations

import importlib
import pkgutil


def load() -> None:
    """Register all quantizers and steps: the engine's own and those of this package."""
    importlib.import_module("vitq.quant.model")
    importlib.import_module("vitq.steps")
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
