"""What one run leaves behind: the schema of `result.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from vitq.store.metrics import DetectionMetrics, FeatureMetrics, Metrics
from vitq.store.record import Count, StoredRecord, Timestamp

# Version of the record's shape. (What a config means has its own version: vitq.config.SCHEMA_VERSION.)
RESULT_VERSION = 1


class Size(StoredRecord):
    """Bits averaged over elements (an operand left in floating point counts 32), and bytes with scales counted."""

    mean_weight_bits: float
    mean_activation_bits: float
    fp_bytes: Count
    quantized_bytes: Count


class Cost(StoredRecord):
    """What one image costs, from shapes and bit-widths alone (an operand in floating point counts 32 bits).

    macs: multiply–accumulates of all layers and both matmuls of attention. bops: Σ macs · bits · bits of the operands.
    weight_bytes: of the weights at their bit-widths, without scales and other parameters. activation_bytes: of all
    operands that are activations. integer_share: percent of the macs that an integer runtime can do in int8 exactly
    (docs/deploy.md).
    """

    macs: Count
    bops: Count
    weight_bytes: Count
    activation_bytes: Count
    integer_share: Annotated[float, Field(ge=0, le=100)]


class Timings(StoredRecord):
    """Wall-clock seconds: the whole run, and each stage by name.

    resumed: parts of the recipe were finished by an earlier attempt, whose seconds are not among these.
    """

    total: float
    stages: dict[str, float] = Field(default_factory=dict)
    resumed: bool = False

    @model_serializer(mode="wrap")
    def _without_resumed(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Records of before have no such field: it is there only where it says something."""
        return {key: value for key, value in handler(self).items() if key != "resumed" or value}


class Memory(StoredRecord):
    """Peak memory in bytes: resident set of the process, and CUDA allocations (null without CUDA)."""

    peak_rss_bytes: Count
    peak_cuda_bytes: Count | None = None


class Provenance(StoredRecord):
    """Where a result comes from.

    versions: package → version. host: facts such as name, cpu, cores, gpu. code: vitq version, git commit, `dirty`.
    attempt: 1 for the first execution of this signature, counting up with each retry.
    """

    versions: dict[str, str]
    host: dict[str, str | int]
    code: dict[str, str | None]
    started_at: Timestamp
    finished_at: Timestamp
    attempt: Annotated[int, Field(ge=1)] = 1


class Result(StoredRecord):
    """The record of one finished run. NaN and infinities become null on construction, named in `nonfinite`.

    published_top1: full precision's top-1 as it is published of these weights, percent; no key where nothing is.
    warnings: what a reader of the figures should know (images left out, weights resampled …), one line each; no key
    where there is nothing.

    Raises pydantic.ValidationError (a ValueError) when a field is missing, unknown or of the wrong type.
    """

    schema_version: int = RESULT_VERSION
    signature: str
    config: dict[str, Any]
    metrics: SerializeAsAny[Metrics]
    published_top1: float | None = None
    size: Size
    cost: Cost | None = None  # records of earlier versions have none
    timings: Timings
    memory: Memory
    provenance: Provenance
    nonfinite: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        record: dict[str, Any] = plain(self)
        for key in ("warnings", "published_top1"):
            if not record[key]:  # as records were before there were any
                del record[key]
        return record

    @model_validator(mode="before")
    @classmethod
    def _null_nonfinite(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        nonfinite: list[str] = []
        plain = {key: _plain(value, str(key), nonfinite) for key, value in raw.items()}
        if nonfinite:
            plain["nonfinite"] = sorted({*(plain.get("nonfinite") or []), *nonfinite})
        return plain

    @field_validator("metrics", mode="before")
    @classmethod
    def _of_its_task(cls, raw: Any) -> Any:
        for key, kind in (("ap_box", DetectionMetrics), ("cosine", FeatureMetrics)):
            if isinstance(raw, Mapping) and key in raw:
                return kind.model_validate(raw)
        return raw

    @field_validator("schema_version")
    @classmethod
    def _known_version(cls, version: int) -> int:
        if version != RESULT_VERSION:
            raise ValueError(f"record version {version}; this vitq reads version {RESULT_VERSION}")
        return version


def _plain(value: Any, name: str, nonfinite: list[str]) -> Any:
    """`value` as JSON-ready Python; the dotted names of non-finite numbers are appended to `nonfinite`."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{name}.{key}", nonfinite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}.{i}", nonfinite) for i, item in enumerate(value)]
    # numpy scalars are Real but not JSON; bool is Integral and must stay bool.
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        return int(value)
    if not math.isfinite(value):
        nonfinite.append(name)
        return None
    return float(value)
