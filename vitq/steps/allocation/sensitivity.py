"""What a bit-width of one site costs: quantizers for every width, and the loss of allocations of widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitq.device import CPU_ELEMENTS, at_once
from vitq.quant.quantizer import Quantizer
from vitq.quant.site import Site, watching
from vitq.quant.site_table import FP_BITS
from vitq.steps.allocation.budget import Bits
from vitq.steps.allocation.judge import Score, judge_of
from vitq.steps.calibrate import HistogramObserver
from vitq.steps.step import Workspace
from vitq.steps.stream import ImageStream, Stream, through

# Site name → width → fitted quantizer.
Menu = dict[str, dict[int, Quantizer]]


class _WidthsObserver(HistogramObserver):
    """Fits one quantizer for each width to the same histogram."""

    def fit_widths(self, site: Site, widths: Sequence[int]) -> dict[int, Quantizer]:
        original, made = site.quantizer, {}
        histogram = self._histograms.pop(site.name, None)
        if original is None or histogram is None or histogram.layout is None:
            raise ValueError(f"allocate: site {site.name} saw no activation; its segment does not run it")
        distribution = histogram.distribution()
        for width in widths:
            made[width] = at_width(original, width)
            if not made[width].fitted:
                made[width].fit(distribution, histogram.layout)
        return made


def at_width(quantizer: Quantizer, bits: int) -> Quantizer:
    """A quantizer like this one: itself at its own bit-width, else an unfitted one.

    Ranges of each image need the whole network to run, image by image; segments run alone here. Ranges for all images
    are used instead: at the quantizer's own width those that the images' start from, else fitted ones.
    """
    static = quantizer.static()
    return static if bits == static.bits else static.unfitted(bits=bits)


@torch.no_grad()
def menu(work: Workspace, sites: Sequence[Site], widths: Sequence[int]) -> Menu:
    """Quantizers of every width for the given calibrated sites, each with its recipe's range search.

    At the width that a site has, its quantizer stays the one that the recipe's steps made, so that the run's own bits
    everywhere are the recipe itself. Weights are seen as they are, activations in one pass of the whole calibration set
    through the model with all sites off. Sites are on again afterwards where they were on.
    """
    made: Menu = {}
    for site in sites:
        if site.is_weight and site.quantizer is not None:
            made[site.name] = {width: at_width(site.quantizer, width) for width in widths}
            for quantizer in made[site.name].values():
                if not quantizer.fitted:
                    quantizer.fit_tensor(work.model.layer(site).weight)
    inputs: Stream = ImageStream(work)
    observer, segments = _WidthsObserver(), work.model.structure.segments
    with work.model.switched_off():
        for segment in work.progress.over(segments, "fit widths", len(segments)):
            here = [site for site in sites if not site.is_weight and segment.holds(site.owner)]
            with watching(here, observer):
                inputs = through(segment.forward, inputs, work)
            for site in here:
                made[site.name] = observer.fit_widths(site, widths)
    return made


@dataclass(frozen=True)
class _Look:
    """One change that was evaluated, with the inputs of the segments behind it."""

    name: str
    width: int
    loss: float
    later: list[list[Any]]


class Trial:
    """The loss of allocations: mean KL(full precision ‖ quantized) over some calibration images, in nats (`Score`).

    The input of every segment is kept, so that changing one site costs the segments from its own to the last; what such
    a look computed is kept too, and becomes current when that change is taken. Both are exact: no loss is approximated.

    bits, loss: the current allocation, in which FP_BITS is a site that is off, and its loss. evaluations: of the loss,
    since `start`. full: what full precision scores.
    """

    def __init__(self, work: Workspace, choices: Menu, images: int):
        self._work, self._menu = work, choices
        self._segments = work.model.structure.segments
        self._index = {name: self._segment_of(name) for name in choices}
        self._last: _Look | None = None
        chosen = self._images(images)
        batches = [batch for batch, _ in chosen]
        self._judge = judge_of(work, batches, [labels for _, labels in chosen])
        self.full = self._judge.full
        self._inputs: list[list[Any]] = [batches]
        self.evaluations = 0
        self.bits: Bits = {}
        self.loss = float("nan")

    def start(self, bits: Mapping[str, int]) -> float:
        """Make an allocation current; returns its loss."""
        self.bits, self.evaluations = dict(bits), 0
        for name, width in bits.items():
            self._set(name, width)
        score, later = self._run(0)
        self.loss = score.kl
        self._inputs = [self._inputs[0], *later]
        self._last = None
        return self.loss

    def look(self, name: str, width: int) -> float:
        """The loss if site `name` had this width and everything else stayed."""
        self._last = self._look(name, width)
        return self._last.loss

    def score(self, changes: Mapping[str, int]) -> Score:
        """What the model would score if these sites had these widths and everything else stayed."""
        for name, width in changes.items():
            self._set(name, width)
        score, _ = self._run(min(self._index[name] for name in changes))
        for name in changes:
            self._set(name, self.bits[name])
        return score

    def take(self, name: str, width: int) -> float:
        """Make a change current; returns the loss. Costs nothing where it was the last one looked at."""
        last = self._last
        if last is None or (last.name, last.width) != (name, width):
            last = self._look(name, width)
        self._set(name, width)
        self.bits[name] = width
        self.loss = last.loss
        self._inputs = [*self._inputs[: self._index[name] + 1], *last.later]
        self._last = None
        return self.loss

    def _look(self, name: str, width: int) -> _Look:
        self._set(name, width)
        score, later = self._run(self._index[name])
        self._set(name, self.bits[name])
        return _Look(name, width, score.kl, later)

    def _set(self, name: str, width: int) -> None:
        site = self._work.model.sites[name]
        site.on = width != FP_BITS
        if site.on:
            site.quantizer = self._menu[name][width]

    @torch.no_grad()
    def _run(self, first: int) -> tuple[Score, list[list[Any]]]:
        """The score from segment `first` on, and the inputs of the segments behind it."""
        self.evaluations += 1
        current, later = self._inputs[first], []
        for segment in self._segments[first:-1]:
            current = [segment.forward(batch) for batch in current]
            later.append(current)
        return self._judge.score(current), later

    def _segment_of(self, name: str) -> int:
        owner = self._work.model.sites[name].owner
        return next(number for number, segment in enumerate(self._segments) if segment.holds(owner))

    def _images(self, count: int) -> list[tuple[Any, Tensor]]:
        """Images spread evenly over the calibration set, whose order may be by class, with their labels."""
        total = len(self._work.calib)
        chosen = torch.linspace(0, total - 1, min(count, total)).round().long().tolist()
        batches: list[tuple[Any, Tensor]] = []
        for images, labels in self._work.calib.take(chosen).batches(
            self._work.config.calib.batch_size, self._work.device
        ):
            # A detector's image is a batch: boxes are of one image.
            size = at_once(images, CPU_ELEMENTS) if isinstance(images, Tensor) else 1
            batches += [(images[at : at + size], labels[at : at + size]) for at in range(0, len(images), size)]
        return batches


def table(trial: Trial, names: Sequence[str], widths: Sequence[int], work: Workspace) -> dict[str, dict[int, float]]:
    """The loss that each site causes alone at each width, all others in full precision: never negative.

    What quantization does to the logits is close to a sum over sites and the loss close to quadratic in it, so that the
    losses of sites whose errors are independent add up.
    """
    alone: dict[str, dict[int, float]] = {}
    with work.model.switched_off(site for site in work.model.sites.values() if site.name not in names):
        trial.start(dict.fromkeys(names, FP_BITS))
        work.progress.stage("sensitivity", len(names) * len(widths))
        for name in names:
            alone[name] = {}
            for width in widths:
                alone[name][width] = trial.look(name, width)
                work.progress.advance(1, name)
    return alone
