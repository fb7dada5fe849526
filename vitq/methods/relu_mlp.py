"""MLP reconstruction (APHQ-ViT): GELU becomes ReLU, and the MLP learns to do what it did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from timm.layers import Mlp
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.models.structure import Structure
from vitq.quant.histogram import Histogram
from vitq.quant.layout import Axes, Layout
from vitq.steps.reconstruction import object_curvature as objects
from vitq.steps.reconstruction.curvature import Direction, shared_importance
from vitq.steps.reconstruction.schedule import rate
from vitq.steps.reconstruction.segment_task import batches
from vitq.steps.step import Count, Network, NotNegative, Positive, Step, Workspace, register_step
from vitq.steps.stream import ImageStream, Stream, TensorStream, taught
from vitq.steps.value_stream import ValueStream
from vitq.steps.waiting import Waiting

# Steps that change weights and leave MLPs the inputs that they have in the full-precision network.
_SAME_INPUTS = ("rotate", "centre")
# What an MLP reads or gives, for all images.
Seen = TensorStream | ValueStream


@register_step("relu_mlp")
class ReluMlp(Step):
    """Each MLP's GELU is replaced by ReLU, and fc1 and fc2 learn its output again, in floating point.

        L = E[w·(f(x) − y)²] + clamped·E[w·(f_c(x) − y)²]

    x, y: what the MLP reads and gives in the full-precision network; f: the MLP with ReLU, f_c with its hidden values
    clamped at c, the `percentile` of the positive hidden values behind GELU. So what fc2 reads has no negative values,
    its zero point is 0, and few values lie far out. Every MLP learns by itself; the full-precision network of later
    steps keeps GELU. w: 1, or where `weighted` the segment's average perturbation Hessian (perturbation_hessian.py,
    with its options) by its RMS, where the MLP's output has its shape. Adam without weight decay, cosine to 0;
    `method.iterations` overrides `iterations`.

    percentile: public code has 0.99 at three bits of activation, 0.98 at four and two. Source: APHQ-ViT, its public
    code (Apache-2, facts alone); GLF-Q does the same without weights.

    Of a detector E is the mean over images of each one's mean, and w is each image's own.
    """

    iterations: Count = 20000
    batch_size: Count = 32
    lr: NotNegative = 4e-5
    clamped: NotNegative = 2.0
    percentile: Annotated[float, Field(gt=0, le=1)] = 0.98
    weighted: bool = True
    temperature: Positive = 20.0
    direction: Direction = "signs"
    epsilon: Positive | None = None
    changes_weights: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    detectors: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        if self.weighted and self.epsilon is not None and config.finds_objects:
            return [bad("epsilon", self.epsilon, "of detectors H·v is taken exactly; set it to null", [None])]
        if not self.weighted or config.task != "features":
            return []
        text = f"weighted=true: KL for task={config.task} is not taken yet; set weighted=false"
        return [Problem(text, "weighted", True, [False])]

    def check_network(self, network: Network) -> list[Problem]:
        if any(True for _ in gelu_mlps(network.model.structure)):
            return []
        family = network.model.structure.family
        text = f"no MLP of the family {family!r} has a plain GELU between fc1 and fc2; leave the step out"
        return [Problem(text, value=family)]

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        problems = super().check_order(before, behind)
        early = [step for step in before if step.fits() or (step.changes_weights and step.do not in _SAME_INPUTS)]
        if early:
            text = (
                f"learns on what MLPs of the full-precision network read; {early[0].name} before it folds it, or fits "
                "ranges to it: move it behind"
            )
            problems.append(Problem(text, value=early[0].name))
        for step in behind:
            if step.do in ("bias_correction", "channel_affine"):
                text = (
                    f"{step.name} behind it compares layers with those of the network with GELU; leave one of them out"
                )
                problems.append(Problem(text, value=step.name))
        return problems

    def rebuild(self, structure: Structure) -> None:
        for _, mlp in gelu_mlps(structure):
            mlp.act = nn.ReLU()

    def count(self, config: RunConfig) -> int:
        """Iterations for each MLP."""
        return config.method.course(self.iterations)[0]

    def run(self, work: Workspace) -> None:
        names = [name for name, _ in gelu_mlps(work.model.structure)]
        self.rebuild(work.model.structure)
        work.progress.stage("relu_mlp", len(names) * self.count(work.config))
        exact: Stream = ImageStream(work)
        number = 0
        with work.model.switched_off():
            for index, segment in enumerate(work.model.structure.segments):
                target = taught(work, index, exact)
                here = [name for name in names if segment.holds(name)]
                curve = work.checkpoint.restore(self.name, segment, work.model) if here and work.checkpoint else None
                if curve is None and here:
                    weight = self._weight(work, index, exact, target) if self.weighted else None
                    curves = []
                    for name in here:
                        curves.append(learn_mlp(self, work, name, *seen(work, index, exact, name), weight, number))
                        number += 1
                    curve = torch.cat(curves)
                    del weight  # it does not wait beside the next segment's
                    if work.checkpoint:
                        work.checkpoint.save(self.name, segment, work.model, curve)
                elif here:
                    work.progress.advance(len(here) * self.count(work.config), f"{segment.name} was finished before")
                    number += len(here)
                if curve is not None:
                    work.curves.setdefault(segment.name, []).append(curve)
                exact = target

    def waiting(self, network: Network, waiting: Waiting) -> int:
        """Of one network; beside a segment's inputs and outputs its weights, and what one MLP reads and gives."""
        names = [name for name, _ in gelu_mlps(network.model.structure)]
        most = 0
        for index, segment in enumerate(network.model.structure.segments):
            own = [waiting.read[name] + waiting.given[name] for name in names if segment.holds(name)]
            weights = waiting.made[index] if own and self.weighted else 0
            most = max(most, waiting.inputs[index] + waiting.outputs[index] + weights + max(own, default=0))
        return most * waiting.images

    def _weight(self, work: Workspace, index: int, exact: Stream, target: Stream) -> Tensor | ValueStream | None:
        """One for all images; of a detector those of each image."""
        if index == len(work.teacher.segments) - 1:
            return None
        if work.teacher.comparison is not None:
            weights = objects.importance(work, index, exact, target, self.temperature, self.direction)
            square = sum(part.square().sum(dtype=torch.float64) for image in weights.batches() for part in image)
            weights.scale(1 / max(float(square / weights.elements()) ** 0.5, torch.finfo(torch.float32).tiny))
            return weights
        weight = shared_importance(work, index, target, self.temperature, self.direction, self.epsilon)
        return weight / weight.square().mean().sqrt().clamp(min=torch.finfo(weight.dtype).tiny)


def gelu_mlps(structure: Structure) -> Iterator[tuple[str, Mlp]]:
    """MLPs (name, module) of fc1, GELU and fc2 with nothing else between, in the order of the model."""
    for layer, kind in structure.inputs.items():
        name, _, leaf = layer.rpartition(".")
        if kind != "post_gelu" or leaf != "fc2":
            continue
        module = structure.model.get_submodule(name)
        if isinstance(module, Mlp) and isinstance(module.norm, nn.Identity):
            yield name, module


@torch.no_grad()
def seen(work: Workspace, index: int, inputs: Stream, name: str) -> tuple[Seen, Seen]:
    """What a module of segment `index` reads and gives in the full-precision network, for all calibration images: of a
    detector a tuple of one tensor for each image."""
    segment, read, given = work.teacher.segments[index], _stream(work, len(inputs)), _stream(work, len(inputs))

    def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        for stream, tensor in ((read, args[0]), (given, output)):
            if isinstance(stream, ValueStream):
                stream.append((tensor,))
            else:
                stream.append(tensor)

    with work.teacher.model.get_submodule(name).register_forward_hook(keep):
        for batch in inputs.batches():
            segment.forward(batch)
    return read, given


def _stream(work: Workspace, count: int) -> Seen:
    return TensorStream(work, count) if work.teacher.comparison is None else ValueStream(work, count)


def _tensor(value: Any) -> Tensor:
    tensor: Tensor = value[0] if isinstance(value, tuple) else value
    return tensor


@torch.no_grad()
def bound(mlp: Mlp, inputs: Stream, percentile: float) -> float:
    """The percentile of the positive hidden values behind GELU."""
    histogram, layout = Histogram(), Layout.of("tensor", Axes(channel=-1), (1,))
    for batch in inputs.batches():
        hidden = mlp.act(mlp.fc1(_tensor(batch)))
        histogram.update(hidden[hidden > 0], layout)
    return float(histogram.distribution().quantile(percentile))


def learn_mlp(
    step: ReluMlp,
    work: Workspace,
    name: str,
    inputs: Seen,
    outputs: Seen,
    weight: Tensor | ValueStream | None,
    number: int,
) -> Tensor:
    """Learn one MLP in place; the losses of its iterations (iterations,). number: of the MLP, for its batches."""
    student: Any = work.model.model.get_submodule(name)
    teacher: Any = work.teacher.model.get_submodule(name)
    most = bound(teacher, inputs, step.percentile)
    iterations, factor = work.config.method.course(step.iterations)
    work.model.requires_grad_(False)
    learned = [p.requires_grad_(True) for layer in (student.fc1, student.fc2) for p in layer.parameters(recurse=False)]
    optimizer = torch.optim.Adam(learned, lr=step.lr * factor)
    generator = torch.Generator().manual_seed(work.config.seed * 1_000_003 + 700_001 + number)
    losses = []
    with ExitStack() as stack:
        stack.callback(lambda: [p.requires_grad_(False) for p in learned])
        stack.enter_context(work.progress.iterating())
        for iteration, chosen in enumerate(batches(len(inputs), step.batch_size, iterations, generator)):
            optimizer.zero_grad(set_to_none=True)
            # Images of several sizes go through one at a time.
            parts = chosen.split(1) if isinstance(inputs, ValueStream) else (chosen,)
            loss = torch.zeros((), device=work.device)
            for part in parts:
                wanted, hidden = _tensor(outputs.select(part)), student.act(student.fc1(_tensor(inputs.select(part))))
                # Swin's MLPs read a map as a row of its tokens.
                own = _tensor(weight.select(part)).view(wanted.shape[1:]) if isinstance(weight, ValueStream) else weight
                apart = torch.zeros((), device=wanted.device)
                for share, values in ((1.0, hidden), (step.clamped, hidden.clamp(max=most))):
                    error = (student.fc2(values) - wanted).square()
                    fits = own is not None and own.shape == error.shape[1:]
                    apart = apart + share * (error * own if fits else error).mean()
                (apart / len(parts)).backward()
                loss += apart.detach() / len(parts)
            for group in optimizer.param_groups:
                group["lr"] = step.lr * factor * rate(iteration, iterations, 0.0, "cosine")
            optimizer.step()
            losses.append(loss)
            work.progress.advance(1, name)
        return torch.stack(losses).cpu()
