"""Bit-widths: one for weights, one for activations, and the exceptions."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import Problem


def _bits(value: Any) -> int | str:
    if value == "fp":
        return "fp"
    if isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 8:
        return value
    text = "valid bit-widths: 2, 3, 4, 5, 6, 7, 8, or fp (left in floating point)"
    raise ValueError(Problem(text, valid=[*range(2, 9), "fp"]))


Bits = Annotated[int | str, BeforeValidator(_bits)]


@dataclass(frozen=True, config=RULES)
class BitsConfig:
    """Bit-widths of a run.

    weight, activation: the rule.
    image: bit-width of the image that enters the patch embedding (papers: unquantized or 8).
    kinds: exceptions by kind (`probs: 8`). They beat the rule.
    first_last: of the weights of patch embedding and head and of the input of the head; null: as all others. It beats
        the rule and kinds.
    sites: exceptions by site name or fnmatch pattern (`blocks.0.*.weight: 8`). They beat all, and the last match wins.
    scope: what of a detector is quantized at all: `all` of it, or the `backbone`, its transformer, alone.
    """

    weight: Bits = 8
    activation: Bits = 8
    first_last: Bits | None = None
    image: Bits = "fp"
    kinds: dict[str, Bits] = field(default_factory=dict)
    sites: dict[str, Bits] = field(default_factory=dict)
    scope: Literal["all", "backbone"] = "all"

    def applies(self, kind: str) -> bool:
        """Whether a bit-width applies to some site of this kind."""
        rule = {"weight": self.weight, "patch": self.image}.get(kind, self.activation)
        exceptions = [self.first_last] if kind in ("weight", "head") and self.first_last is not None else []
        return any(width != "fp" for width in (self.kinds.get(kind, rule), *exceptions))

    @property
    def label(self) -> str:
        """`W4A4`, `W8A8`, `FP` …, with `*` where exceptions exist."""
        full = self.weight == "fp" and self.activation == "fp"
        exceptions = bool(self.kinds or self.sites or self.scope != "all")
        if full and not exceptions and self.first_last in (None, "fp") and self.image == "fp":
            return "FP"
        name = {"fp": "32"}
        # The image's width is an exception only where nothing else is quantized.
        star = "*" if exceptions or self.first_last is not None or (full and self.image != "fp") else ""
        return f"W{name.get(str(self.weight), self.weight)}A{name.get(str(self.activation), self.activation)}{star}"
