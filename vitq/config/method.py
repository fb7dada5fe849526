"""A method is a recipe: which quantizer each kind of site gets, and named steps in order."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from vitq.config.base import RULES
from vitq.config.tuning import OptionRange, Tuned
from vitq.errors import Problem

# What a site is in the transformer. `default` in a recipe stands for the kinds it does not name. `dense`
# are inputs of a detector's neck and heads.
KINDS = (
    "weight", "post_norm", "query", "key", "probs", "value", "post_gelu", "attn_out", "patch", "head", "other", "dense",
)  # fmt: skip
# Inputs of LayerNorm and of softmax: sites of a fully quantized model. They exist where a recipe names the kind; the
# recipe's `default` does not speak for them.
FULL_KINDS = ("norm_input", "scores")

_GRANULARITY = re.compile(r"tensor|channel|head|head_token|head_channel|token|group:[1-9]\d*")


def _granularity(value: str) -> str:
    if not _GRANULARITY.fullmatch(value):
        valid = ("tensor", "channel", "head", "head_token", "head_channel", "token", "group:N")
        text = f"granularity {value!r}; valid: {', '.join(valid)} (N channels share a scale)"
        raise ValueError(Problem(text, valid=valid))
    return value


Granularity = Annotated[str, AfterValidator(_granularity)]


@dataclass(frozen=True, config=RULES)
class QuantizerConfig:
    """Quantizer of one kind of site.

    quantizer: registered name (`uniform`, `log2`, `log_sqrt2` …).
    granularity: what shares a scale: `tensor`, `channel`, `head`, `token`, `group:N` (N neighbouring channels), or
        `head_token`, `head_channel`: a token position, or a channel, of one head.
    range: how the range is chosen: `minmax`, `percentile`, `mse`.
    symmetric: zero point fixed to the middle code (uniform only).
    options: further arguments of that quantizer or range search, checked when the recipe is built.
    """

    quantizer: str = "uniform"
    granularity: Granularity = "tensor"
    range: Literal["minmax", "percentile", "mse"] = "minmax"
    symmetric: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=RULES)
class MethodConfig:
    """A recipe.

    name: how tables call it.
    kinds: which quantizer each kind of site gets; `default` stands for the kinds that are not named.
    steps: a step's name → `{do: <registered step>, enabled: true, …its own options}`, in the order in which they run.
    source: where the recipe comes from. Volatile.
    iterations: overrides the iterations of every reconstructing step. The plan takes it away from a recipe without such
        a step, which is one run whatever a sweep asks of others.
    tune: options that `vitq tune` may choose, as dotted keys below `method`, and where: `{steps.learn.lr: {low: 1.0e-5,
        high: 1.0e-3, log: true}}`. tuned: of a recipe that `vitq tune` wrote. Both are volatile.
    suited_rates: which of `paper`, `sqrt` and `linear` serves this recipe where it has few iterations. Volatile.
    rates: learning rates of these steps at another number of iterations than the recipe's. `paper`: as they stand
        there; `sqrt`, `linear`: times (recipe's / `iterations`) to the power of ½ or 1; `suited`: what `suited_rates`
        says, which takes its place, and `paper` for a tuned recipe, whose rates were chosen as they stand.
    """

    name: str
    kinds: dict[str, QuantizerConfig] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    source: str = ""
    iterations: Annotated[int, Field(ge=1)] | None = None
    tune: dict[str, OptionRange] = field(default_factory=dict)
    tuned: Tuned | None = None
    suited_rates: Literal["paper", "sqrt", "linear"] | None = None
    rates: Literal["paper", "sqrt", "linear", "suited"] = "paper"

    @field_validator("rates")
    @classmethod
    def _rule(cls, value: str, info: ValidationInfo) -> str:
        """The rule in place of `suited`, so that a run's record says which it was."""
        if value != "suited":
            return value
        return "paper" if info.data.get("tuned") else info.data.get("suited_rates") or value

    @property
    def quantizes(self) -> bool:
        """False for the full-precision baseline: bits, calibration and seed do not matter to it."""
        return bool(self.kinds)

    @property
    def enabled(self) -> dict[str, dict[str, Any]]:
        """The steps that are switched on, as they are written."""
        return {name: raw for name, raw in self.steps.items() if raw.get("enabled", True)}

    def course(self, iterations: int) -> tuple[int, float]:
        """Iterations of a step whose recipe says so many, and the factor of its learning rates."""
        count = iterations if self.iterations is None else self.iterations
        return count, (iterations / count) ** {"paper": 0.0, "sqrt": 0.5, "linear": 1.0}[self.rates]

    def quantizer(self, kind: str) -> QuantizerConfig | None:
        """Quantizer of a kind: its own entry, else `default`, else None (left in floating point)."""
        return self.kinds.get(kind, None if kind in FULL_KINDS else self.kinds.get("default"))
