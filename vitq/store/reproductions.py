"""What `vitq reproduce` compares, published figures and our runs of them: `<root>/sweeps/<name>/reproduction.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from vitq.store.atomic import write_bytes
from vitq.store.files import read_record
from vitq.store.record import StoredRecord
from vitq.store.store import Store


class Target(StoredRecord):
    """One published figure and our runs of it.

    model, bits: as published (`deit_tiny`, `W4A4`). table: of the paper. top1: published, percent; full_precision:
    published for it, None where not stated. runs: signatures, one for each seed. reference: of the full-precision run.
    """

    model: str
    bits: str
    table: str | None
    top1: float
    full_precision: float | None
    runs: list[str]
    reference: str


class DetectorTarget(StoredRecord):
    """One published pair of average precisions and our runs of it; fields of the same name as `Target` has them.

    ap_box, ap_mask: published, percent; full_precision_box, full_precision_mask: published for them, None where not
    stated.
    """

    model: str
    bits: str
    table: str | None
    ap_box: float
    ap_mask: float
    full_precision_box: float | None
    full_precision_mask: float | None
    runs: list[str]
    reference: str


class ReproductionRecord(StoredRecord):
    """A sweep that reproduces figures of a paper: of classifiers (targets), or of detectors.

    paper: id of its source. method: whose figures. unknown: what of the protocol is not known. deviations: what is not
    as in the paper; given: overrides of the command line, which may be further ones. unlike: checkpoints and crops that
    are not the paper's.
    """

    name: str
    paper: str
    method: str
    targets: list[Target]
    unknown: str | None = None
    deviations: list[str]
    given: list[str]
    unlike: list[str]
    detectors: list[DetectorTarget] = Field(default_factory=list)

    @property
    def references(self) -> set[str]:
        """Signatures of the full-precision runs."""
        return {target.reference for target in self.targets} | {target.reference for target in self.detectors}

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        own: dict[str, Any] = plain(self)
        return {key: value for key, value in own.items() if key != "detectors" or value}


def write_reproduction(store: Store, record: ReproductionRecord) -> None:
    """Store a record in place of an earlier one. Raises StoreError."""
    write_bytes(_path(store, record.name), record.to_json().encode())


def read_reproduction(store: Store, name: str) -> ReproductionRecord | None:
    """The record of a sweep that reproduces figures; None for other sweeps. Raises StoreError when it is unreadable."""
    return read_record(_path(store, name), ReproductionRecord, "start `vitq reproduce` again")


def _path(store: Store, name: str) -> Path:
    return store.sweep_folder(name) / "reproduction.json"
