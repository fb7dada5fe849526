"""Calibrate: observe what passes the sites and search the ranges of their quantizers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vitq.config import FULL_KINDS, KINDS, RunConfig
from vitq.errors import Problem, bad, problem_of, unknown
from vitq.quant.histogram import Histogram
from vitq.quant.layout import Layout
from vitq.quant.site import Site, watching
from vitq.steps.step import Step, Workspace, covers, register_step
from vitq.steps.stream import ImageStream, Stream, through


@register_step("calibrate")
class Calibrate(Step):
    """Fit the quantizers of the chosen sites on the whole calibration set and switch them on.

    sites: `weights`, `activations` or `all`; kinds narrows them.
    input: what the sites see: `fp`, the full-precision network's activations, or `quantized`, those of the network
        whose earlier segments are quantized already.
    images: use the first N calibration images, all where there are fewer (None: all).
    """

    sites: Literal["weights", "activations", "all"] = "all"
    kinds: tuple[str, ...] = ()
    input: Literal["fp", "quantized"] = "fp"
    images: int | None = None
    detectors: ClassVar[bool] = True

    def fits(self) -> Collection[str]:
        return [kind for kind in (*KINDS, *FULL_KINDS) if covers(kind, self.sites, self.kinds)]

    def check(self, config: RunConfig) -> list[Problem]:
        valid = (*KINDS, *FULL_KINDS)
        problems = [unknown("kind", k, valid, key="kinds") for k in self.kinds if k not in valid]
        if self.images is not None and self.images < 1:
            why = f"valid: 1 or more (at most calib.size={config.calib.size} are used)"
            problems.append(bad("images", self.images, why))
        if self.sites == "weights" and (self.images is not None or self.input != "fp"):
            text = "images and input say what activations see; sites=weights needs neither, leave them out"
            problems.append(Problem(text, "sites", self.sites))
        return problems

    def run(self, work: Workspace) -> None:
        chosen = [site for site in work.model.quantized() if covers(site.kind, self.sites, self.kinds)]
        weights = [site for site in chosen if site.is_weight]
        activations = [site for site in chosen if not site.is_weight]
        for site in weights:
            fit_weight(work, site)
        work.model.switch(weights, on=True)
        if activations:
            calibrate_activations(work, activations, self.input == "quantized", self.images)
        work.model.switch(activations, on=True)


def fit_weight(work: Workspace, site: Site) -> None:
    if site.quantizer is None:
        raise ValueError(f"site {site.name} has no quantizer; its bit-width is fp")
    site.quantizer.fit_tensor(work.model.layer(site).weight)


def calibrate_activations(work: Workspace, sites: list[Site], quantized: bool, images: int | None) -> None:
    """Fit activation sites segment by segment, in one pass of the calibration set.

    While a segment is observed its own sites are off; where `quantized` they (and its weights, where calibrated) are on
    when its outputs are computed for the next segment. Sites that were on before are on again afterwards.
    """
    inputs: Stream = ImageStream(work, images)
    segments = work.model.structure.segments
    with work.model.switched_off() as before:
        for segment in work.progress.over(segments, "calibrate", len(segments)):
            here = [site for site in sites if segment.holds(site.owner)]
            if not quantized:
                # The observing pass is the advancing pass: one evaluation of each segment.
                with observed(here):
                    inputs = through(segment.forward, inputs, work)
                continue
            if here:
                with observed(here), torch.no_grad():
                    for batch in inputs.batches():
                        segment.forward(batch)
            on = [*(site for site in before if segment.holds(site.owner)), *here]
            work.model.switch(on, on=True)
            inputs = through(segment.forward, inputs, work)
            work.model.switch(on, on=False)


@contextmanager
def observed(sites: list[Site]) -> Iterator[None]:
    """Fit the sites' quantizers to what passes them inside the block. Nothing is fitted when the block raises."""
    observer = HistogramObserver()
    with watching(sites, observer):
        yield
    for site in sites:
        observer.fit(site)


class HistogramObserver:
    """One streaming histogram for each site that it watches."""

    def __init__(self) -> None:
        self._histograms: dict[str, Histogram] = {}

    def observe(self, site: Site, x: Tensor) -> None:
        if site.quantizer is None:
            return
        layout = Layout.of(site.quantizer.granularity, site.axes, tuple(x.shape))
        self._histograms.setdefault(site.name, Histogram()).update(x, layout)

    def fit(self, site: Site) -> None:
        """Fit the site's quantizer to what was seen. Raises ValueError naming the site where that is impossible."""
        histogram = self._histograms.pop(site.name, None)
        if histogram is None or histogram.layout is None or site.quantizer is None:
            raise ValueError(f"site {site.name} saw no activation during calibration; its segment does not run it")
        try:
            site.quantizer.fit(histogram.distribution(), histogram.layout)
        except ValueError as error:
            problem = problem_of(error)
            raise ValueError(problem.reworded(f"site {site.name}: {problem}")) from error
