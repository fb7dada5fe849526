"""Checks of a config that need the engine's registries: quantizers, steps, their options and their order."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from vitq.config import FULL_KINDS, KINDS, QuantizerConfig, RunConfig
from vitq.errors import Problem, problem_of, under, unknown
from vitq.quant.layout import Axes
from vitq.quant.model import configured
from vitq.quant.quantizer import QUANTIZERS
from vitq.steps import STEPS, Step
from vitq.steps.step import parse_step
from vitq.tasks.task import task_of

# Kinds whose tensors have a dimension of heads, and kinds whose tensors have none of tokens.
_WITH_HEADS = ("query", "key", "probs", "value", "scores")
_WITHOUT_TOKENS = ("weight", "patch", "head", "dense")
_STEP_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


def problems(config: RunConfig) -> list[Problem]:
    """Everything wrong with method and bits, one line each; [] where the recipe can be built."""
    return [*task_of(config).problems(config), *_kinds(config), *_steps(config), *_kept(config), *_rates(config)]


def _kinds(config: RunConfig) -> Iterator[Problem]:
    for kind in config.method.kinds:
        if kind not in (*KINDS, *FULL_KINDS, "default"):
            yield under(f"method.kinds.{kind}", unknown("kind", kind, (*KINDS, *FULL_KINDS, "default")))
    for kind in config.bits.kinds:
        if kind not in (*KINDS, *FULL_KINDS):
            yield under(f"bits.kinds.{kind}", unknown("kind", kind, (*KINDS, *FULL_KINDS)))
    for kind, quantizer in config.method.kinds.items():
        key = f"method.kinds.{kind}"
        # `default` speaks for the quantized kinds that have no entry of their own.
        unnamed = [name for name in _kinds_of(config) if name not in config.method.kinds and config.bits.applies(name)]
        served = unnamed if kind == "default" else [kind]
        yield from _quantizer(key, quantizer, served)
        yield from _granularity(f"{key}.granularity", quantizer, served)


def _rates(config: RunConfig) -> Iterator[Problem]:
    """`method.rates` where the iterations are the recipe's own, so that it changes nothing, or names no rule."""
    method = config.method
    if method.rates == "suited":
        text = f"method.rates=suited: {method.name} has no suited_rates, which would say which rule serves it"
        yield Problem(text, "method.rates", method.rates, ["paper", "sqrt", "linear"])
        return
    if method.rates != "paper" and method.iterations is None:
        text = f"method.rates={method.rates} follows method.iterations, which is not given; set it, or rates=paper"
        yield Problem(text, "method.rates", method.rates, ["paper"])


def _kinds_of(config: RunConfig) -> list[str]:
    """Kinds that networks of the config's task have."""
    return [kind for kind in KINDS if kind != "dense" or config.finds_objects]


def _quantizer(key: str, quantizer: QuantizerConfig, kinds: Sequence[str]) -> list[Problem]:
    """Problems of a quantizer's name and options, and of kinds that it is given but cannot serve."""
    name = quantizer.quantizer
    if name not in QUANTIZERS:
        return [under(f"{key}.quantizer", unknown("quantizer", name, QUANTIZERS))]
    try:
        # The width does not matter here: the config's own are checked by its type.
        built = configured(quantizer, 4, Axes(0))
    except ValueError as error:
        return [under(key, problem_of(error))]
    others = [kind for kind in kinds if built.kinds and kind not in built.kinds]
    if not others:
        return []
    text = (
        f"{key}.quantizer={name}: serves {', '.join(built.kinds)}, not {', '.join(others)}; "
        "name a quantizer for these, e.g. uniform"
    )
    return [Problem(text, f"{key}.quantizer", name)]


def _granularity(key: str, quantizer: QuantizerConfig, kinds: Sequence[str]) -> Iterator[Problem]:
    """Problems of a granularity that some of the kinds it applies to cannot have."""
    headless = [kind for kind in kinds if kind not in _WITH_HEADS]
    tokenless = [kind for kind in kinds if kind in _WITHOUT_TOKENS]
    valid = ["tensor", "channel", "group:N"] if tokenless else ["tensor", "channel", "token", "group:N"]
    if quantizer.granularity.startswith("head") and headless:
        why = f"only {', '.join(_WITH_HEADS)} have heads, not {', '.join(headless)}"
    elif quantizer.granularity == "token" and tokenless:
        why = f"{', '.join(tokenless)} tensors have no tokens"
    else:
        return
    text = f"{key}={quantizer.granularity}: {why}; valid here: {', '.join(valid)}"
    yield Problem(text, key, quantizer.granularity, valid)


def _steps(config: RunConfig) -> Iterator[Problem]:
    steps: list[Step] = []
    fitted: set[str] = set()
    named = [name for name, raw in config.method.steps.items() if raw.get("do") is not None]
    for name, raw in config.method.steps.items():
        step, wrong = parse_step(name, raw, named)
        yield from wrong
        if not _STEP_NAME.fullmatch(name):
            text = (
                "not a name for a step, whose finished segments are files of that name; letters, digits, _, - and . "
                "are valid, not at the start for the last two, e.g. stage1"
            )
            yield under(f"method.steps.{name}", Problem(text, value=name))
        if step is None:
            continue
        # A step that is switched off leaves what it fits in floating point: an ablation, not a mistake.
        fitted.update(step.fits())
        if step.enabled:
            steps.append(step)
            yield from (under(f"method.steps.{name}", problem) for problem in step.check(config))
            if config.task == "features" and step.needs_classes:
                valid = sorted(do for do in STEPS if not STEPS[do].needs_classes)
                text = f"step {step.do!r} reads class probabilities, which features are not; those that do not: "
                yield under(f"method.steps.{name}", Problem(text + ", ".join(valid), "do", step.do, valid))
            if config.finds_objects and not step.detectors:
                valid = sorted(do for do in STEPS if STEPS[do].detectors)
                text = f"step {step.do!r} does not work on detectors: {step.no_detectors}; those that do: "
                text += ", ".join(valid)
                yield under(f"method.steps.{name}", Problem(text, "do", step.do, valid))
    if config.method.kinds and not config.method.steps:
        text = (
            f"method {config.method.name!r} names quantizers but no step fits them; add a step with do: calibrate. "
            f"Steps: {', '.join(STEPS)}"
        )
        yield Problem(text, "method.steps", valid=STEPS)
    for index, step in enumerate(steps):
        for problem in step.check_order(steps[:index], steps[index + 1 :]):
            yield under(f"method.steps.{step.name}", problem)
    if steps:
        yield from _uncovered(config, fitted)


def _uncovered(config: RunConfig, fitted: Collection[str]) -> Iterator[Problem]:
    """Kinds that are to be quantized although no step of the recipe fits their quantizers."""
    # Few models have sites of the kind `other`: a recipe that names its kinds one by one may leave it out.
    for kind in (*_kinds_of(config), *FULL_KINDS):
        if kind not in fitted and kind != "other" and config.method.quantizer(kind) and config.bits.applies(kind):
            text = (
                f"no step fits the quantizers of {kind}; name it in the kinds of a step with do: calibrate, or leave "
                f"it unquantized with bits.kinds.{kind}=fp"
            )
            yield under("method.steps", Problem(text, value=kind))


def _kept(config: RunConfig) -> Iterator[Problem]:
    """Recipes whose model `keep_model` and `tracker.log_model` cannot keep."""
    keep = "keep_model" if config.keep_model else "tracker.log_model" if config.tracker.log_model else None
    for name, raw in config.method.enabled.items():
        do = raw.get("do")
        if keep and do in STEPS and not STEPS[str(do)].packable:
            text = f"{keep}=true: a packed checkpoint cannot hold what step {name!r} ({do}) makes; leave it out"
            yield Problem(text, keep, True, [False])
