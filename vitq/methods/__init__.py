"""What a YAML recipe cannot say: one file for each method that brings a quantizer or a step of its own.

Every module of this package is imported by `load`, so a new file is found without being listed. An import error raises.
"""

from __future__ import annotations

import importlib
import os
import pkgutil

from vitq.errors import VitqError


def load() -> None:
    """Register all quantizers and steps: the engine's own and those of this package.

    Raises VitqError where torch cannot make the folder of its compiler, which it does when it is imported.
    """
    try:
        importlib.import_module("vitq.quant.model")
    except OSError as error:
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        if folder is None:
            raise
        raise VitqError(
            f"TORCHINDUCTOR_CACHE_DIR={folder}: {error.strerror}; name a folder that can be written, or unset it"
        ) from error
    importlib.import_module("vitq.steps")
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
