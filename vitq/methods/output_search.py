"""Output search: quantizers of activations chosen by the error of the product that they enter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vitq.config import KINDS, RunConfig
from vitq.errors import Problem, bad, unknown
from vitq.methods.adalog import AdaLogQuantizer
from vitq.methods.parameter_search import Best, descend, space_of
from vitq.quant.layers import QuantLinear, QuantMatmul
from vitq.quant.logarithmic import LogQuantizer
from vitq.quant.quantizer import Quantizer, may_be
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.layer_walk import NetworkWalk, ReachedError, quantized_walk
from vitq.steps.step import Network, Step, Workspace, enabled_steps, register_step

SEARCHED = tuple(kind for kind in KINDS if kind not in ("weight", "patch"))
_QUANTIZERS = ("uniform", "log2", "log_sqrt2", "adalog")
# GELU's least value, rounded away from 0: AdaLog's own.
_GELU_SHIFT = 0.17


@register_step("output_search")
class OutputSearch(Step):
    """min over a quantizer's parameters of ‖(Q(x) − x)·y‖², y the other operand of the product, already quantized.

    Segment by segment in the quantized network, and in a segment in the order that its products run: probs·value for
    probs and value, query·keyᵀ for query and key, x·Wᵀ for a layer's input (W quantized where it is). Quantizers must
    be fitted; where none of those tried is better the fitted one stays. A coarse grid over the parameters, then
    neighbours at half the distance, `rounds` times. Uniform: both ends of the range. Log2 and log√2: the scale.
    AdaLog: base (2^¼ … 2^4) and scale. Source: AdaLog's public code searches its base so, at a scale of 1 (Wu et al.,
    ECCV 2024); scale, zero code and the other kinds are ours [I].

    kinds: which sites. images: the search sees the first so many calibration images (none: all); its time grows with
    them. zero_code: `keep` what the recipe says, or `search`: adalog's last code is zero or a power, whichever is
    better for the site.
    gelu_codes: `keep` what the recipe says, or `search`: a uniform quantizer of `post_gelu`, one scale for the tensor,
        gives way to AdaLog's logarithm, opened to GELU's domain by its shift of 0.17, where the error of the product is
        less: as many codes and one range. Values below −0.17 (SiLU) leave it uniform.
    class_share: in (0, 1), the share that the rows of the class token have in the error of a product, where the head
        reads that token alone (of a distilled model both tokens); the others have the rest. None: all rows count alike,
        so that the class token is one of 257 and its largest values are clipped (docs/notes/2026-11-29-dinov2.md).
    class_share_bits: the fewest bits of a site that takes notice of `class_share`.
    """

    kinds: tuple[str, ...] = ("probs", "post_gelu")
    images: int | None = 8
    rounds: int = 2
    zero_code: Literal["keep", "search"] = "keep"
    gelu_codes: Literal["keep", "search"] = "keep"
    class_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    class_share_bits: int = 1
    depends_on_bits: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        what = "kind of an activation in a product"
        problems = [unknown(what, kind, SEARCHED, key="kinds") for kind in self.kinds if kind not in SEARCHED]
        if not self.kinds:
            problems.append(Problem("kinds names one at least; leave the step out, or enabled=false", "kinds", ()))
        if self.images is not None and self.images < 1:
            problems.append(bad("images", self.images, "at least 1, or null for the whole calibration set"))
        if self.rounds < 0:
            problems.append(bad("rounds", self.rounds, "0 (the coarse grid alone) or more"))
        if self.gelu_codes == "search" and "post_gelu" not in self.kinds:
            text = "gelu_codes=search, but kinds has no post_gelu; add it, or leave gelu_codes out"
            problems.append(Problem(text, "gelu_codes", "search", ["keep"]))
        for kind in self.kinds:
            wanted = config.method.quantizer(kind)
            if wanted is not None and not may_be(wanted.quantizer, UniformQuantizer, LogQuantizer):
                text = f"kinds.{kind}.quantizer={wanted.quantizer}; searched are {', '.join(_QUANTIZERS)}"
                problems.append(Problem(text, value=wanted.quantizer, valid=_QUANTIZERS))
        return problems

    def check_network(self, network: Network) -> list[Problem]:
        """Kinds with a site whose groups mix in its product, with the first such site."""
        sites = {site.name: site for site in network.fitted(self) if site.kind in self.kinds}
        if any(step.do == "reparameterize" for step in enabled_steps(network.config, self)):
            folded = {f"{name}.input" for link in network.model.structure.links for name in link.consumers}
            sites = {name: site for name, site in sites.items() if name not in folded}
        mixed: dict[str, Problem] = {}
        for site in sites.values():
            if site.quantizer is not None and site.quantizer.granularity not in _apart(site.kind):
                mixed.setdefault(site.kind, _mixed(site.name, site.quantizer.granularity))
        return list(mixed.values())

    def run(self, work: Workspace) -> None:
        walk = quantized_walk(work, self.images)
        segments = work.model.structure.segments
        weights = _row_weights(work.model.model, self.class_share)
        for index, _ in enumerate(work.progress.over(segments, "output_search", len(segments))):
            walk.enter(index)
            for product in _order(work, walk):
                for site in _operands(product):
                    if site.kind in self.kinds and site.on and isinstance(site.quantizer, Quantizer):
                        search_site(self, walk, product, site, weights)
            walk.advance()


Product = QuantLinear | QuantMatmul


def _operands(product: Product) -> tuple[Site, ...]:
    """Activation sites; the right one of a product first: value before probs."""
    if isinstance(product, QuantMatmul):
        return product.right_site, product.left_site
    return (product.input_site,)


@torch.no_grad()
def _order(work: Workspace, walk: NetworkWalk) -> list[Product]:
    """The current segment's products in the order they run, seen on one image."""
    seen: list[Product] = []
    handles = [
        module.register_forward_pre_hook(lambda m, _: seen.append(m))
        for name, module in work.model.model.named_modules()
        if isinstance(module, Product) and walk.segment.holds(name)
    ]
    try:
        walk.segment.forward(walk.inputs.select(torch.zeros(1, dtype=torch.int64)))
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def _arriving(walk: NetworkWalk, product: Product, images: int | None) -> tuple[list[tuple[Tensor, ...]], bool]:
    """Operands of a product in the quantized network for the first images, together where they have one size, and
    whether the right one is transposed."""
    operands: list[tuple[Tensor, ...]] = []
    transposed = False

    def keep(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, bool]) -> None:
        nonlocal transposed
        transposed = kwargs.get("transpose", False)
        operands.append(args)
        raise ReachedError

    handle = product.register_forward_pre_hook(keep, with_kwargs=True)
    left = len(walk.inputs) if images is None else min(images, len(walk.inputs))
    try:
        for batch in walk.inputs.batches():
            one = isinstance(batch, tuple)  # what travels between a detector's segments is of one image
            try:
                walk.segment.forward(batch if one else batch[:left])
            except ReachedError:
                left -= 1 if one else len(batch)
            if left <= 0:
                break
    finally:
        handle.remove()
    if len({tuple(part.shape[1:] for part in parts) for parts in operands}) == 1:
        operands = [tuple(torch.cat(parts) for parts in zip(*operands, strict=True))]
    return operands, transposed


@torch.no_grad()
def search_site(
    step: OutputSearch, walk: NetworkWalk, product: Product, site: Site, weights: Tensor | None = None
) -> None:
    """Search one site; its quantizer has the best parameters found afterwards. weights: (N,) of rows of N tokens."""
    quantizer = site.quantizer
    assert quantizer is not None
    arriving, transposed = _arriving(walk, product, step.images)
    weights = weights if quantizer.bits >= step.class_share_bits else None
    pieces = [_error(product, site, operands, transposed, weights) for operands in arriving]
    granularity = quantizer.granularity
    # A group's error can be told from the others' where the product keeps the groups apart: rows of its left operand,
    # columns of its right one.
    x, error = pieces[0]
    apart = error(x).shape
    if any(size not in (1, apart[dim]) for dim, size in enumerate(quantizer.layout.params)):
        problem = _mixed(site.name, granularity)
        raise ValueError(problem.reworded(f"output_search: {problem}"))

    seen = torch.cat([quantizer.layout.rows(x) for x, _ in pieces], dim=1)

    def best_of(quantizer: Quantizer) -> Best:
        def measured() -> Tensor:
            errors = [quantizer.layout.rows(error(quantizer(x))).sum(1) for x, error in pieces]
            return errors[0] if len(errors) == 1 else torch.stack(errors).sum(dim=0)

        best = Best(quantizer, measured())
        flags = (False, True) if step.zero_code == "search" and isinstance(quantizer, AdaLogQuantizer) else (None,)
        for flag in flags:
            if flag is not None:
                quantizer.settings["zero_code"] = flag
            descend(space_of(quantizer, seen), step.rounds, measured, best)
        best.put()
        return best

    best = best_of(quantizer)
    if step.gelu_codes == "search" and site.kind == "post_gelu":
        logarithm = gelu_logarithm(quantizer, seen)
        if logarithm is not None and bool((best_of(logarithm).error < best.error).all()):
            site.quantizer = logarithm


def _apart(kind: str) -> tuple[str, ...]:
    """Granularities whose groups a product keeps apart."""
    return ("tensor", "head", *(("channel", "head_channel") if kind == "value" else ("token", "head_token")))


def _mixed(site: str, granularity: str) -> Problem:
    text = (
        f"{site} has granularity {granularity}, whose groups mix in its product; searched are scales of the tensor, of "
        "heads, of tokens, and of the channels of value: reparameterize first, or leave its kind out of kinds"
    )
    valid = ["tensor", "head", "token", "head_token", "head_channel"]
    return Problem(text, "granularity", granularity, valid)


def gelu_logarithm(quantizer: Quantizer, rows: Tensor) -> AdaLogQuantizer | None:
    """AdaLog's quantizer of GELU's output in place of a uniform one, to be searched; None where there is none. rows:
    (1, N), what it quantizes."""
    if not isinstance(quantizer, UniformQuantizer) or quantizer.layout.groups > 1 or bool(rows.min() < -_GELU_SHIFT):
        return None
    options = {"shift": _GELU_SHIFT, "zero_code": False}
    made = AdaLogQuantizer(quantizer.bits, quantizer.granularity, quantizer.axes, quantizer.range_search, **options)
    scale = rows.amax(dim=1) + _GELU_SHIFT
    made.set_parameters(quantizer.layout, scale=scale, base=torch.full_like(scale, made.resolution))
    return made


def _error(
    product: Product, site: Site, operands: tuple[Tensor, ...], transposed: bool, weights: Tensor | None = None
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The site's tensor x, and quantized x ↦ squared error of the product, float64: in x's dimensions, but 1 long where
    the product sums over them. weights: (N,) of its rows, where they are as many."""
    rows = operands[0].shape[-2]
    # (N, 1), float32.
    by_row = torch.ones(1, 1) if weights is None or len(weights) != rows else weights.view(-1, 1)
    by_row = by_row.to(operands[0].device)
    if isinstance(product, QuantMatmul):
        left, right = operands
        if site is product.left_site:
            other = product.right_site(right)
            other = other.transpose(-2, -1) if transposed else other
            return left, lambda quantized: _rows((quantized - left) @ other, by_row)
        other = product.left_site(left)
        if transposed:
            return right, lambda quantized: _rows((quantized - right) @ other.transpose(-2, -1), by_row.T)
        return (
            right,
            lambda quantized: ((other @ (quantized - right)).square_() * by_row).sum(-2, keepdim=True).double(),
        )
    weight = product.weight_site(product.weight)
    x = operands[0] if product.balance is None else operands[0] * product.balance
    if weight.shape[0] > weight.shape[1]:
        # ‖eWᵀ‖ = ‖eL‖ for LLᵀ = WᵀW: fewer columns.
        values, vectors = torch.linalg.eigh((weight.T @ weight).double())
        weight = (vectors * values.clamp(min=0).sqrt()).T.float()
    return x, lambda quantized: _rows((quantized - x) @ weight.T, by_row)


def _rows(error: Tensor, weights: Tensor) -> Tensor:
    """Weighted squared error of each row of a product."""
    return (error.square_() * weights).sum(-1, keepdim=True).double()


def _row_weights(model: nn.Module, share: float | None) -> Tensor | None:
    """(N,) weights of a ViT's tokens, so that those which the head reads have this share in all; None: alike, as in
    networks whose class token does not travel with a known number of patches (CaiT, PiT, TNT)."""
    if share is None or getattr(model, "global_pool", None) != "token" or getattr(model, "cls_token", None) is None:
        return None
    read = 2 if getattr(model, "dist_token", None) is not None else 1
    patches, prefix = (
        getattr(owner, name, None)
        for owner, name in ((getattr(model, "patch_embed", None), "num_patches"), (model, "num_prefix_tokens"))
    )
    if patches is None or prefix is None:
        return None
    tokens = int(patches) + int(prefix)
    weights = torch.ones(tokens)
    weights[:read] = share / (1 - share) * (tokens - read) / read
    return weights
