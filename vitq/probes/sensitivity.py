"""Sensitivity: what one site, layer or kind costs when it alone is quantized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.probes.budget import PartialResults
from vitq.probes.probe import Probe, register_probe
from vitq.probes.probed_model import Subject
from vitq.quant.model import QuantizedModel
from vitq.quant.site import Site
from vitq.quant.site_table import FP_BITS
from vitq.steps.allocation.sensitivity import Trial, menu
from vitq.steps.allocation.sensitivity_cache import SensitivityTable
from vitq.steps.step import Workspace, steps_before

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register_probe("sensitivity")
class Sensitivity(Probe):
    """One site at a time is quantized, everything else is in full precision: the increase of the cross-entropy, the KL
    from full precision, the agreement with it. On the run's calibration images, because allocations are chosen by it.

    by: `site`, `layer` (weight and operands of one layer or matmul), or `kind` (all sites of a kind).
    widths: bit-widths; at the width that the run has, a site's quantizer is the run's own, at others it is fitted with
        the recipe's range search. images: how many calibration images, spread over the set, as in the step `allocate`.

    Of a detector all of these are of its scores, boxes and masks at the full-precision network's own boxes
    (vitq/models/detection/dense.py): `kl` and `loss_increase` their divergence, `agreement` the share of proposals
    whose likeliest class, or background, is the same.

    By site, the KLs are kept in the cache, where the step `allocate` (milp, or greedy that never measures again) of a
    recipe that begins like this run's finds them. Arrays, S names and W widths: `name`, `kind`, `own` (the run's
    bit-width, 0 where it is mixed) (S,), `width` (W,), `kl`, `loss_increase` (nats), `agreement` (%) (S, W), `fp_loss`;
    `ranking`: positions in `name`, most sensitive first, by the KL at the run's own width where it is among the widths,
    else at the least width.
    """

    by: Literal["site", "layer", "kind"] = "site"
    widths: tuple[int, ...] = (3, 4, 6, 8)
    images: int = 16
    detectors: ClassVar[bool] = True

    def check(self, config: RunConfig) -> list[Problem]:
        problems = []
        if not self.widths or len(set(self.widths)) < len(self.widths) or not all(2 <= w <= 8 for w in self.widths):
            why = "different whole numbers from 2 to 8 are needed, e.g. [3, 4]"
            problems.append(bad("widths", list(self.widths), why))
        if self.images < 1:
            problems.append(bad("images", self.images, "at least 1 is needed"))
        return problems

    def applies(self, config: RunConfig) -> str | None:
        return None if config.method.quantizes else "full precision has no quantizers"

    def passes(self, config: RunConfig) -> float:
        looks = {"site": 150, "layer": 75, "kind": 9}[self.by] * len(self.widths)  # of a model with a dozen blocks
        fit = config.calib.size * (1 + len(self.widths))
        return (looks * min(self.images, config.calib.size) * 0.55 + fit) / config.probe.images

    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        work = Workspace(
            subject.model, subject.calib, subject.config, subject.device, subject.progress, subject.reference
        )
        sites = [site for site in subject.model.quantized() if site.on]
        groups = grouped(sites, self.by)
        widths = sorted(self.widths)
        names = {group: [site.name for site in members] for group, members in groups.items()}
        scores = partial.array("scores", (len(groups), len(widths), 3))
        with kept(subject.model):
            trial = Trial(work, menu(work, sites, widths), self.images)
            subject.model.switch(subject.model.sites.values(), on=False)
            trial.start(dict.fromkeys((site.name for site in sites), FP_BITS))
            full = trial.full
            subject.progress.stage("sensitivity", len(groups) * len(widths))
            for row, (group, members) in enumerate(names.items()):
                for column, width in enumerate(widths):
                    if np.isnan(scores[row, column]).any():
                        score = trial.score(dict.fromkeys(members, width))
                        scores[row, column] = score.kl, score.loss, score.agreement
                        partial.tick(group)
        if self.by == "site":
            known = SensitivityTable(subject.config, steps_before(subject.config), self.images, subject.device)
            rows = zip(names, scores[..., 0].tolist(), strict=True)
            known.add({name: dict(zip(widths, losses, strict=True)) for name, losses in rows})
        own = [sorted({site.quantizer.bits for site in members if site.quantizer}) for members in groups.values()]
        kinds = [sorted({site.kind for site in members}) for members in groups.values()]
        arrays = {
            "name": np.array(list(groups)),
            "kind": np.array([one[0] if len(one) == 1 else "several" for one in kinds]),
            "own": np.array([one[0] if len(one) == 1 else 0 for one in own]),
            "width": np.array(widths),
            "kl": scores[..., 0],
            "loss_increase": scores[..., 1] - full.loss,
            "agreement": scores[..., 2],
            "fp_loss": np.array(full.loss),
        }
        return arrays | {"ranking": np.argsort(-own_kl(arrays), kind="stable")}

    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        from vitq.plots.sensitivity import draw

        return draw(arrays, own_kl(arrays), title)


def grouped(sites: list[Site], by: str) -> dict[str, list[Site]]:
    """Name → sites that are quantized together, in the order of the model."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault({"site": site.name, "layer": site.owner, "kind": site.kind}[by], []).append(site)
    return groups


def own_kl(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(S,) KL at each name's own width, at the least width where that one was not measured."""
    widths = arrays["width"].tolist()
    columns = [widths.index(own) if own in widths else 0 for own in arrays["own"].tolist()]
    losses: np.ndarray = arrays["kl"][np.arange(len(columns)), columns]
    return losses


@contextmanager
def kept(model: QuantizedModel) -> Iterator[None]:
    """The sites are as they were on leaving: their quantizers, and on or off."""
    before = [(site, site.quantizer, site.on) for site in model.sites.values()]
    try:
        yield
    finally:
        for site, quantizer, on in before:
            site.quantizer, site.on = quantizer, on
