"""Allocate: a bit-width for every site under a budget (mixed precision)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import pandas as pd

from vitq.config import BitsConfig, RunConfig
from vitq.errors import Problem, VitqError, bad
from vitq.quant.model import QuantizedModel, site_bits
from vitq.quant.site import Site
from vitq.quant.site_table import elements_of, shapes_of
from vitq.steps.allocation import greedy
from vitq.steps.allocation.budget import Budget, meters
from vitq.steps.allocation.milp import milp
from vitq.steps.allocation.sensitivity import Trial, menu, table
from vitq.steps.allocation.sensitivity_cache import SensitivityTable
from vitq.steps.step import Network, Step, Workspace, register_step, steps_before

_NONE_FREE = (
    "no calibrated site has bits that may change: bits.kinds, bits.sites, bits.first_last or bits.image prescribe them "
    "all, or the calibrate step before it is off; leave some site's bits to bits.weight or bits.activation"
)


@register_step("allocate")
class Allocate(Step):
    """Give every calibrated site a bit-width of its own, so that the loss is small and a budget holds.

    The loss is the mean KL(full precision ‖ quantized) over calibration images, of a detector that of its scores,
    boxes and masks at the full-precision network's own boxes (vitq/models/detection/dense.py). At each width a site's
    quantizer is fitted with the range search of its recipe; at the run's own width it is the recipe's own. Sites whose
    bits an exception prescribes (`bits.kinds`, `bits.sites`, `bits.first_last`, `bits.image`) keep these. Goes after
    the steps that calibrate and before those that learn.

    policy: `greedy`, MPTQ-ViT's Greedy MP in our reading: from the widest width, one site at a time, one width lower,
        by loss increase per saved bits, until the budget holds. `milp`: the least sum of the losses that each site
        causes alone, by integer programming. `uniform`: one width for weights and one for activations.
    widths: what is chosen from.
    mean_bits: most mean bits of (weights, activations), weighted by the elements of the sites that are allocated, or
        one number for both. size_mb: most megabytes of the packed checkpoint. bops: most bit operations for one image.
        Several may be given; where none is, it is mean_bits, with the run's own bits: `bits=w4a4` is a mean of 4 and 4.
    images: how many calibration images, spread over the set, measure the loss; all where there are fewer.
    recompute: greedily, `lazy` measures a site again when it stands first, `always` all of them before each step
        (slow); `never` goes by the loss that each site causes alone, as `milp` does: what the recipes take, because
        increases that are measured at a high loss depend more on the other sites' errors than on the site.
    seconds: most the integer program may take.

    Artifacts: `allocation_path`, one row for each step of the search with the loss and all four costs (a Pareto curve);
    `allocation_sensitivity` (`milp`, and `greedy` that never measures again), the loss that each site causes alone at
    each width. The probe `sensitivity` of a run with the same recipe up to this step measures the same numbers; what
    it, or an earlier allocation under another budget, left in the cache is used (sensitivity_cache.py).
    """

    policy: Literal["greedy", "milp", "uniform"] = "greedy"
    widths: tuple[int, ...] = (3, 4, 5, 6, 7, 8)
    mean_bits: tuple[float, float] | float | None = None
    size_mb: float | None = None
    bops: float | None = None
    images: int = 16
    recompute: Literal["lazy", "always", "never"] = "lazy"
    seconds: float = 120.0
    needs_teacher: ClassVar[bool] = True
    detectors: ClassVar[bool] = True
    allocates_bits: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ("scipy.optimize", "scipy.sparse")

    def check(self, config: RunConfig) -> list[Problem]:
        problems: list[Problem] = []
        if not self.widths or len(set(self.widths)) < len(self.widths) or not all(2 <= w <= 8 for w in self.widths):
            why = "different whole numbers from 2 to 8 are needed, e.g. [3, 4, 5, 6, 7, 8]"
            return [bad("widths", list(self.widths), why)]
        for group, mean in zip(("weights", "activations"), self.means(config), strict=True):
            if mean is not None and not min(self.widths) <= mean <= max(self.widths):
                text = (
                    f"a mean of {mean:g} bits for {group} is impossible with widths {min(self.widths)} to "
                    f"{max(self.widths)}; a mean between these is feasible (mean_bits, else the run's bits)"
                )
                problems.append(Problem(text, "mean_bits", mean))
        for name, value in (("size_mb", self.size_mb), ("bops", self.bops), ("seconds", self.seconds)):
            if value is not None and value <= 0:
                problems.append(Problem(f"{name}={value:g}; a number above 0 is needed", name, value))
        if self.bops is not None and config.task != "classification":
            text = (
                f"bops={self.bops:g}: how often a detector's heads run depends on what is found, so that bit "
                "operations are not counted; limit mean_bits or size_mb"
            )
            problems.append(Problem(text, "bops", self.bops))
        if self.images < 1:
            problems.append(bad("images", self.images, "at least 1 is needed"))
        return problems

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        problems = [
            Problem(f"comes after a step {step.do!r}, which depends on the bit-widths; move it before", value=step.do)
            for step in before
            if step.depends_on_bits
        ]
        if not any(step.fits() and not step.depends_on_bits for step in before):
            problems.append(Problem("no step before it calibrates; only calibrated sites are allocated"))
        if any(step.allocates_bits for step in before):
            text = "a recipe allocates once: a second one undoes the first and what was fitted to it"
            problems.append(Problem(text, value=self.do))
        if self.size_mb is not None:
            problems += [
                Problem(
                    f"size_mb={self.size_mb:g} is met before step {step.do!r} gives weights two ranges each, which "
                    "take more bytes; set its dual=0, or drop size_mb",
                    "size_mb",
                    self.size_mb,
                )
                for step in behind
                if step.adds_ranges
            ]
        return problems + super().check_order(before, behind)

    def check_network(self, network: Network) -> list[Problem]:
        """No free site; or limits on bytes and bit operations below the narrowest widths, even without their scales."""
        bounded = self.size_mb is not None or self.bops is not None
        # Shapes first: a site that is on wants to quantize, and nothing is fitted here.
        shapes = network.shapes if bounded else {}
        model, fitted = network.model, network.fitted(self)
        for site in model.quantized():
            site.on = site in fitted
        sites, widths = free(model, network.config.bits), sorted(self.widths)
        if not sites:
            return [Problem(_NONE_FREE)]
        if not bounded:
            return []
        try:
            limits = self._limits(network.config, sites)
            Budget(meters(model, shapes, sites, widths), limits).check([site.name for site in sites], widths)
        except VitqError as error:
            return error.problems
        return []

    def means(self, config: RunConfig) -> tuple[float | None, float | None]:
        """Limits on the mean bits of weights and of activations; None where there is none."""
        if isinstance(self.mean_bits, tuple):
            return self.mean_bits
        if self.mean_bits is not None:
            return self.mean_bits, self.mean_bits
        if self.size_mb is not None or self.bops is not None:
            return None, None
        weight, activation = (
            None if bits == "fp" else float(bits) for bits in (config.bits.weight, config.bits.activation)
        )
        return weight, activation

    def run(self, work: Workspace) -> None:
        sites = free(work.model, work.config.bits)
        if not sites:
            raise VitqError(f"allocate: {_NONE_FREE}")
        names = [site.name for site in sites]
        widths = sorted(self.widths)
        image = next(work.batches(1))
        shapes = shapes_of(work.model, image)
        elements = None if work.model.structure.comparison is None else elements_of(work.model, image)
        budget = Budget(meters(work.model, shapes, sites, widths, elements), self._limits(work.config, sites))
        budget.check(names, widths)
        trial = Trial(work, menu(work, sites, widths), self.images)
        if self.policy == "greedy":
            alone = self._alone(work, trial, names, widths) if self.recompute == "never" else None
            trial.start(dict.fromkeys(names, widths[-1]))
            rows = greedy.greedy(trial, budget, widths, self.recompute, work.progress, alone)
        elif self.policy == "milp":
            trial.start(milp(self._alone(work, trial, names, widths), budget, self.seconds))
            rows = greedy.final(trial, budget)
        else:
            trial.start(greedy.uniform({site.name: site.is_weight for site in sites}, budget, widths))
            rows = greedy.final(trial, budget)
        work.artifacts["allocation_path"] = pd.DataFrame(rows).astype({"from_bits": "Int64", "to_bits": "Int64"})

    def _alone(self, work: Workspace, trial: Trial, names: list[str], widths: list[int]) -> dict[str, dict[int, float]]:
        """The loss that each site causes alone at each width, out of the cache where it was measured before."""
        known = SensitivityTable(work.config, steps_before(work.config, self), self.images, work.device)
        alone = known.losses(names, widths)
        if alone is None:
            alone = table(trial, names, widths, work)
            known.add(alone)
        work.artifacts["allocation_sensitivity"] = pd.DataFrame(
            [
                {"site": name, "kind": work.model.sites[name].kind, "bits": width, "loss": loss}
                for name, losses in alone.items()
                for width, loss in losses.items()
            ]
        )
        return alone

    def _limits(self, config: RunConfig, sites: list[Site]) -> dict[str, float]:
        weight, activation = self.means(config)
        limits = {
            "mean_weight_bits": weight if any(site.is_weight for site in sites) else None,
            "mean_activation_bits": activation if any(not site.is_weight for site in sites) else None,
            "size_mb": self.size_mb,
            "bops": self.bops,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


def free(model: QuantizedModel, bits: BitsConfig) -> list[Site]:
    """Calibrated sites whose bit-width is the run's rule, not an exception's."""
    rule = dataclasses.replace(bits, weight="fp", activation="fp")
    return [
        site
        for site in model.quantized()
        if site.on and site.kind != "patch" and site_bits(site, rule, model.structure) == "fp"
    ]
