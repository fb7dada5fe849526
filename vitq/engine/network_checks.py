"""Checks of a config that need its network: shapes, weights, and whether the recipe fits it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from vitq.config import RunConfig
from vitq.engine.recipe import equipped
from vitq.errors import ConfigError, ModelError, Problem, first_line, problem_of, under
from vitq.models.build import classes, create, shell
from vitq.models.hub_cache import missing
from vitq.models.identity import HUB
from vitq.models.load import check_weights
from vitq.models.pretrained import departures
from vitq.models.structure import structure_of
from vitq.quant.dual import DualUniformQuantizer
from vitq.quant.layout import Layout
from vitq.quant.model import QuantizedModel
from vitq.quant.quantizer import may_be
from vitq.quant.site import Shapes, watching
from vitq.quant.site_table import blank
from vitq.steps.step import Network, enabled_steps


def network_of(config: RunConfig) -> Network:
    """The config's network, made when something of it is asked for."""
    return Network(config, lambda: equipped(config, shell(config.model, config.data)))


def network_problems(config: RunConfig) -> list[Problem]:
    """Why the config's network cannot be built, filled with its weights, quantized, or given its images; else [].

    Of networks and weights on the hub that have no name in timm (`hf-hub:…`) nothing is asked: that takes a download.
    """
    model = config.model
    if unread := _unread(config):
        return unread
    if model.name.startswith(HUB):
        return []
    try:
        network = shell(model, config.data)
        check_weights(network, model, config.data)
        QuantizedModel(network)
    except ModelError as error:
        return error.problems
    # Shapes alone do not answer all that numbers do: where they fail, the network itself has the last word.
    refusal = _refusal(config, network, "meta") and _refusal(config, create(model, config.data), "cpu")
    return [refusal] if refusal else []


def _unread(config: RunConfig) -> list[Problem]:
    """Keys of the model that this one has no use for, and that would give the same result another signature."""
    model = config.model
    wrong = []
    if model.checkpoint is None and model.checkpoint_key is not None:
        wrong.append(("checkpoint_key", "it is a key within model.checkpoint, which is not set"))
    if not config.finds_objects:
        sides = [key for key in ("short_side", "long_side") if getattr(model, key) is not None]
        wrong += [
            (key, "only a detector's images are resized by it; model.input_size is that of others") for key in sides
        ]
    elif model.long_side is not None and model.short_side is None:
        wrong.append(("long_side", "it is a limit of model.short_side, which is not set"))
    elif model.long_side is not None and model.short_side is not None and model.long_side < model.short_side:
        why = f"no image reaches model.short_side={model.short_side} then; set model.short_side to it, or less"
        return [Problem(f"model.long_side={model.long_side}: {why}", "model.long_side", model.long_side)]
    lines = ((f"model.{key}", getattr(model, key), why) for key, why in wrong)
    return [Problem(f"{key}={value}: {why}; leave it out", key, value) for key, value, why in lines]


def weight_warnings(config: RunConfig) -> list[str]:
    """What is done to a config's weights that nobody asked for; the network itself has no `network_problems`."""
    model = config.model
    if model.name.startswith(HUB):
        return []
    resampled = check_weights(shell(model, config.data), model, config.data) if model.checkpoint is not None else []
    absent = missing(model)
    text = f"the weights of {model.name!r} are not in the hub's local cache ({absent}): the first run downloads them"
    return [*departures(model, config.data), *resampled, *([] if absent is None else [text])]


def idle_steps(config: RunConfig) -> list[str]:
    """Steps of the recipe, or parts of them, that do nothing in the config's network; and what happens instead. Kinds
    whose bits are set and that it has no site of."""
    if config.model.name.startswith(HUB) or not config.method.steps:
        return []
    return [*_idle_kinds(config), *_idle_steps(config)]


def _idle_kinds(config: RunConfig) -> list[str]:
    if not config.bits.kinds:
        return []
    there = {site.kind for site in network_of(config).model.sites.values()}
    return [
        f"bits.kinds.{kind}: {config.model.name!r} with this recipe has no site of this kind (`vitq list sites`)"
        for kind in config.bits.kinds
        if kind not in there
    ]


def _idle_steps(config: RunConfig) -> list[str]:
    steps = [step for step in enabled_steps(config) if step.adapts]
    if not steps:
        return []
    structure, name = structure_of(shell(config.model, config.data)), config.model.name
    return [
        f"method.steps.{step.name}: {name!r}: {line}" for step in steps for line in step.left_out(config, structure)
    ]


def _refusal(config: RunConfig, network: nn.Module, device: str) -> Problem | None:
    """What is wrong with the network's answer to one image of the config's size; None where nothing is."""
    about = f"{config.model.name!r} with model.kwargs={config.model.kwargs}"
    image = blank(config, torch.device(device))
    try:
        out = network(image)
    except (RuntimeError, ValueError, AssertionError) as error:  # timm checks sizes by assertions
        reason = first_line(error, "no message")
        text = f"{about} refuses an image of shape {tuple(image.shape)} ({reason}); change one of these"
        return Problem(text, "model.kwargs", config.model.kwargs)
    if not isinstance(out, torch.Tensor):  # of a detector, whose outputs are its own
        return None
    wanted = (1, classes(config.model, config.data))
    if wanted[1] == 0 and out.ndim == 2:  # a feature
        return None
    if out.shape != wanted:
        text = f"{about} has an output of shape {tuple(out.shape)}, {wanted} is needed: one number for each class"
        return Problem(text, "model.kwargs", tuple(out.shape), [wanted])
    return None


def misfits(config: RunConfig, network: Network | None = None) -> list[Problem]:
    """Where bits and recipe do not fit the network, one line each. The network itself has no `network_problems`.

    network: None for the one that the config names.
    """
    if network is None:
        if config.model.name.startswith(HUB):
            return []
        network = network_of(config)
    try:
        if config.bits.sites:
            _ = network.model  # which looks the patterns up
        problems = [*_shapes(network), *_positions(network)]
        for step in enabled_steps(config):
            problems += [under(f"method.steps.{step.name}", problem) for problem in step.check_network(network)]
        return problems
    except ConfigError as error:
        return error.problems


@torch.no_grad()
def _positions(network: Network) -> Iterator[Problem]:
    """Kinds with a scale for each position of an image, where images have their own sizes, with the first such site."""
    config, model = network.config, network.model
    positional = [kind for kind, q in config.method.kinds.items() if q.granularity in ("token", "head_token")]
    if not config.finds_objects or not positional:
        return
    groups: list[dict[str, int]] = []
    channels, height, width = config.model.image_shape
    for more in (0, 64):
        value: Any = torch.zeros(1, channels, height + more, width + more, device="meta")
        shapes = Shapes()
        with watching(model.sites.values(), shapes):
            for segment in model.structure.segments[:-1]:  # inputs of the heads have no positions
                value = segment.forward(value)
        sites = [site for site in model.sites.values() if site.quantizer is not None and site.name in shapes.seen]
        groups.append(
            {
                site.name: Layout.of(site.quantizer.granularity, site.axes, tuple(shapes.seen[site.name])).groups
                for site in sites
                if site.quantizer is not None and site.quantizer.granularity in ("token", "head_token")
            }
        )
    reported: set[str] = set()
    for name, count in groups[0].items():
        kind = model.sites[name].kind
        kind = kind if kind in config.method.kinds else "default"
        if count == groups[1][name] or kind in reported:
            continue
        reported.add(kind)
        granularity = config.method.kinds[kind].granularity
        valid = ["tensor", "channel", *(["head"] if granularity == "head_token" else [])]
        text = (
            f"site {name}: granularity={granularity} is a scale for each position, and images of a detector have their "
            f"own sizes, so that their positions have nothing in common; valid here: {', '.join(valid)}"
        )
        yield under(f"method.kinds.{kind}", Problem(text, "granularity", granularity, valid))


def _shapes(network: Network) -> Iterator[Problem]:
    """Kinds with a site whose shape the kind's quantizer cannot take, with the first such site."""
    kinds = network.config.method.kinds
    if not any(q.granularity.startswith("group:") or may_be(q.quantizer, DualUniformQuantizer) for q in kinds.values()):
        return
    reported: set[str] = set()
    for name, site in network.model.sites.items():
        kind = site.kind if site.kind in kinds else "default"
        if site.quantizer is None or kind in reported:
            continue
        try:
            site.quantizer.check_shape(tuple(network.shapes[name]))
        except ValueError as error:
            reported.add(kind)
            change = "granularity" if site.quantizer.granularity.startswith("group:") else "quantizer"
            wrong = problem_of(error)
            text = f"site {name}: {wrong}; change {change}, or set bits.sites='{{{name}: fp}}'"
            yield under(f"method.kinds.{kind}", Problem(text, change, name, wrong.valid))
