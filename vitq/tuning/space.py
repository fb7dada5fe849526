"""Which options of a recipe may be tuned, where they may lie, and what the recipe itself has there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitq.config import RunConfig
from vitq.config.tuning import OptionRange
from vitq.errors import ConfigError, Problem, unknown


def own_options(config: RunConfig) -> dict[str, Any]:
    """Value of every key of `method.tune` in the recipe: as written, or the default of its step or quantizer.

    Raises ConfigError for a recipe without ranges, a key that names no option, and a value outside its range.
    """
    ranges = config.method.tune
    if not ranges:
        text = (
            f"method {config.method.name!r} says of no option that it may be tuned; add to its recipe e.g. "
            "tune: {steps.learn.lr: {low: 1.0e-5, high: 1.0e-3, log: true}}"
        )
        raise ConfigError([Problem(text, "method.tune")])
    own: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, allowed in ranges.items():
        options = _options(config, key)
        name = key.rpartition(".")[2]
        if name not in options:
            wrong = unknown(f"option of {key.rpartition('.')[0] or 'a recipe'}", name, options)
            problems.append(Problem(f"method.tune.{key}: {wrong}", f"method.tune.{key}", name, wrong.valid))
        elif not allowed.holds(options[name]):
            text = f"method.tune.{key}: the recipe has {options[name]!r}, which is outside; widen the range"
            problems.append(Problem(text, f"method.tune.{key}", options[name]))
        else:
            own[key] = options[name]
    if problems:
        raise ConfigError(problems)
    return own


def changed(own: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from the recipe's own: a run with none of them is the recipe's."""
    return {key: value for key, value in options.items() if value != own[key]}


def ends(ranges: Mapping[str, OptionRange]) -> list[dict[str, Any]]:
    """Two choices of options, all at the one end of their ranges and all at the other."""
    low, high = {}, {}
    for key, allowed in ranges.items():
        low[key], high[key] = (
            (allowed.low, allowed.high) if allowed.choices is None else (allowed.choices[0], allowed.choices[-1])
        )
    return [low, high]


def _options(config: RunConfig, key: str) -> dict[str, Any]:
    """The options beside which a key stands, with their values; empty where there are none."""
    part, _, rest = key.partition(".")
    owner, _, option = rest.partition(".")
    if part == "steps" and owner in config.method.steps and "." not in option:
        from vitq.steps.step import parse_step

        step, problems = parse_step(owner, config.method.steps[owner])
        if step is None:
            raise ConfigError(problems)
        return {name: _plain(value) for name, value in vars(step).items() if name not in ("do", "_name")}
    if part == "kinds" and owner in config.method.kinds and option.startswith("options."):
        from vitq.quant.quantizer import QUANTIZERS

        quantizer = config.method.kinds[owner]
        options = {**QUANTIZERS[quantizer.quantizer].options, **quantizer.options}
        return {name: _plain(value) for name, value in options.items()}
    return {}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
