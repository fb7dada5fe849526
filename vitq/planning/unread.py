"""Options that are set and that no run of a plan reads: those of range searches, and those of steps that learn."""

from __future__ import annotations

from collections.abc import Sequence

from vitq.config import RunConfig
from vitq.errors import Problem

# Option → the `range` whose search reads it (vitq/quant/search.py). So does every quantizer that has the option: a
# search of a quantizer's own has names of its own.
READ_BY = {"percentiles": "percentile", "candidates": "mse", "shrink_to": "mse"}


class Unread:
    """Looks at the runs of a plan one after another.

    Only what an override or an axis sets is looked at: a recipe whose file has the option must still take another
    `range`. And an option that one run reads is not a mistake in the others: method=minmax,percentile with percentiles.
    """

    def __init__(self) -> None:
        self._ranges: dict[str, set[str]] = {}
        self._learning: dict[str, bool] = {}  # key → whether a run reads it

    def look(self, overrides: Sequence[str], config: RunConfig, done: bool) -> None:
        """Note which options are set in a run, and beside which `range`; the config has those of learning as the plan
        leaves them, out where no step learns.

        done: the run has its result, which is not refused afterwards.
        """
        for kind, quantizer in config.method.kinds.items():
            for option in (option for option in READ_BY if option in quantizer.options):
                key = f"method.kinds.{kind}.options.{option}"
                if any(_sets(override, key) for override in overrides):
                    self._ranges.setdefault(key, set()).add(READ_BY[option] if done else quantizer.range)

        for key, left_out in (("method.iterations", None), ("method.rates", "paper")):
            if any(_sets(override, key) and not override.endswith(f"={left_out or 'null'}") for override in overrides):
                read = done or getattr(config.method, key.removeprefix("method.")) != left_out
                # What suits a recipe may be `paper` itself.
                read |= key == "method.rates" and bool(config.method.suited_rates or config.method.tuned)
                self._learning[key] = self._learning.get(key, False) or read

    def warnings(self) -> list[str]:
        """One line for each option of learning that was set where no run learns; it is left out of all of them."""
        return [f"{key}: no step of these recipes reads it" for key, read in self._learning.items() if not read]

    def problems(self) -> list[Problem]:
        """One line for each option that was set and that no run reads."""
        problems = []
        for key, ranges in self._ranges.items():
            quantizer, _, option = key.rpartition(".options.")
            reader = READ_BY[option]
            if reader not in ranges:
                why = f"only range={reader} reads it, not {', '.join(sorted(ranges))}"
                action = f"{quantizer}.range={reader}"
                problems.append(Problem(f"{key}: {why}; leave it out, or set {action}", key, option, action=action))
        return problems


def _sets(override: str, key: str) -> bool:
    """Whether an override sets a key: `a.b=1` and `a={b: 1}` set a.b."""
    name, _, value = override.lstrip("+~").partition("=")
    option = key.rpartition(".")[2]
    return name == key or (key.startswith(f"{name}.") and option in value)
