"""The structure of a model as the engine needs it. One file per family fills it in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Generator, Tensor, nn

from vitq.errors import ModelError
from vitq.models.attention import AttentionTwin
from vitq.models.join_projections import join_projections
from vitq.models.plain_layers import plain_layers
from vitq.models.rotatable import Rotatable
from vitq.registry import Registry


@dataclass(frozen=True)
class Link:
    """A norm whose output is read by linear layers only, so that scales and shifts can be folded across.

    norm, consumers: module names. padded: zeros are inserted between norm and consumer (windows that do not divide the
    feature map), so that a folded shift would not be exact at the padding; a folded scale is.
    """

    norm: str
    consumers: tuple[str, ...]
    padded: bool = False


@dataclass(frozen=True)
class Segment:
    """One link of the chain that makes up the model: `forward` maps its input (B, …) to the next one's input.

    Where a later segment reads more than the one before it gives, that travels along: values are tuples then.
    learned: whether reconstruction learns it; a detector's heads, whose outputs are objects, are calibrated alone.
    channel: dimension of the channels of what it gives.
    """

    name: str
    forward: Callable[[Any], Any]
    modules: tuple[str, ...]
    learned: bool = True
    channel: int = -1

    def holds(self, owner: str) -> bool:
        """Whether the module named `owner` belongs to this segment."""
        return any(owner == module or owner.startswith(module + ".") for module in self.modules)


@dataclass(frozen=True)
class FixedBoxComparison:
    """How two networks are compared whose outputs are objects: by what they give at boxes that are held fixed.

    fixed: the boxes of a network, from the last segment's input for one image. dense: what a network gives there, from
    that input and the boxes: a NamedTuple of tensors. divergence: of two of these and a temperature (1 where it is left
    out), nats, float64; agreement: of two, percent. likelihood: of what a network gives, with answers drawn from it:
    the mean of g·gᵀ of its gradient g at an activation is the second derivative of the divergence there.
    """

    fixed: Callable[[Any], Any]
    dense: Callable[[Any, Any], Any]
    divergence: Callable[..., Tensor]
    agreement: Callable[[Any, Any], Tensor]
    likelihood: Callable[[Any, Generator], Tensor]


@dataclass
class Structure:
    """What a family file reports of a model.

    inputs: kind of the input of every Linear and Conv that is quantized, by module name.
    attentions: names of the attention modules. twins: twins of those that another one than the family's belongs to.
    links: norm → consumers. segments: the chain; composed, it equals the model's forward.
    stem, head: names of the first and the last layers (`bits.first_last`).
    rotatable: residual streams and heads (step `rotate`); empty where the family's file reports none.
    body: name of the transformer within the model (`bits.scope=backbone`); '' where it is all of it.
    comparison: of networks whose outputs are objects; None where they are logits.
    exported: name of the module that becomes an integer graph; '' for all of the model. outputs: names of what it
    gives; none where it cannot become one.
    model: the module that the names belong to.
    """

    family: str
    model: nn.Module
    inputs: dict[str, str] = field(default_factory=dict)
    attentions: list[str] = field(default_factory=list)
    twins: dict[str, type[AttentionTwin]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    stem: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rotatable: Rotatable = field(default_factory=Rotatable)
    body: str = ""
    comparison: FixedBoxComparison | None = None
    exported: str = ""
    outputs: tuple[str, ...] = ("logits",)

    def link(self, norm: str, *layers: str, padded: bool = False) -> None:
        """`layers`, and nothing else, read the output of a norm. It is a link where its scales can be folded."""
        self.inputs.update(dict.fromkeys(layers, "post_norm"))
        if foldable(self.model.get_submodule(norm)):
            self.links.append(Link(norm, layers, padded))

    def end(self, forward: Callable[[Any], Any], *modules: str, layers: Iterable[str] | None = None) -> None:
        """The last segment. modules: what `forward` runs. layers: of the head; None: all at or below `head`."""
        self.head = tuple(layers_below(self.model, "head") if layers is None else layers)
        self.inputs.update(dict.fromkeys(self.head, "head"))
        self.segments.append(Segment("head", forward, modules))


@dataclass(frozen=True)
class Family:
    """What the engine must know of a family of networks.

    model: class of its models. structure: reports their structure. attention: quantized twin of their attention, which
    says too what of it is learned beside its layers, and how integers move through it; None where they have none.
    """

    model: type[nn.Module]
    structure: Callable[[nn.Module], Structure]
    attention: type[AttentionTwin] | None = None


FAMILIES: Registry[Family] = Registry("model family", "vitq.models")
Report = TypeVar("Report", bound=Callable[[nn.Module], Structure])


def register_family(
    name: str, model: type[nn.Module], attention: type[AttentionTwin] | None = None
) -> Callable[[Report], Report]:
    """Decorator of the function that reports the structure of a family's models. A new family is one file.

    name: what the structure calls its family. Raises ValueError when it is taken.
    """

    def add(structure: Report) -> Report:
        FAMILIES.register(name)(Family(model, structure, attention))
        return structure

    return add


def structure_of(model: nn.Module) -> Structure:
    """Structure of a timm model, whose query, key and value become one layer, and other layers plain ones.

    Raises ModelError for other models.
    """
    families = {FAMILIES[name].model: FAMILIES[name] for name in FAMILIES}
    for kind in type(model).__mro__:  # the most special family first
        if kind in families:
            join_projections(model)
            plain_layers(model)
            return families[kind].structure(model)
    names = ", ".join(f"{kind.__module__}.{kind.__name__}" for kind in families)
    raise ModelError(
        f"model of class {type(model).__module__}.{type(model).__name__} is outside the supported families ({names}); "
        "to add one, write a file like vitq/models/vit.py (docs/extending.md)",
        value=type(model).__name__,
    )


def unsupported(model: nn.Module, part: str, actual: object, valid: str) -> ModelError:
    """The one wording for a variant of a supported family that the engine does not know."""
    return ModelError(
        f"{type(model).__name__}: {part} is {actual}; valid: {valid}; a variant is added in vitq/models/<family>.py",
        part,
        actual,
        [valid],
    )


def layers_below(model: nn.Module, prefix: str) -> list[str]:
    """Names of all Linear and Conv2d layers at or below a module."""
    return [
        f"{prefix}.{name}" if name else prefix
        for name, module in model.get_submodule(prefix).named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]


def foldable(norm: nn.Module) -> bool:
    """Whether scales can be folded into a norm: it has an affine weight."""
    return isinstance(getattr(norm, "weight", None), nn.Parameter)
