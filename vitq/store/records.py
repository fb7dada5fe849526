"""What one run leaves behind: the schema of `result.json`, and of `status.json` while it is under way."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

# Version of the record's shape. (What a config means has its own version: vitq.config.SCHEMA_VERSION.)
RESULT_VERSION = 1

State = Literal["planned", "running", "done", "failed", "interrupted"]


def utc_now() -> str:
    """The present as ISO-8601 in UTC, to the millisecond: `2026-11-20T12:00:00.000+00:00`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _timestamp(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"time {text!r} has no time zone; use vitq.store.records.utc_now()")
    return text


Timestamp = Annotated[str, AfterValidator(_timestamp)]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """Base of all records: frozen, and a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Standard JSON (no NaN), keys sorted, one trailing newline: equal records give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, allow_nan=False) + "\n"


class Metrics(Record):
    """Scores on the `n_eval` evaluation images; null where a value was not finite or does not apply.

    top1, top5, fp_top1, agreement: percent. drop: fp_top1 - top1, percent points.
    agreement: images on which quantized and full-precision model predict the same class.
    nll: mean negative log-likelihood of the label, nats. kl: mean KL(full precision || quantized), nats.
    """

    top1: float | None
    top5: float | None
    nll: float | None
    fp_top1: float | None
    drop: float | None
    agreement: float | None
    kl: float | None
    n_eval: Count

    @property
    def score(self) -> tuple[str, float | None]:
        """The figure that runs are compared by, its name and its value in percent."""
        return "top-1", self.top1


class OtherMetrics(Metrics):
    """Scores of what is no classifier: a classifier's own are null and left out."""

    top1: float | None = None
    top5: float | None = None
    nll: float | None = None
    fp_top1: float | None = None
    drop: float | None = None
    agreement: float | None = None
    kl: float | None = None

    @model_serializer(mode="wrap")
    def _own(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own: dict[str, Any] = plain(self)
        return {key: value for key, value in own.items() if key not in Metrics.model_fields or key == "n_eval"}


class FeatureMetrics(OtherMetrics):
    """Scores of a backbone without a head, from the pooled feature of each image.

    cosine: mean cosine between own and full precision's feature, percent. relative_error: mean length of their
    difference by that of full precision's, percent. knn_top1, fp_knn_top1: images whose class is that of their nearest
    neighbours among `n_neighbours` calibration images, by own and by full precision's features, percent of the `n_knn`
    images whose class is among these. drop_knn: the latter less the former, points. knn_agreement: images of one class
    by both, percent.
    """

    cosine: float | None
    relative_error: float | None
    knn_top1: float | None
    fp_knn_top1: float | None
    drop_knn: float | None
    knn_agreement: float | None
    n_knn: Count
    n_neighbours: Count

    @property
    def score(self) -> tuple[str, float | None]:
        """Cosine between features."""
        return "feature cosine", self.cosine


class DetectionMetrics(OtherMetrics):
    """Scores of a detector. Average precision (COCO's) in percent.

    ap_box, ap_mask: mean over IoU 0.5 to 0.95; at IoU 0.5 and 0.75; of small, medium and large objects. fp_: of full
    precision. drop_: fp less own, points. fidelity_: AP against the objects that full precision finds with a score of
    at least 0.5, which needs no labels. Masks are null for the task `detection`.
    """

    ap_box: float | None
    ap_box50: float | None
    ap_box75: float | None
    ap_box_small: float | None
    ap_box_medium: float | None
    ap_box_large: float | None
    fp_ap_box: float | None
    drop_box: float | None
    fidelity_box: float | None
    ap_mask: float | None = None
    ap_mask50: float | None = None
    ap_mask75: float | None = None
    ap_mask_small: float | None = None
    ap_mask_medium: float | None = None
    ap_mask_large: float | None = None
    fp_ap_mask: float | None = None
    drop_mask: float | None = None
    fidelity_mask: float | None = None

    @property
    def score(self) -> tuple[str, float | None]:
        """Average precision of masks, of boxes where there are no masks."""
        return ("AP box", self.ap_box) if self.ap_mask is None else ("AP mask", self.ap_mask)


class Size(Record):
    """Bits averaged over elements (an operand left in floating point counts 32), and bytes with scales counted."""

    mean_weight_bits: float
    mean_activation_bits: float
    fp_bytes: Count
    quantized_bytes: Count


class Cost(Record):
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


class Timings(Record):
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


class Memory(Record):
    """Peak memory in bytes: resident set of the process, and CUDA allocations (null without CUDA)."""

    peak_rss_bytes: Count
    peak_cuda_bytes: Count | None = None


class Provenance(Record):
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


class Result(Record):
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


class Status(Record):
    """The state that a run has written last. Only a valid result means that it is done.

    attempt: 1 for the first execution, counting up with each retry.
    stage, done, total, note: the current stage and its units, begun at stage_at.
    error: one line; traceback: the whole text. timed_out: time limits ended it.
    code: what the run was planned with (`vitq.job.provenance.code`). warnings: what its plan had to say.
    """

    state: State
    attempt: Annotated[int, Field(ge=1)] = 1
    stage: str = ""
    done: Count = 0
    total: Count | None = None
    note: str = ""
    started_at: Timestamp | None = None
    stage_at: Timestamp | None = None
    updated_at: Timestamp = Field(default_factory=utc_now)
    pid: int | None = None
    host: str | None = None
    error: str | None = None
    traceback: str | None = None
    timed_out: bool = False
    code: dict[str, str | None] | None = None
    warnings: list[str] = Field(default_factory=list)

    @field_validator("error")
    @classmethod
    def _one_line(cls, error: str | None) -> str | None:
        return None if error is None else " ".join(error.split())


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
