"""A timm model with a site at every weight and every matmul operand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from vitq.config import BitsConfig, MethodConfig, QuantizerConfig
from vitq.errors import ConfigError, Problem, problem_of, under, unknown
from vitq.models.structure import FAMILIES, Segment, Structure, structure_of
from vitq.quant import logarithmic, uniform  # noqa: F401 - importing registers them
from vitq.quant.layers import QuantConv2d, QuantLinear, QuantMatmul
from vitq.quant.layout import Axes
from vitq.quant.quantizer import QUANTIZERS, Quantizer
from vitq.quant.site import Site
from vitq.quant.softmax import QuantSoftmax, attach


class QuantizedModel(nn.Module):
    """The model, its structure and its sites by name. With all sites off it computes what timm computes.

    The timm model is changed in place (layers are replaced by their quantized twins, which share its parameters).
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.structure: Structure = structure_of(model)
        self.model = model
        # What sites share beside their own quantizers, e.g. a predictor of their scales; moves and is saved with them.
        self.predictor: nn.Module | None = None
        # Whether everything without codes was rounded to float16's numbers (step `half`).
        self.halved = False
        for name, kind in self.structure.inputs.items():
            _replace(model, name, _twin(model.get_submodule(name), name, kind))
        replaced: dict[object, nn.Module] = {}
        usual = FAMILIES[self.structure.family].attention
        for name in self.structure.attentions:
            twin = self.structure.twins.get(name, usual)
            if twin is None:
                raise TypeError(
                    f"family {self.structure.family!r} reports {name!r} as attention, and has no twin for it"
                )
            layer = model.get_submodule(name)
            replaced[layer] = twin(layer, name, _SiteParts())
            _replace(model, name, replaced[layer])
        # Segments hold bound modules. Where one was replaced itself, and not children of it, the chain has the new one.
        for index, segment in enumerate(self.structure.segments):
            if segment.forward in replaced:
                self.structure.segments[index] = replace(segment, forward=replaced[segment.forward])
        self.sites: dict[str, Site] = {s.name: s for s in model.modules() if isinstance(s, Site)}

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out

    def layer(self, site: Site | str) -> QuantLinear | QuantConv2d:
        """The layer that owns a weight or input site, or has this name."""
        name = site if isinstance(site, str) else site.owner
        layer = self.model.get_submodule(name)
        if not isinstance(layer, QuantLinear | QuantConv2d):
            raise TypeError(f"{name} is a {type(layer).__name__}, not a layer with a weight")
        return layer

    def layers(self, segment: Segment | None = None) -> dict[str, QuantLinear | QuantConv2d]:
        """Every layer with a weight site, by name, in the order of the model. segment: of this one alone."""
        return {name: self.layer(name) for name in self.structure.inputs if segment is None or segment.holds(name)}

    def plain_state(self) -> dict[str, Tensor]:
        """Parameters and buffers that are not a quantizer's, nor a balance, under the names of the timm model."""
        owned = tuple(f"{name}." for name, module in self.model.named_modules() if isinstance(module, Quantizer))
        state = self.model.state_dict()
        return {
            name: value for name, value in state.items() if not name.startswith(owned) and not name.endswith(".balance")
        }

    def switch(self, sites: Iterable[Site], on: bool) -> None:
        for site in sites:
            site.on = on

    @contextmanager
    def switched_off(self, sites: Iterable[Site] | None = None) -> Iterator[list[Site]]:
        """Inside, these sites (None: all) are off; afterwards they are as before. Gives those that were on."""
        before = {site: site.on for site in (self.sites.values() if sites is None else sites)}
        self.switch(before, on=False)
        try:
            yield [site for site, on in before.items() if on]
        finally:
            for site, on in before.items():
                site.on = on

    def quantized(self) -> list[Site]:
        """Sites that have a quantizer."""
        return [site for site in self.sites.values() if site.quantizer is not None]

    def equip(self, method: MethodConfig, bits: BitsConfig) -> None:
        """Give every site the quantizer and the bit-width that method and bits prescribe.

        Raises ConfigError naming every pattern in `bits.sites` that matches no site and every quantizer that cannot be
        built.
        """
        self._complete(method)
        problems = [
            under(
                f"bits.sites.{pattern}",
                Problem("matches no site of this model; `vitq list sites` shows their names", value=pattern),
            )
            for pattern in bits.sites
            if not any(fnmatchcase(name, pattern) for name in self.sites)
        ]
        for site in self.sites.values():
            config = method.quantizer(site.kind)
            width = site_bits(site, bits, self.structure)
            if config is None or width == "fp":
                site.quantizer = None
                continue
            if config.quantizer not in QUANTIZERS:
                problems.append(
                    unknown("quantizer", config.quantizer, QUANTIZERS, key=f"method.kinds.{site.kind}.quantizer")
                )
                continue
            try:
                site.quantizer = configured(config, int(width), site.axes)
            except ValueError as error:
                problems.append(under(f"method.kinds.{site.kind}", problem_of(error)))
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))

    def _complete(self, method: MethodConfig) -> None:
        """Make the sites of a fully quantized model, where the method names their kinds."""
        for name, module in self.model.named_modules():
            if "norm_input" in method.kinds and isinstance(module, nn.LayerNorm):
                attach(module, name)
            if "scores" in method.kinds and isinstance(module, QuantSoftmax):
                module.attach()
        self.sites = {s.name: s for s in self.model.modules() if isinstance(s, Site)}


def build(
    name: str, bits: int, axes: Axes, granularity: str, range_search: str, symmetric: bool, options: dict[str, object]
) -> Quantizer:
    """A quantizer by its registered name. range_search: the recipe's `range`."""
    return QUANTIZERS[name](bits, granularity, axes, range_search, symmetric, **options)


def configured(config: QuantizerConfig, bits: int, axes: Axes) -> Quantizer:
    """The quantizer that a recipe names for a kind. Raises ValueError where it cannot be built."""
    return build(config.quantizer, bits, axes, config.granularity, config.range, config.symmetric, config.options)


def site_bits(site: Site, bits: BitsConfig, structure: Structure) -> int | str:
    """Bit-width of a site. A later one wins: the rule, its kind's, first/last layer's (not the image), a pattern's."""
    width: int | str = bits.weight if site.is_weight else bits.activation
    if site.kind == "patch":
        width = bits.image
    width = bits.kinds.get(site.kind, width)
    if bits.first_last is not None and site.owner in (*structure.stem, *structure.head) and site.kind != "patch":
        width = bits.first_last
    if bits.scope == "backbone" and not site.owner.startswith(structure.body):
        width = "fp"
    for pattern, exception in bits.sites.items():
        if fnmatchcase(site.name, pattern):
            width = exception
    return width


class _SiteParts:
    """What attention is quantized with (vitq.models.attention.Parts)."""

    def matmul(self, name: str, left: str, right: str) -> QuantMatmul:
        return QuantMatmul(name, left, right)

    def softmax(self, name: str) -> QuantSoftmax:
        return QuantSoftmax(name)


def _twin(layer: nn.Module, name: str, kind: str) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return QuantConv2d(layer, name, kind)
    if isinstance(layer, nn.Linear):
        # Activations are (B, N, C), or (B, H, W, C) in Swin's MLP; the head's input is (B, C).
        return QuantLinear(layer, name, kind, Axes(channel=-1, token=kind not in ("head", "dense")))
    raise TypeError(f"{name}: no quantized twin for {type(layer).__name__}")


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
