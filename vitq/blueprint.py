"""A config's network without its weights: what can be known of it before anything is read or computed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from vitq.config import RunConfig
from vitq.errors import ConfigError, ModelError, first_line

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from vitq.quant.model import QuantizedModel
    from vitq.quant.site import Site
    from vitq.steps.step import Step


class Blueprint:
    """The quantized network of a config on torch's `meta` device: names, shapes, no numbers; made when asked for."""

    def __init__(self, config: RunConfig):
        self.config = config

    @cached_property
    def model(self) -> QuantizedModel:
        """All sites off. Raises ModelError: unsupported network. ConfigError: a recipe that does not fit it."""
        from vitq.models.build import shell
        from vitq.recipe import equipped

        return equipped(self.config, shell(self.config.model, self.config.data))

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Of every site's tensor for one image, by name."""
        import torch

        from vitq.sites import blank
        from vitq.steps.budget import shapes_of

        return shapes_of(self.model, blank(self.config, torch.device("meta")))

    def fitted(self, before: Step) -> list[Site]:
        """Quantized sites whose quantizers the enabled steps before this one fit."""
        from vitq.steps.known import earlier

        kinds = {kind for step in earlier(self.config, before) for kind in step.fits()}
        return [site for site in self.model.quantized() if site.kind in kinds]

    def sites(self) -> pd.DataFrame:
        """The sites that the config would have (vitq.sites.COLUMNS); `mse` and `sqnr_db` are null."""
        import torch

        from vitq.sites import blank, site_table

        return site_table(self.model, [blank(self.config, torch.device("meta"))], planned=True)


def network_problems(config: RunConfig) -> list[str]:
    """Why the config's network cannot be built, filled with its weights, quantized, or given its images; else [].

    Of networks and weights on the hub that have no name in timm (`hf-hub:…`) nothing is asked: that takes a download.
    """
    from vitq.models.build import create, shell
    from vitq.models.load import check_weights
    from vitq.quant.model import QuantizedModel

    model = config.model
    if ":" in model.name:
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


def _refusal(config: RunConfig, network: nn.Module, device: str) -> str | None:
    """What is wrong with the network's answer to one image of the config's size; None where nothing is."""
    import torch

    from vitq.models.build import classes
    from vitq.sites import blank

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
    from vitq.recipe import steps

    if ":" in config.model.name:
        return []
    blueprint = Blueprint(config)
    try:
        if config.bits.sites:
            _ = blueprint.model  # which looks the patterns up
        found = list(_shapes(blueprint))
        for name, step in steps(config):
            found += [f"method.steps.{name}: {line}" for line in step.check_network(blueprint)]
        return found
    except ConfigError as error:
        return error.problems


def _shapes(blueprint: Blueprint) -> Iterator[str]:
    """Kinds with a site whose shape the kind's quantizer cannot take, with the first such site."""
    from vitq.quant.dual import DualUniformQuantizer
    from vitq.quant.quantizer import may_be

    kinds = blueprint.config.method.kinds
    if not any(q.granularity.startswith("group:") or may_be(q.quantizer, DualUniformQuantizer) for q in kinds.values()):
        return
    told: set[str] = set()
    for name, site in blueprint.model.sites.items():
        kind = site.kind if site.kind in kinds else "default"
        if site.quantizer is None or kind in told:
            continue
        try:
            site.quantizer.check_shape(tuple(blueprint.shapes[name]))
        except ValueError as error:
            told.add(kind)
            change = "granularity" if site.quantizer.granularity.startswith("group:") else "quantizer"
            yield f"method.kinds.{kind}: site {name}: {error}; change {change}, or set bits.sites='{{{name}: fp}}'"
