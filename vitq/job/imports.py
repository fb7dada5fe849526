"""What a run would import on its way, imported before its clock starts: its seconds are those of its work."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from vitq.config import RunConfig
from vitq.models.build import EMBEDDED
from vitq.models.structure import FAMILIES
from vitq.quant.quantizer import QUANTIZERS
from vitq.registry import Registry
from vitq.steps.step import STEPS, enabled_steps
from vitq.tasks.task import TASKS

# Where names are looked up on the way: the first look-up imports all that register there.
_REGISTRIES: tuple[Registry[Any], ...] = (FAMILIES, EMBEDDED, QUANTIZERS, STEPS, TASKS)
# Of data and stores: what functions, and libraries, import where they are first called.
_USUAL = (
    "filelock", "pandas.core.arrays.arrow.extension_types", "PIL.ImageFile", "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin", "pyarrow.pandas_compat", "pyarrow.parquet", "pyarrow.vendored.version", "safetensors.torch",
    "timm.data",
)  # fmt: skip
# Of objects in images; they come with an extra.
_OBJECTS = ("pycocotools.cocoeval", "pycocotools.mask")


def import_ahead(config: RunConfig) -> None:
    """Import what this run's data, steps and task import where they are first called. Raises ConfigError for a recipe
    with a step that cannot be parsed."""
    for registry in _REGISTRIES:
        registry.load()
    names = [*_USUAL, *(name for step in enabled_steps(config) for name in step.imports)]
    if config.finds_objects and find_spec("pycocotools") is not None:
        names += _OBJECTS
    for name in names:
        import_module(name)
