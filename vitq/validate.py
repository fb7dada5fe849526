"""Checks of a config that need the engine's registries: quantizers, steps, their options and their order."""

from __future__ import annotations

from vitq.config import KINDS, RunConfig
from vitq.errors import unknown


def problems(config: RunConfig) -> list[str]:
    """Everything wrong with method and bits, one line each; [] where the recipe can be built."""
    from vitq import methods
    from vitq.quant.layout import Axes
    from vitq.quant.model import build
    from vitq.quant.quantizer import QUANTIZERS
    from vitq.steps import STEPS, Step
    from vitq.steps.step import parse_step

    methods.load()
    found = []
    for kind in config.method.kinds:
        if kind not in (*KINDS, "default"):
            found.append(f"method.kinds.{kind}: {unknown('kind', kind, (*KINDS, 'default'))}")
    for kind in config.bits.kinds:
        if kind not in KINDS:
            found.append(f"bits.kinds.{kind}: {unknown('kind', kind, KINDS)}")
    for kind, quantizer in config.method.kinds.items():
        place = f"method.kinds.{kind}"
        if quantizer.quantizer not in QUANTIZERS:
            found.append(f"{place}.quantizer: {unknown('quantizer', quantizer.quantizer, QUANTIZERS)}")
            continue
        if quantizer.granularity == "head" and kind not in ("query", "key", "probs", "value"):
            found.append(
                f"{place}.granularity=head: only query, key, probs and value have heads; valid here: tensor, channel, token, group:N"
            )
        if quantizer.granularity == "token" and kind in ("weight", "patch", "head"):
            found.append(
                f"{place}.granularity=token: a {kind} tensor has no tokens; valid here: tensor, channel, group:N"
            )
        try:
            build(
                quantizer.quantizer,
                4,
                Axes(0),
                quantizer.granularity,
                quantizer.range,
                quantizer.symmetric,
                quantizer.options,
            )
        except ValueError as error:
            found.append(f"{place}: {error}")
    steps: list[Step] = []
    for name, raw in config.method.steps.items():
        step, wrong = parse_step(name, raw)
        found.extend(wrong)
        if step is not None:
            steps.append(step)
            if step.enabled:
                found.extend(f"method.steps.{name}: {line}" for line in step.check(config))
    if config.method.kinds and not config.method.steps:
        found.append(
            f"method {config.method.name!r} names quantizers but no step fits them; add a step with do: calibrate. Steps: {', '.join(STEPS)}"
        )
    found.extend(_order(config.method.steps, steps))
    return found


def _order(raw: dict[str, object], steps: list[object]) -> list[str]:
    """Weights must not be calibrated before a step that changes them."""
    from vitq.steps.calibrate import Calibrate

    if len(raw) != len(steps):
        return []
    calibrated: str | None = None
    found = []
    for name, step in zip(raw, steps, strict=True):
        if not getattr(step, "enabled", True):
            continue
        if getattr(step, "changes_weights", False) and calibrated is not None:
            found.append(
                f"method.steps.{name}: changes weights after {calibrated!r} has calibrated them; move {calibrated!r} behind it"
            )
        if isinstance(step, Calibrate) and step.sites in ("weights", "all"):
            calibrated = name
    return found
