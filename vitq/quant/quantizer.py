"""The map float → code → float for one site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from vitq.errors import Problem, bad, unknown
from vitq.quant import search
from vitq.quant.distribution import Distribution
from vitq.quant.integer import IntegerPart, NotIntegerError
from vitq.quant.layout import Axes, Layout
from vitq.registry import Registry

Made = TypeVar("Made", bound="Quantizer")
QUANTIZERS: Registry[type[Quantizer]] = Registry("quantizer", "vitq.quant", "vitq.methods")
# Kinds of sites whose values may be non-negative all, by how they come about.
NON_NEGATIVE = ("probs", "post_gelu", "other")
# 2^b codes, or as many levels as public code has.
LEVELS = ("strict", "public")


class Quantizer(nn.Module):
    """Base of all quantizers.

    b bits means 2^b codes: `encode` returns integers in [0, 2^b), unless a quantizer has the option `levels` and it is
    `public`, which repeats public code. `forward` is decode∘encode with a straight-through gradient. Parameters are
    float32 buffers of shape (G,), one entry for each group of the layout.

    Lifecycle: construct → `fit` (range search on a `Distribution`) → `encode` / `decode` / `forward`.
    """

    # Names of the recipe options (`method.kinds.<kind>.options`) that the class understands, with their defaults.
    options: ClassVar[dict[str, Any]] = {}
    # Kinds of sites that the class can serve; () stands for all. An option may widen them for an instance.
    kinds: tuple[str, ...] = ()
    # Whether `symmetric` has a meaning, or is met anyway.
    may_be_symmetric: ClassVar[bool] = True
    # Whether every code stands for one value, whatever the image: then a packed checkpoint can hold the codes.
    packable: ClassVar[bool] = True
    # Buffers of shape (G,) that `fit` sets.
    parameter_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        bits: int,
        granularity: str,
        axes: Axes,
        range_search: str = "minmax",
        symmetric: bool = False,
        **options: Any,
    ):
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(bad("bits", bits, "valid bit-widths: 2 to 8", (2, 3, 4, 5, 6, 7, 8)))
        if symmetric and not self.may_be_symmetric:
            text = f"symmetric=true: {type(self).__name__} has no negative codes; leave symmetric out"
            raise ValueError(Problem(text, "symmetric", True, [False]))
        for name in options:
            if name not in self.options:
                what = f"option of quantizer {type(self).__name__}"
                raise ValueError(unknown(what, name, self.options, key=f"options.{name}"))
        self.bits, self.granularity, self.axes = bits, granularity, axes
        self.range_search, self.symmetric = range_search, symmetric
        self.settings = {**self.options, **options}
        search.check(self.settings)
        if "levels" in self.settings and self.settings["levels"] not in LEVELS:
            what = f"levels of {type(self).__name__}"
            raise ValueError(unknown(what, self.settings["levels"], LEVELS, key="options.levels"))
        self._layout: Layout | None = None
        for name in self.parameter_names:
            self.register_buffer(name, torch.zeros(0))

    def unfitted(
        self, kind: type[Made] | None = None, bits: int | None = None, granularity: str | None = None, **options: Any
    ) -> Made | Self:
        """A new quantizer with the settings of this one, except for those given. kind: its class, None: this one's."""
        made: Made | Self = (kind or type(self))(
            self.bits if bits is None else bits,
            self.granularity if granularity is None else granularity,
            self.axes,
            self.range_search,
            self.symmetric,
            **{**self.settings, **options},
        )
        return made

    @property
    def codes(self) -> int:
        """Number of codes, 2^bits."""
        return 1 << self.bits

    @property
    def last(self) -> int:
        """Largest code; 2^bits, one more than b bits hold, where the option `levels` is `public`."""
        return self.codes if self.settings.get("levels") == "public" else self.codes - 1

    @property
    def fitted(self) -> bool:
        return self._layout is not None

    @property
    def layout(self) -> Layout:
        """Which elements share a parameter, fixed by `fit`. Raises RuntimeError before."""
        if self._layout is None:
            text = f"{type(self).__name__} was used before it was fitted; add a `calibrate` step for its site"
            raise RuntimeError(Problem(text, "layout"))
        return self._layout

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError where a tensor of this shape cannot be fitted."""
        Layout.of(self.granularity, self.axes, shape)

    @torch.no_grad()
    def fit_tensor(self, x: Tensor) -> None:
        """Fit to one tensor that is known completely (a weight)."""
        layout = Layout.of(self.granularity, self.axes, tuple(x.shape))
        self.fit(Distribution.from_rows(layout.rows(x)), layout)

    @abstractmethod
    def fit(self, distribution: Distribution, layout: Layout) -> None:
        """Search the range on `distribution` and set the parameters. A group of one value is ordinary input."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Integer codes of x, int64, same shape, all in [0, 2^bits)."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Float32 values of the codes, same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return straight_through(x, self.decode(self.encode(x.detach())))

    def static(self) -> Quantizer:
        """This quantizer with one set of parameters for all images: itself, where it has only one."""
        return self

    def levels(self) -> Tensor:
        """(G, last + 1) float32: the value of every code, for each group."""
        layout = self.layout
        grid = torch.arange(self.last + 1, device=next(self.buffers()).device).expand(layout.groups, -1)
        # Codes lie along a trailing axis here, so the parameters broadcast as a column.
        self._layout = Layout("channel", Axes(0), layout.groups, (layout.groups, 1))
        try:
            return self.decode(grid)
        finally:
            self._layout = layout

    @property
    def type_name(self) -> str:
        """The class's name, as tables of sites have it: `Uniform`, `Log2` …"""
        return type(self).__name__.removesuffix("Quantizer")

    @property
    def uneven(self) -> str | None:
        """Why the codes are no evenly spaced numbers of one scale a group; None where they are."""
        return f"the codes of {self.type_name} are not evenly spaced"

    def integer_parts(self) -> list[IntegerPart]:
        """Evenly spaced parts whose sum is the round trip; one scale for the whole tensor.

        Raises NotIntegerError where there are none, or several scales.
        """
        raise NotIntegerError(str(self.uneven))

    def runtime_form(self) -> nn.Module | None:
        """The round trip, one scale for the whole tensor, in operations that integer runtimes have fast kernels for.

        Same values as `forward`, apart from ties of rounding. None: there is no faster form than `forward`.
        """
        return None

    def _check_one_scale(self) -> None:
        """Raises NotIntegerError where groups have scales of their own."""
        if self.layout.groups > 1:
            raise NotIntegerError(f"granularity {self.layout.granularity}, int8 products have one scale for an input")

    def refresh(self) -> None:
        """Recompute what is derived from the parameters. Call it after changing them in place."""

    def parameter_bytes(self) -> int:
        """Bytes that the parameters take in a packed checkpoint: float32 scales, one byte for each zero point."""
        return sum(getattr(self, name).numel() * (1 if name == "zero_point" else 4) for name in self.parameter_names)

    def set_parameters(self, layout: Layout, **parameters: Tensor) -> None:
        """Store fitted parameters, float32, on the device that they are on. Raises ValueError for one not finite."""
        for name, value in parameters.items():
            if not torch.isfinite(value).all():
                raise ValueError(f"{type(self).__name__}: the search gave a non-finite {name}")
            # A copy: two quantizers may be given one tensor, and each learns and restores its own.
            setattr(self, name, value.detach().float().contiguous().clone())
        self._layout = layout
        self.refresh()

    def extra_repr(self) -> str:
        return f"bits={self.bits}, granularity={self.granularity}, range={self.range_search}"


class ElementwiseQuantizer(Quantizer):
    """A quantizer whose code is a function of a value and of its group's parameters.

    Those of `parameter_names`, in their order; they broadcast against float32 values in the layout's expanded shape.
    """

    @abstractmethod
    def _codes(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """Codes of x, as floats."""

    @abstractmethod
    def _values(self, codes: Tensor, *parameters: Tensor) -> Tensor:
        """Values of codes, given as floats."""

    def views(self) -> tuple[Tensor, ...]:
        """The parameters in broadcastable shape."""
        return tuple(self.layout.view(getattr(self, name)) for name in self.parameter_names)

    def encode(self, x: Tensor) -> Tensor:
        layout = self.layout
        return layout.collapse(self._codes(layout.expand(x).float(), *self.views()), x.shape).to(torch.int64)

    def decode(self, codes: Tensor) -> Tensor:
        layout = self.layout
        return layout.collapse(self._values(layout.expand(codes).float(), *self.views()), codes.shape)

    def forward(self, x: Tensor) -> Tensor:
        layout = self.layout
        expanded = layout.expand(x)
        quantized = self._round_trip(expanded.detach().float(), *self.views())
        return layout.collapse(straight_through(expanded, quantized.to(x.dtype)), x.shape)

    def _round_trip(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return self._values(self._codes(x, *parameters), *parameters)


def register_quantizer(name: str) -> Callable[[type[Made]], type[Made]]:
    """Decorator: the class becomes the quantizer of this name in recipes. Raises ValueError when it is taken."""
    return QUANTIZERS.register(name)


def may_be(name: str, *classes: type) -> bool:
    """Whether a quantizer's name stands for one of these classes. An unknown name may: another check reports it."""
    return name not in QUANTIZERS or issubclass(QUANTIZERS[name], classes)


def check_non_negative(quantizer: Quantizer, distribution: Distribution, instead: str = "uniform") -> None:
    """Raise ValueError for negative values, naming the quantizer that is to be used instead."""
    if bool((distribution.low < -1e-6).any()):
        least = float(distribution.low.min())
        text = (
            f"{type(quantizer).__name__} needs non-negative values, the least seen is {least:.3g}; "
            f"use quantizer {instead} for this kind"
        )
        raise ValueError(Problem(text, "quantizer", least))


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """Value of `quantized`, gradient of x."""
    return x + (quantized - x).detach() if x.requires_grad else quantized
