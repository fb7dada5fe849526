"""What a recipe says about its options that may be tuned, and about a tuning that they come from."""

from __future__ import annotations

import json
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.errors import Problem


@dataclass(frozen=True, config=RULES)
class OptionRange:
    """Where an option may lie: between two ends, or at one of some values.

    low, high: the ends, both included; whole numbers alone where both are whole.
    log: as likely in each decade; both ends are above zero then.
    choices: the values, in place of the ends.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> OptionRange:
        low, high = self.low, self.high
        if self.choices is not None:
            if not self.choices or low is not None or high is not None or self.log:
                raise ValueError(Problem("choices stand alone, at least one", "choices", self.choices))
        elif low is None or high is None or not low < high:
            raise ValueError(Problem("low and high are needed, low < high; or choices", "low", low))
        elif self.log and low <= 0:
            raise ValueError(Problem("log needs low above zero", "log", True, [False]))
        return self

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it."""
        if self.choices is not None:
            return json.dumps(value) in [json.dumps(choice) for choice in self.choices]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True, config=RULES)
class Tuned:
    """Where the options of a tuned recipe come from.

    study: its name in the store. method: whose options were tuned. trials, seconds: finished ones, and what they took
    together. held_out: images that the objective was measured on. kl: KL to full precision on them, nats.
    kl_before: the same with the recipe's own options.
    """

    study: str
    method: str
    trials: int
    seconds: float
    held_out: int
    kl: float
    kl_before: float | None = None
