"""Checks of a config that need its network: shapes, weights, and whether the recipe fits it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from vitq.config import RunConfig
from vitq.engine.recipe import equipped, steps
from vitq.errors import ConfigError, ModelError, first_line
from vitq.models.build import classes, create, shell
from vitq.models.identity import HUB
from vitq.models.load import check_weights
from vitq.models.published import departures
from vitq.quant.dual import DualUniformQuantizer
from vitq.quant.model import QuantizedModel
from vitq.quant.quantizer import may_be
from vitq.quant.site_table import blank
from vitq.steps.step import Network


def network_of(config: RunConfig) -> Network:
    """The config's network, made when something of it is asked for."""
    return Network(config, lambda: equipped(config, shell(config.model, config.data)))


def network_problems(config: RunConfig) -> list[str]:
    """Why the config's network cannot be built, filled with its weights, quantized, or given its images; else [].

    Of networks and weights on the hub that have no name in timm (`hf-hub:…`) nothing is asked: that takes a download.
    """

    model = config.model
    if model.name.startswith(HUB):
        return []
    try:
        network = shell(model, config.data)
        check_weights(network, model, config.data)
        QuantizedModel(network)
    except ModelError as error:
        return [str(error)]
    # Shapes alone do not answer all that numbers do: where they fail, the network itself has the last word.
    found = _refusal(config, network, "meta") and _refusal(config, create(model, config.data), "cpu")
    return [found] if found else []


def weight_warnings(config: RunConfig) -> list[str]:
    """What is done to a config's weights that nobody asked for; the network itself has no `network_problems`."""
    model = config.model
    if model.name.startswith(HUB):
        return []
    resampled = check_weights(shell(model, config.data), model, config.data) if model.checkpoint is not None else []
    return [*departures(model, config.data), *resampled]


def _refusal(config: RunConfig, network: nn.Module, device: str) -> str | None:
    """What is wrong with the network's answer to one image of the config's size; None where nothing is."""

    about = f"{config.model.name!r} with model.kwargs={config.model.kwargs}"
    image = blank(config, torch.device(device))
    try:
        out = network(image)
    except (RuntimeError, ValueError, AssertionError) as error:  # timm checks sizes by assertions
        reason = first_line(error, "no message")
        return f"{about} refuses an image of shape {tuple(image.shape)} ({reason}); change one of these"
    wanted = (1, classes(config.model, config.data))
    if out.shape != wanted:
        return f"{about} has an output of shape {tuple(out.shape)}, {wanted} is needed: one number for each class"
    return None


def misfits(config: RunConfig) -> list[str]:
    """Where bits and recipe do not fit the network, one line each. The network itself has no `network_problems`."""

    if config.model.name.startswith(HUB):
        return []
    network = network_of(config)
    try:
        if config.bits.sites:
            _ = network.model  # which looks the patterns up
        found = list(_shapes(network))
        for name, step in steps(config):
            found += [f"method.steps.{name}: {line}" for line in step.check_network(network)]
        return found
    except ConfigError as error:
        return error.problems


def _shapes(network: Network) -> Iterator[str]:
    """Kinds with a site whose shape the kind's quantizer cannot take, with the first such site."""

    kinds = network.config.method.kinds
    if not any(q.granularity.startswith("group:") or may_be(q.quantizer, DualUniformQuantizer) for q in kinds.values()):
        return
    told: set[str] = set()
    for name, site in network.model.sites.items():
        kind = site.kind if site.kind in kinds else "default"
        if site.quantizer is None or kind in told:
            continue
        try:
            site.quantizer.check_shape(tuple(network.shapes[name]))
        except ValueError as error:
            told.add(kind)
            change = "granularity" if site.quantizer.granularity.startswith("group:") else "quantizer"
            yield f"method.kinds.{kind}: site {name}: {error}; change {change}, or set bits.sites='{{{name}: fp}}'"
