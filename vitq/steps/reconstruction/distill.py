"""Distill: learn parts of all segments of the quantized model together, from the full-precision model's outputs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.steps.hold_out import learned_from, none_left, warn_unjudged
from vitq.steps.reconstruction.compiled import begin, forward_of, pays
from vitq.steps.reconstruction.learn import Learnt
from vitq.steps.reconstruction.loss import divergence
from vitq.steps.reconstruction.object_targets import Cast, ObjectTargets
from vitq.steps.reconstruction.schedule import rate
from vitq.steps.step import OPTIMIZERS, Count, NotNegative, Positive, Step, Workspace, register_step
from vitq.steps.stream import ImageStream, Stream, taught

LOG = logging.getLogger("vitq.steps")
Part = Literal["weights", "bias", "activation_scales", "weight_scales"]
Forward = Callable[[Any], Any]
# A state of three numbers for each learned one is written no more often than this.
_SAVE_SECONDS = 60.0
# Share of an image's area, and its ratio of sides, that a fresh view shows at least and at most.
_AREA, _RATIO = (0.5, 1.0), (3 / 4, 4 / 3)


@register_step("distill")
class Distill(Step):
    """End-to-end distillation: all segments learn at once, so one backward pass serves every layer.

        features·‖F̂ − F‖²/Var(F) + logits·T²·KL(softmax(z/T) ‖ softmax(ẑ/T))

    F: what the last segment reads, all tokens, of the full-precision model; F̂: of the quantized one. Var: over images
    and elements, each from its own mean over the images. z: logits. No labels.

    learn: `weights` (straight-through), `bias`, `activation_scales`, `weight_scales` (of uniform and logarithmic
        quantizers, relative: s = s₀·e^r; of scales that `predict_scales` with fit=distill predicts, the coefficients
        too). lr, lr_bias, lr_scales: their rates; that of scales is a share of the scale.
    iterations, batch_size: Adam without weight decay; `method.iterations` overrides `iterations`. warmup: share of the
        iterations with a rising rate; then a cosine to 0.
    views: `fixed` images, or `crops`: of every image a part of half its area or more, mirrored or not, anew each time,
        which the full-precision model sees too.
    hold_out: share of the calibration images, the last ones, that are not learned from. What was learned is kept if
        KL(full precision ‖ quantized) fell on them; else all is as before, and the log says so. 0: always kept.
    autocast, compile: as in `reconstruct`; a model with predicted scales is not compiled.

    Of a detector F is what its heads read, each tensor by its own variance, and KL its divergence at the boxes of full
    precision (`FixedBoxComparison`), so that the heads learn too; `crops` and temperatures are for classes.

    A killed run goes on from a state that is at most a minute old. Sources: distillation of all layers at once without
    labels is Joint PTQ's (arXiv 2602.18861, abstract alone could be had); feature in front of the head and rates of
    their own for scales GLF-Q's; sum of both losses, relative scales and the guard are ours [I].
    """

    learn: tuple[Part, ...] = ("weights", "bias", "activation_scales", "weight_scales")
    iterations: Count = 100
    batch_size: Count = 16
    lr: NotNegative = 1e-5
    lr_bias: NotNegative = 3e-4
    lr_scales: NotNegative = 3e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    features: NotNegative = 1.0
    logits: NotNegative = 1.0
    temperature: Positive = 1.0
    views: Literal["fixed", "crops"] = "fixed"
    hold_out: Annotated[float, Field(ge=0, lt=1)] = 0.125
    autocast: Literal["none", "bf16"] = "none"
    compile: Literal["auto", "on", "off"] = "auto"
    needs_teacher: ClassVar[bool] = True
    depends_on_bits: ClassVar[bool] = True
    tunes_weights: ClassVar[bool] = True
    detectors: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = OPTIMIZERS

    def check(self, config: RunConfig) -> list[Problem]:
        problems = []
        if not self.learn:
            problems.append(Problem("learn names one part at least; leave the step out, or enabled=false", "learn", ()))
        if not self.features and not self.logits:
            problems.append(bad("features", 0, "one of features and logits is above 0, else nothing is compared"))
        if config.finds_objects and self.views != "fixed":
            why = "boxes of full precision belong to whole images; set it to fixed"
            problems.append(bad("views", self.views, why, ["fixed"]))
        if config.finds_objects and self.temperature != 1:
            why = "of detectors the divergence is taken as it is; set it to 1"
            problems.append(bad("temperature", self.temperature, why, [1]))
        if self.features and not config.finds_objects and config.calib.size < 2:
            why = "the error of features is relative to their variance over images, and one image has none; set it to 0"
            problems.append(bad("features", self.features, why, [0]))
        return problems + none_left(config, self.hold_out)

    def count(self, config: RunConfig) -> int:
        """Iterations."""
        return config.method.course(self.iterations)[0]

    def run(self, work: Workspace) -> None:
        begin(work)
        iterations = self.count(work.config)
        work.progress.stage("distill", iterations)
        sites = [site for site in work.model.quantized() if site.quantizer is not None and site.quantizer.fitted]
        work.model.switch(sites, on=True)
        targets = ImageTargets(work) if work.teacher.comparison is None else ObjectTargets(work)
        learned = learned_from(len(work.calib), self.hold_out)
        held = torch.arange(learned, len(work.calib))
        before = targets.divergence(held)
        with Learnt(work.model, None, sites, self.learn, relative=True) as learnt:
            if learnt.empty:
                LOG.warning(
                    "%s: the network has no %s to learn; nothing is changed", self.name, " and no ".join(self.learn)
                )
                work.progress.advance(iterations, "nothing to learn")
                return
            warn_unjudged(self.name, len(work.calib), self.hold_out)
            kept = [tensor.detach().clone() for tensor in learnt.tensors()]
            with work.progress.iterating():
                losses = self._learn(work, learnt, targets, learned)
            # Not `not after < before`: a loss that is no number is no gain.
            if len(held) and not (after := targets.divergence(held)) < before:
                LOG.warning(
                    "%s: KL to full precision did not fall on the %d calibration images held out (%.4g before, %.4g "
                    "after); nothing is changed. Smaller rates (lr, lr_bias, lr_scales) may help",
                    self.name,
                    len(held),
                    before,
                    after,
                )
                for tensor, value in zip(learnt.tensors(), kept, strict=True):
                    tensor.data.copy_(value)
        work.curves.setdefault("all", []).append(losses)

    def _learn(self, work: Workspace, learnt: Learnt, targets: ImageTargets | ObjectTargets, images: int) -> Tensor:
        """Learn from the first `images` calibration images; the loss of every iteration."""
        iterations, factor = work.config.method.course(self.iterations)
        optimizer = learnt.optimizer(self.lr, self.lr_scales, lr_bias=self.lr_bias, factor=factor)
        rates = [group["lr"] for group in optimizer.param_groups]
        size = min(self.batch_size, images)
        forwards = self._forwards(work, targets, size)
        cast = partial(torch.autocast, work.device.type, dtype=torch.bfloat16, enabled=self.autocast == "bf16")
        done, losses = torch.zeros((), dtype=torch.int64), torch.zeros(iterations, device=work.device)
        state = {"done": done, "losses": losses, **_state(learnt, optimizer)}
        if work.checkpoint and work.checkpoint.restore_state(self.name, state):
            work.progress.advance(int(done), "learned before")
        saved = time.monotonic()
        for number in range(int(done), iterations):
            # Of its own for each iteration: a run that goes on draws what it would have drawn.
            generator = torch.Generator().manual_seed((work.config.seed * 1_000_003 + number) * 31 + 7)
            chosen = torch.randperm(images, generator=generator)[:size]
            optimizer.zero_grad(set_to_none=True)
            if isinstance(targets, ObjectTargets):
                loss = targets.backward(chosen, self.features, self.logits, cast)
            else:
                loss = self._backward(targets, forwards, chosen, generator, cast)
            for group, most in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = most * rate(number, iterations, self.warmup, "cosine")
            optimizer.step()
            losses[number] = loss
            done.add_(1)
            work.progress.advance(1, "all segments")
            if work.checkpoint and time.monotonic() - saved > _SAVE_SECONDS:
                work.checkpoint.save_state(self.name, state)
                saved = time.monotonic()
        if work.checkpoint:
            work.checkpoint.save_state(self.name, state)
        return losses.cpu()

    def _forwards(self, work: Workspace, targets: ImageTargets | ObjectTargets, size: int) -> list[Forward]:
        """Of all segments, for batches of so many images."""
        segments = work.model.structure.segments
        # A predictor hands what it saw from one segment to later ones, which one segment's graph does not show. Images
        # of a detector have their own sizes, a graph for each.
        if work.model.predictor is not None or isinstance(targets, ObjectTargets):
            return [segment.forward for segment in segments]
        elements = targets.features.select(torch.zeros(1, dtype=torch.int64)).numel() * size * len(segments)
        compiled = pays(self.compile, elements, self.count(work.config))
        return [forward_of(segment, compiled) for segment in segments]

    def _backward(
        self,
        targets: ImageTargets,
        forwards: Sequence[Forward],
        chosen: Tensor,
        generator: torch.Generator,
        cast: Cast,
    ) -> Tensor:
        """Loss of the images at some positions, its gradients added up."""
        pixels = targets.images.select(chosen)
        if self.views == "crops":
            pixels = crops(pixels, generator)
            with cast():
                wanted = targets.taught(pixels)
        else:
            wanted = targets.features.select(chosen), targets.logits.select(chosen)
        value = pixels
        given = []
        for forward in forwards:
            with cast():
                value = forward(value)
            given.append(value)
        loss = self._loss(given[-2].float(), given[-1].float(), wanted, targets.variance)
        loss.backward()
        return loss.detach()

    def _loss(self, features: Tensor, logits: Tensor, wanted: tuple[Tensor, Tensor], variance: Tensor) -> Tensor:
        """Scalar. features (B, …, C), logits (B, classes), float32, and what they are to be."""
        loss = torch.zeros((), device=logits.device)
        if self.features:
            loss = loss + self.features * (features - wanted[0].float()).square().mean() / variance
        if self.logits:
            t = self.temperature
            loss = loss + self.logits * t * t * divergence(wanted[1].float(), logits, t)
        return loss


class ImageTargets:
    """What the full-precision model gives for the calibration images.

    images, features, logits: streams of the images, of what the last segment reads and of what it gives. variance: of
    the features, scalar.
    """

    def __init__(self, work: Workspace):
        self._work = work
        self.images: Stream = ImageStream(work)
        self.features: Stream = self.images
        self.logits: Stream = self.images
        for index in range(len(work.teacher.segments)):
            self.features, self.logits = self.logits, taught(work, index, self.logits)
        self.variance = _variance(self.features)

    @torch.no_grad()
    def taught(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of other images."""
        features = value = pixels
        for segment in self._work.teacher.segments:
            features, value = value, segment.forward(value)
        return features, value

    @torch.no_grad()
    def divergence(self, chosen: Tensor) -> float:
        """Mean KL(full precision ‖ quantized) over some images, nats; NaN for none."""
        parts = [
            divergence(self.logits.select(part), self._work.model(self.images.select(part))) * len(part)
            for part in chosen.split(self._work.config.calib.batch_size)
            if len(part)
        ]
        return float(torch.stack(parts).sum() / len(chosen)) if parts else float("nan")


def crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """A view of each image (B, 3, S, S), resized to S bilinearly: of `_AREA` and `_RATIO`, mirrored or not."""
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area, ratio = draw(*_AREA), draw(*_RATIO)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    mirrored = torch.where(draw(0, 1) < 0.5, -width, width)
    zero = torch.zeros(count)
    rows = torch.stack([torch.stack([mirrored, zero, left], -1), torch.stack([zero, height, top], -1)], 1)
    grid = F.affine_grid(rows.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _variance(stream: Stream) -> Tensor:
    """Mean squared distance of the elements from their mean over all images."""
    mean = sum(batch.sum(dim=0) for batch in stream.batches()) / len(stream)
    total = sum((batch - mean).square().mean() * len(batch) for batch in stream.batches()) / len(stream)
    return torch.as_tensor(total).clamp(min=torch.finfo(torch.float32).tiny)


def _state(learnt: Learnt, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Learned tensors and Adam's moments of them, by name; changed in place by what goes on."""
    state: dict[str, Tensor] = {}
    for index, tensor in enumerate(learnt.tensors()):
        optimizer.state[tensor] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(tensor),
            "exp_avg_sq": torch.zeros_like(tensor),
        }
        state |= {f"{index}.{name}": value for name, value in optimizer.state[tensor].items()}
        state[f"{index}.value"] = tensor.data
    return state
