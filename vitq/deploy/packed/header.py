"""What a packed checkpoint says about itself: JSON in the metadata of a safetensors file."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vitq.config import RunConfig, signature
from vitq.errors import DeployError

# Version of the file's layout. A reader refuses what is newer. COMPRESSED_VERSION: of the compressed form, which holds
# a plain one.
PACKED_VERSION, COMPRESSED_VERSION = 1, 2


class QuantizerSpec(BaseModel):
    """How to build one quantizer again; equal ones are listed once.

    options: those that differ from the class's defaults. params, split: the fitted layout (vitq.quant.layout.Layout).
    second: input channels of the second group (vitq.quant.dual), None for quantizers that have none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantizer: str
    bits: int
    granularity: str
    range: str
    symmetric: bool
    options: dict[str, Any]
    params: tuple[int, ...]
    split: int | None
    second: tuple[int, ...] | None = None


class Header(BaseModel):
    """The JSON header.

    config: the hashed part of the run's config: model, recipe, bits, calibration, data. signature: of that config.
    sites: site name → index into `quantizers`; null for a site in floating point. float_bytes: of the model before it
    was quantized, float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = PACKED_VERSION
    vitq: str
    signature: str
    config: dict[str, Any]
    float_bytes: int
    quantizers: list[QuantizerSpec]
    sites: dict[str, int | None]

    def text(self) -> str:
        return compact(self.model_dump(mode="json"))

    def run_config(self) -> RunConfig:
        """The run's config; volatile keys have their defaults. Raises DeployError for one this vitq cannot read."""
        config, problems = RunConfig.parse(self.config)
        if config is None or signature(config) != self.signature:
            why = "; ".join(problems) or "its signature is another one here"
            raise DeployError(
                f"this vitq does not understand the config of run {self.signature} (packed by vitq {self.vitq}: "
                f"{why}); read the file with vitq {self.vitq}, or run and export again",
                "config",
                self.vitq,
            )
        return config


def envelope(text: str) -> tuple[dict[str, Any], str, int]:
    """(raw header, sha256, version) of a file's metadata. The file is not named.

    Raises DeployError for a version that this vitq does not read, and for what is no header.
    """
    try:
        whole = json.loads(text)
        raw, digest = whole["header"], str(whole["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise DeployError(
            f"its header cannot be read ({type(error).__name__}: {error}); export it again", "header"
        ) from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version not in (PACKED_VERSION, COMPRESSED_VERSION):
        newer = isinstance(version, int) and version > COMPRESSED_VERSION
        action = "update vitq" if newer else "export it again"
        known = f"versions {PACKED_VERSION} and {COMPRESSED_VERSION}"
        text = f"it has layout version {version!r}, this vitq reads {known}; {action}"
        raise DeployError(text, "version", version, [PACKED_VERSION, COMPRESSED_VERSION])
    return raw, digest, version


def parse_header(raw: dict[str, Any]) -> Header:
    """The header of a plain form. Raises DeployError for what is none."""
    try:
        return Header.model_validate(raw)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise DeployError(f"its header is not valid ({wrong})", "header") from error


def compact(raw: dict[str, Any]) -> str:
    """JSON without spaces."""
    return json.dumps(raw, separators=(",", ":"), allow_nan=False)
