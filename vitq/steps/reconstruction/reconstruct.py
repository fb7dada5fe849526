"""Reconstruct: learn parts of the quantized model segment by segment, so that its outputs match full precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vitq.config import RunConfig
from vitq.device import at_once
from vitq.errors import Problem, bad
from vitq.steps.reconstruction.compiled import begin, forward_of, pays
from vitq.steps.reconstruction.fisher import gradients
from vitq.steps.reconstruction.image_by_image import backward, image_of
from vitq.steps.reconstruction.learn import Learnt, contradictions, learnable
from vitq.steps.reconstruction.loss import FISHER, LOSSES, weights_of
from vitq.steps.reconstruction.objective import OBJECTIVES, Measure, kept_by, objective_of
from vitq.steps.reconstruction.qdrop import Dropping
from vitq.steps.reconstruction.schedule import anneal, schedule_of
from vitq.steps.reconstruction.segment_task import SegmentTask, batches
from vitq.steps.step import OPTIMIZERS, Count, Network, NotNegative, Share, Step, Workspace, register_step
from vitq.steps.stream import ImageStream, Stream, taught, through
from vitq.steps.value_stream import ValueStream
from vitq.steps.waiting import Waiting

Group = Literal["weights", "activations"]
# Sixteen images of a DeiT-tiny block: an iteration takes five sixths of the time that it takes with 64 at once.
SEGMENT_ELEMENTS = 16 * 197 * 192
Part = Literal["weights", "bias", "rounding", "activation_scales", "weight_scales", "zero_points"]


@register_step("reconstruct")
class Reconstruct(Step):
    """Block-wise reconstruction (BRECQ, QDrop, I&S-ViT): minimize loss(segment(input), target), one segment at a time.

    The target is the output of the untouched full-precision model. Streams are advanced segment by segment, so L
    segments cost O(L) evaluations; public code reruns the network from its first layer for each segment.

    quantize: which sites are on while learning, and stay on; others that were on before are on again afterwards.
    learn: `weights`, `bias` (straight-through gradients), `rounding` (AdaRound), `activation_scales`, `weight_scales`,
        `zero_points` of activations that are not `symmetric` (LSQ gradients).
    input: what the segment reads: `fp`, the full-precision network's activations; `quantized`, those of the quantized
        network; `qdrop`, the latter with each element replaced by the former with probability `drop`, and each element
        of an activation inside left unquantized with that probability (drop_at: `everywhere`; `input`: not inside).
    loss: see loss.py; or one of OBJECTIVES, relative to its first value (objective.py), with options `loss_options`.
        weigh_by: whose imbalance weighs the loss `token_channel`: that of the full-precision `targets`, or that of the
        `inputs` that the segment reads.
    iterations, batch_size, schedule, warmup: Adam without weight decay for each segment; warmup is a share of the
        iterations. `method.iterations` overrides `iterations`. lr: weights and biases; lr_scales: scales;
        lr_zero_points: zero points, in codes, about so many an iteration; where they cannot travel half a code they
        stay the whole numbers that they were, so `learn` with zero_points wants it given. lr_rounding: rounding,
        constant whatever the schedule (as in public BRECQ and QDrop code: with a rate that falls to zero the last
        roundings stay undecided). Its regularizer weighs `rounding_weight` and anneals β from 20 to 2 after a fifth of
        the iterations, along a `cosine` (AdaRound) or a line (BRECQ, QDrop).
    relative: scales are learned as s₀·e^r, those of logarithms too; `lr_scales` is a share of the scale then.
    autocast: `bf16` runs the segment under bfloat16 autocast; parameters, quantizers and loss stay float32.
    micro_batch: so many images of a batch go through the segment at once, gradients add up; none means the whole batch,
        and on a CPU SEGMENT_ELEMENTS of the segment's input, so that attention scores stay in the cache. The result
        does not depend on it but for the last bits of sums.
    compile: torch.compile for the segment; `auto` where the iterations are worth its seconds (compiled.py).

    Dropout and stochastic depth are off (public I&S-ViT code leaves Swin's stochastic depth on). Every segment has its
    own seed, so the result does not depend on what else this process computed.
    """

    quantize: tuple[Group, ...] = ("weights", "activations")
    learn: tuple[Part, ...] = ("weights", "bias")
    input: Literal["fp", "quantized", "qdrop"] = "quantized"
    drop: Share = 0.5
    drop_at: Literal["everywhere", "input"] = "everywhere"
    loss: str = "mse"
    loss_options: dict[str, Any] = field(default_factory=dict)
    weigh_by: Literal["targets", "inputs"] = "targets"
    iterations: Count = 1000
    batch_size: Count = 64
    lr: NotNegative = 4e-5
    lr_scales: NotNegative = 4e-5
    lr_zero_points: float | None = None
    relative: bool = False
    lr_rounding: NotNegative = 1e-3
    rounding_weight: NotNegative = 0.01
    annealing: Literal["cosine", "linear"] = "cosine"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    autocast: Literal["none", "bf16"] = "none"
    micro_batch: int | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    needs_teacher: ClassVar[bool] = True
    depends_on_bits: ClassVar[bool] = True
    tunes_weights: ClassVar[bool] = True
    detectors: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = OPTIMIZERS

    def check(self, config: RunConfig) -> list[Problem]:
        problems: list[Problem] = []
        known = sorted([*LOSSES, *OBJECTIVES])
        if self.loss not in known:
            problems.append(Problem(f"loss={self.loss!r}; valid: {', '.join(known)}", "loss", self.loss, known))
        else:
            objective, wrong = objective_of(self.loss, self.loss_options)
            problems += wrong if objective is None else objective.check(config)
        if config.task == "features" and self.loss in (*FISHER, *OBJECTIVES):
            valid = [loss for loss in known if loss not in (*FISHER, *OBJECTIVES)]
            text = f"loss={self.loss} weighs with the gradient of class probabilities; valid: {', '.join(valid)}"
            problems.append(Problem(text, "loss", self.loss, valid))
        if self.micro_batch is not None and self.micro_batch < 1:
            problems.append(bad("micro_batch", self.micro_batch, "a number of images, at least 1, or null"))
        if self.lr_zero_points is not None and self.lr_zero_points < 0:
            problems.append(bad("lr_zero_points", self.lr_zero_points, "a learning rate is not negative"))
        if not self.learn or not self.quantize:
            text = "learn and quantize name at least one part each; leave the step out, or enabled=false"
            problems.append(Problem(text, "learn" if not self.learn else "quantize", ()))
        if "zero_points" in self.learn and self.lr_zero_points is None:
            text = (
                "learn names zero_points, lr_zero_points is missing: they are whole codes and want a rate of their "
                f"own, e.g. lr_zero_points={2 / self.count(config):.2g}, which lets them travel about one code"
            )
            problems.append(Problem(text, "lr_zero_points"))
        if self.relative and "zero_points" in self.learn:
            text = "relative=true keeps zero points; take zero_points out of learn"
            problems.append(Problem(text, "relative", True, [False]))
        return problems + contradictions(self.learn, self.quantize)

    def check_network(self, network: Network) -> list[Problem]:
        """Parts to learn that no quantizer has, although what `quantize` names is fitted."""
        sites = [
            site for site in network.fitted(self) if ("weights" if site.is_weight else "activations") in self.quantize
        ]
        problems = []
        for part in self.learn:
            part_sites = [site for site in sites if site.is_weight == (part in ("rounding", "weight_scales"))]
            if (
                part not in ("weights", "bias")
                and part_sites
                and not any(learnable(part, site, self.relative) for site in part_sites)
            ):
                asked = "uniform quantizers that are not symmetric" if part == "zero_points" else "uniform quantizers"
                kinds = ", ".join(dict.fromkeys(site.kind for site in part_sites))
                text = f"learn names {part}: {asked} have them, none of {kinds} does; leave {part} out"
                problems.append(Problem(text, "learn", part))
        return problems

    def count(self, config: RunConfig) -> int:
        """Iterations for each segment."""
        return config.method.course(self.iterations)[0]

    def run(self, work: Workspace) -> None:
        begin(work)
        before = [site for site in work.model.sites.values() if site.on]
        chosen = [
            site
            for site in work.model.quantized()
            if ("weights" if site.is_weight else "activations") in self.quantize
            # A kind whose fitting step is switched off stays in floating point.
            and site.quantizer is not None
            and site.quantizer.fitted
        ]
        work.model.switch(work.model.sites.values(), on=False)
        segments = work.model.structure.segments
        work.progress.stage("reconstruct", len(segments) * self.count(work.config))
        exact: Stream = ImageStream(work)
        noisy: Stream = exact
        slopes: list[Stream | None] = list(gradients(work)) if self.loss in FISHER else [None] * len(segments)
        for index, segment in enumerate(segments):
            here = [site for site in chosen if segment.holds(site.owner)]
            target = taught(work, index, exact)
            work.model.switch(here, on=True)
            # A segment without quantized sites meets its target already.
            if here and segment.learned:
                self._learn_or_restore(work, SegmentTask(index, segment, here, exact, noisy, target, slopes[index]))
            else:
                work.progress.advance(self.count(work.config), segment.name)
            if self.input != "fp":
                noisy = through(segment.forward, noisy, work)
            work.model.switch(here, on=False)
            slopes[index] = None
            exact = target
            if self.input == "fp":
                noisy = exact
        work.model.switch([*before, *chosen], on=True)

    def waiting(self, network: Network, waiting: Waiting) -> int:
        kept = kept_by(self.loss, self.loss_options, network, waiting)
        return waiting.images * waiting.learning(1 if self.input == "fp" else 2, kept, self.loss in FISHER)

    def _learn_or_restore(self, work: Workspace, task: SegmentTask) -> None:
        name = task.segment.name
        curve = work.checkpoint.restore(self.name, task.segment, work.model) if work.checkpoint else None
        if curve is not None:
            work.progress.advance(self.count(work.config), f"{name} was finished before")
        else:
            curve = learn_segment(self, work, task)
            if work.checkpoint:
                work.checkpoint.save(self.name, task.segment, work.model, curve)
        work.curves.setdefault(name, []).append(curve)


def learn_segment(step: Reconstruct, work: Workspace, task: SegmentTask) -> Tensor:
    """Optimize one segment in place. Returns the loss of every iteration, empty where there is nothing to learn."""
    segment, (iterations, factor) = task.segment, work.config.method.course(step.iterations)
    objective, _ = objective_of(step.loss, step.loss_options)
    measure = None if objective is None else objective.begin(work, task)
    seed = work.config.seed * 1_000_003 + task.index
    generator = torch.Generator().manual_seed(seed)
    # Masks as large as the inputs are drawn where the inputs are; apart from those that `Dropping` draws there.
    masks = generator if work.device.type == "cpu" else torch.Generator(work.device).manual_seed(seed + 500_000)
    with ExitStack() as stack:
        learnt = stack.enter_context(Learnt(work.model, segment, task.sites, step.learn, step.relative))
        if learnt.empty:
            work.progress.advance(iterations, segment.name)
            return torch.zeros(0)
        optimizer = learnt.optimizer(step.lr, step.lr_scales, step.lr_zero_points, step.lr_rounding, factor=factor)
        schedule = schedule_of(optimizer, iterations, step.warmup, step.schedule)
        dropping = None
        if step.input == "qdrop" and step.drop_at == "everywhere":
            dropping = stack.enter_context(Dropping(task.sites, step.drop, work.device, seed))
        losses = []
        one_by_one = isinstance(task.target, ValueStream)
        one = 0 if one_by_one else task.exact.select(torch.zeros(1, dtype=torch.int64)).numel()
        compiled = pays(step.compile, one * min(step.batch_size, len(task.exact)), iterations)
        forward = segment.forward if one_by_one else forward_of(segment, compiled)
        cast = partial(torch.autocast, work.device.type, dtype=torch.bfloat16, enabled=step.autocast == "bf16")
        stack.enter_context(work.progress.iterating())
        for number, chosen in enumerate(batches(len(task.target), step.batch_size, iterations, generator)):
            optimizer.zero_grad(set_to_none=True)
            if measure is not None and measure.due(number, iterations):
                if dropping:
                    dropping.hide()
                measure.refresh()
                measure.first = None
            if one_by_one:
                drop = step.drop if step.input == "qdrop" else None
                images = (image_of(task, index, drop, masks) for index in chosen.split(1))
                loss = backward(segment, images, len(chosen), step.loss, step.weigh_by, dropping, cast, measure)
            else:
                loss = _backward(step, task, forward, chosen, masks, dropping, cast, measure)
            beta = anneal(number / iterations, step.annealing)
            if learnt.roundings and beta is not None:
                penalty = step.rounding_weight * torch.stack([r.regularizer(beta) for r in learnt.roundings]).sum()
                penalty.backward()
                loss += penalty.detach()
            optimizer.step()
            schedule.step()
            losses.append(loss)
            work.progress.advance(1, segment.name)
        return torch.stack(losses).cpu()


def _backward(
    step: Reconstruct,
    task: SegmentTask,
    forward: Callable[[Tensor], Tensor],
    chosen: Tensor,
    masks: torch.Generator,
    dropping: Dropping | None,
    cast: Callable[[], AbstractContextManager[object]],
    measure: Measure | None,
) -> Tensor:
    """Loss of the images at some positions, int64 (B,), its gradients added up."""
    inputs, wanted = task.noisy.select(chosen), task.target.select(chosen)
    if step.input == "qdrop":
        keep = torch.rand(inputs.shape, generator=masks, device=inputs.device) < step.drop
        inputs = torch.where(keep, task.exact.select(chosen), inputs)
    if dropping:
        dropping.draw(task.segment.forward, inputs)
    weights = weights_of(step.loss, inputs, wanted, step.weigh_by)
    given = weights if task.gradient is None else task.gradient.select(chosen)
    size = step.micro_batch or at_once(inputs, SEGMENT_ELEMENTS)
    parts = [slice(first, min(first + size, len(inputs))) for first in range(0, len(inputs), size)]

    def output(here: slice) -> Tensor:
        if dropping:
            dropping.show(here.start, size)
        with cast():
            return forward(inputs[here]).float()

    def terms(here: slice) -> Tensor:
        assert measure is not None
        share: float = (here.stop - here.start) / len(inputs)
        return measure.terms(output(here), wanted[here], chosen[here]) * share

    if measure is not None and measure.relative and measure.first is None:
        with torch.no_grad():
            measure.first = torch.stack([terms(here) for here in parts]).sum(dim=0)
    loss = torch.zeros((), device=inputs.device)
    for here in parts:
        if measure is not None:
            share = measure.loss(terms(here))
        else:
            share = LOSSES[step.loss](output(here), wanted[here], None if given is None else given[here])
            share = share * ((here.stop - here.start) / len(inputs))
        share.backward()
        loss += share.detach()
    return loss
