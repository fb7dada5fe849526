"""Landscape: the loss around the quantized model, and between it and full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, SupportsFloat

import numpy as np
import torch

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.probes import landscape_block, landscape_scalars
from vitq.probes.budget import PartialResults
from vitq.probes.directions import MovedParameters, filter_normalized, inner, minus
from vitq.probes.landscape_anchors import AnchorModels, anchors
from vitq.probes.probe import Probe, register_probe
from vitq.probes.probed_model import Subject, switched
from vitq.steps.step import enabled_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

View = Literal["random", "path", "block"]


@register_probe("landscape")
class Landscape(Probe):
    """Mean cross-entropy on the probe images, in nats, over planes and lines in the space of weights.

    views:
        `random`: points × points around the quantized model along two filter-normalized random directions (Li et al.
            2018), from −span to span. Biases, norms and embeddings stay.
        `path`: line_points from the full-precision weights to those rounded to nearest, with activations quantized as
            in the run, and in floating point; and where the recipe learned weights, points × points in the plane
            through full precision, rounded and learned weights, in the quantized model's coordinates.
        `block`: reconstruction loss of one block over the scale of its post-LayerNorm activations and its weights,
            channel-wise against tensor-wise (landscape_block.py); `block` names it (default: the middle one). Left out
            where the run quantizes no post-LayerNorm activation and none is named.
    perturb: `latent` moves the weights in front of their quantizers, which round them again: the run's loss as a
        function of its weights; `dequantized` moves their quantized values, which then are rounded no more.
    scale_span, weight_span: of the view `block`. radius: of the sharpness, in the axes' unit (default: half the span).
    seed: of the directions: the same for every run, so that pictures can be laid side by side.
    """

    views: tuple[View, ...] = ("random", "path", "block")
    points: int = 21
    line_points: int = 21
    span: float = 1.0
    perturb: Literal["latent", "dequantized"] = "latent"
    block: str | None = None
    block_points: int = 21
    scale_span: float = 0.5
    weight_span: float = 0.5
    radius: float | None = None
    seed: int = 0

    def check(self, config: RunConfig) -> list[Problem]:
        problems = []
        for name in ("points", "block_points"):
            value = getattr(self, name)
            if value < 3 or value % 2 == 0:
                why = "an odd number of at least 3 is needed, so that the middle is a point"
                problems.append(bad(name, value, why))
        if self.line_points < 3:
            problems.append(bad("line_points", self.line_points, "at least 3 are needed"))
        for name in ("span", "weight_span"):
            if getattr(self, name) <= 0:
                text = f"{name}={getattr(self, name):g}; a number above 0 is needed"
                problems.append(Problem(text, name, getattr(self, name)))
        if not 0 < self.scale_span < 1:
            text = f"scale_span={self.scale_span:g}; scales stay positive with 0 < scale_span < 1"
            problems.append(Problem(text, "scale_span", self.scale_span))
        if not self.views:
            valid = ("random", "path", "block")
            problems.append(Problem(f"views names at least one of {', '.join(valid)}", "views", (), valid))
        return problems

    def passes(self, config: RunConfig) -> float:
        total = 0.0
        quantizes = config.method.quantizes
        if "random" in self.views:
            total += self.points**2
        if "path" in self.views and quantizes:
            learns = any(step.tunes_weights for step in enabled_steps(config))
            total += 2 * self.line_points + learns * self.points**2
        if "block" in self.views and quantizes:
            total += 2 * self.block_points**2 / 12  # a dozen blocks is what most models have
        return total

    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        if "random" in self.views:
            arrays |= self._random(subject, partial)
        if subject.config.method.quantizes:
            if "path" in self.views:
                arrays |= self._path(subject, partial)
            if "block" in self.views and (self.block or _post_norm(subject)):
                arrays |= self._block(subject, partial)
        return arrays

    def _random(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        x = landscape_scalars.axis(self.points, self.span)
        latent = self.perturb == "latent"
        weights = {f"{name}.weight": layer.weight.detach() for name, layer in subject.model.layers().items()}
        if not latent:
            weights = dequantized(subject)
        directions = [filter_normalized(weights, 2 * self.seed + i) for i in (0, 1)]
        with (
            MovedParameters(subject.model.model, weights, directions) as moved,
            switched(subject.model, weights=latent),
        ):
            values = fill(partial, "random", (self.points, self.points), lambda j, i: _at(moved, subject, x[i], x[j]))
        scalars = landscape_scalars.of_plane("random", x, x, values, self.radius or self.span / 2)
        return {"random.axis": x, "random.loss": values, **scalars}

    def _path(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        points = anchors(subject)
        t = np.linspace(0.0, 1.0, self.line_points)
        arrays = {"path.axis": t}
        for name, activations in (("quantized", None), ("fp", False)):
            with (
                MovedParameters(subject.model.model, points.full, [minus(points.rounded, points.full)]) as moved,
                switched(subject.model, weights=False, activations=activations),
            ):
                values = fill(partial, f"path.{name}", t.shape, lambda i, m=moved: _at(m, subject, t[i]))
            arrays |= {
                f"path.{name}": values,
                f"path.scalar.barrier_{name}": np.array(landscape_scalars.barrier(values)),
            }
        return arrays | (self._plane(subject, points, partial) if points.learned else {})

    def _plane(self, subject: Subject, points: AnchorModels, partial: PartialResults) -> dict[str, np.ndarray]:
        """Full precision is the origin, rounded lies on the first axis; both axes have length 1 in weight space."""
        first, second = minus(points.rounded, points.full), minus(points.final, points.full)
        length = inner(first, first) ** 0.5
        first = {name: tensor / length for name, tensor in first.items()}
        along = inner(first, second)
        second = {name: tensor - along * first[name] for name, tensor in second.items()}
        height = inner(second, second) ** 0.5
        second = {name: tensor / height for name, tensor in second.items()}
        corners = np.array([[0.0, 0.0], [length, 0.0], [along, height]])
        low, high = corners.min(axis=0), corners.max(axis=0)
        margin = 0.25 * (high - low)
        x, y = np.linspace(low - margin, high + margin, self.points).T
        with (
            MovedParameters(subject.model.model, points.full, [first, second]) as moved,
            switched(subject.model, weights=False),
        ):
            values = fill(partial, "plane", (self.points, self.points), lambda j, i: _at(moved, subject, x[i], y[j]))
            steps = np.linspace(0.0, 1.0, self.line_points)
            line = fill(
                partial, "plane.line", steps.shape, lambda i: _at(moved, subject, *(steps[i] * corners[2]).tolist())
            )
        return {
            "plane.x": x,
            "plane.y": y,
            "plane.loss": values,
            "plane.anchors": corners,
            "plane.line": line,
            "plane.scalar.barrier": np.array(landscape_scalars.barrier(line)),
            "plane.scalar.roughness": np.array(landscape_scalars.roughness(values)),
        }

    def _block(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        x, y = (landscape_scalars.axis(self.block_points, span) for span in (self.scale_span, self.weight_span))
        name, losses = landscape_block.landscapes(subject, self.block, x, y, self.seed, partial)
        arrays = {"block.scale": x, "block.weight": y, "block.name": np.array(name)}
        middle = self.block_points // 2
        for granularity, values in losses.items():
            prefix = f"block.{granularity}"
            # One axis is relative to the scales, the other to the weights' norms: both are shares.
            radius = self.radius or min(self.scale_span, self.weight_span) / 2
            arrays |= {prefix: values, f"{prefix}.scalar.loss": np.array(values[middle, middle])}
            arrays |= landscape_scalars.of_plane(prefix, x, y, values, radius)
        return arrays

    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        from vitq.plots.landscape import draw

        return draw(arrays, title)


def _post_norm(subject: Subject) -> bool:
    """Whether the block that is taken where none is named has a post-LayerNorm quantizer: not where A is in fp."""
    segments = subject.model.structure.segments
    segment = next(s for s in segments if s.name == landscape_block.middle(segments))
    return any(s.kind == "post_norm" and segment.holds(s.owner) for s in subject.model.quantized())


def fill(partial: PartialResults, name: str, shape: tuple[int, ...], at: Callable[..., float]) -> np.ndarray:
    """A grid of losses: `at(*index)` is asked for what `partial` does not have. A loss that overflows is infinite."""
    values = partial.array(name, shape)
    for index in np.argwhere(np.isnan(values)).tolist():
        loss = at(*index)
        values[tuple(index)] = np.inf if np.isnan(loss) else loss
        partial.tick(name)
    return values


def _at(moved: MovedParameters, subject: Subject, *coordinates: SupportsFloat) -> float:
    moved.to(*map(float, coordinates))
    return subject.loss()


@torch.no_grad()
def dequantized(subject: Subject) -> dict[str, torch.Tensor]:
    """The layers' weights as their quantizers give them, by parameter name."""
    return {
        f"{name}.weight": layer.weight_site(layer.weight).detach() for name, layer in subject.model.layers().items()
    }
