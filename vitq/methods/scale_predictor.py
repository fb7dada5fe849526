"""ScalePredictor (Li et al., arXiv 2606.21947): activation scales of each image, predicted from its shallow ranges.

Only the abstract and a third-party summary could be had, so what follows is our reading [I], each choice an option:

- The output x (B, N, C) of a shallow module is cut into G chunks of tokens; M and m are the means over chunks of their
  maximum and minimum (robust extrema). The feature r is M − m (or both), standardized over the calibration images.
- One evaluation gives all deeper scales: s_q(r) = s_q0·(1 + Σ_{k=1..K} a_qk·r^k), the factor clamped. a = 0 is the base
  method exactly. `constant` adds a term a_q0: the same factor for all images, a static scale searched anew.
  Zero points stay, or are predicted the same way: z_q(r) = z_q0 + Σ b_qk·r^k, rounded.
- a is fitted in closed form to each image's best factor (least squares with a ridge), by gradient from a = 0, or by a
  `distill` step behind this one, together with the static scales and what else that step learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.errors import Problem, bad
from vitq.methods.best_factors import features_of, search
from vitq.quant.model import QuantizedModel
from vitq.quant.per_image import Batch, Extrema, Percentile, PerImageUniform
from vitq.quant.predictor import Predicted, Predictor
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps.reconstruction.distill import Distill
from vitq.steps.reconstruction.object_targets import ObjectTargets
from vitq.steps.step import OPTIMIZERS, Count, Network, NotNegative, Step, Workspace, register_step


@register_step("predict_scales")
class PredictScales(Step):
    """Per-image ranges for every uniform activation site behind a shallow module; the last step of a recipe.

    ranges: `predicted`; or one of the baselines: `static`, `minmax` and `percentile` of each image as it comes.
    tap: the module that is listened to: `stem` (patch embedding) or `block` (the first block).
    feature: `range` (M − m) or `ends` (M and m). chunks: G. degree: K. constant: a term that all images
        share. clamp: least and largest factor.
    zero_points: `keep`, or `predict` them too, which `closed` cannot. fit: `closed`, `gradient`, or `distill`: a stays
        0 until a `distill` step, the one step behind this one, learns it with its rate of scales. ridge: penalty on a,
        in units of the number of images. images: so many calibration images are fitted to (None: all).
    iterations, batch_size, lr: of the gradient fit, Adam from a = 0 on KL(full precision ‖ quantized) of the logits;
        `method.iterations` overrides the first. percentile: p of the baseline.

    Log-type quantizers (log2, SULQ …) and sites of the tap itself stay static; of a detector its heads too, whose rows
    are boxes, as many as the image has. `gradient` takes a detector's divergence for KL.
    """

    ranges: Literal["predicted", "static", "minmax", "percentile"] = "predicted"
    tap: Literal["stem", "block"] = "block"
    feature: Literal["range", "ends"] = "range"
    chunks: Count = 8
    degree: Annotated[int, Field(ge=1, le=3)] = 1
    constant: bool = False
    clamp: tuple[float, float] = (0.5, 2.0)
    zero_points: Literal["keep", "predict"] = "keep"
    fit: Literal["closed", "gradient", "distill"] = "closed"
    ridge: NotNegative = 0.1
    images: int | None = None
    iterations: Count = 100
    batch_size: Count = 32
    lr: NotNegative = 1e-3
    packable: ClassVar[bool] = False
    percentile: Annotated[float, Field(gt=0.5, le=1)] = 0.999
    needs_teacher: ClassVar[bool] = True
    last: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True
    detectors: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = OPTIMIZERS

    def check(self, config: RunConfig) -> list[Problem]:
        problems: list[Problem] = []
        if not 0 < self.clamp[0] <= 1 <= self.clamp[1]:
            problems.append(bad("clamp", list(self.clamp), "two factors around 1 are needed, e.g. [0.5, 2]"))
        if self.zero_points == "predict" and self.fit == "closed":
            text = "zero_points=predict with fit=closed; zero points are learned by fit=gradient or distill"
            problems.append(Problem(text, "zero_points", "predict"))
        if self.images is not None and not 2 <= self.images <= config.calib.size:
            problems.append(bad("images", self.images, f"valid: 2 to calib.size={config.calib.size}"))
        if self.ranges == "predicted" and (self.images or config.calib.size) < 2:
            text = f"calib.size={config.calib.size}; a prediction is fitted to at least 2 images"
            problems.append(Problem(text, value=config.calib.size))
        return problems

    def check_order(self, before: Sequence[Step], behind: Sequence[Step]) -> list[Problem]:
        if self.fit != "distill" or self.ranges != "predicted":
            return super().check_order(before, behind)
        learner = behind[0] if len(behind) == 1 else None
        if not isinstance(learner, Distill) or "activation_scales" not in learner.learn:
            text = (
                "fit=distill leaves the coefficients at 0; put one step behind it, a `distill` that learns "
                "activation_scales, or choose another fit"
            )
            return [Problem(text, "fit", self.fit, ["closed", "gradient"])]
        if learner.compile == "on":
            text = f"predicted scales are not compiled; set compile of {learner.name} to off or auto"
            return [Problem(text, "fit", self.fit)]
        return []

    def check_network(self, network: Network) -> list[Problem]:
        if self.ranges == "static" or deeper(network.model, network.fitted(self), self.depth):
            return []
        text = (
            "no activation behind its tap has a fitted uniform quantizer, so there is nothing whose range each image "
            "could have; quantize activations (bits.activation), or set ranges=static"
        )
        return [Problem(text, "ranges", self.ranges, ["static"])]

    @property
    def iterates(self) -> bool:
        return self.ranges == "predicted" and self.fit == "gradient"

    @property
    def depth(self) -> int:
        """Index of the tapped segment."""
        return 0 if self.tap == "stem" else 1

    def run(self, work: Workspace) -> None:
        if self.ranges == "static":
            return
        segments, depth = work.model.structure.segments, self.depth
        sites = deeper(work.model, [site for site in work.model.sites.values() if site.on], depth)
        if self.ranges != "predicted":
            # Of a detector each image may go through by itself, so that its pixels tell more than the batch.
            first = segments[0].modules[0] if work.model.structure.comparison is not None else ""
            batch = Batch(work.model.model.get_submodule(first))
            source = Extrema(batch) if self.ranges == "minmax" else Percentile(batch, self.percentile)
            for site, static in sites:
                site.quantizer = PerImageUniform(static, source)
            return
        features = 2 if self.feature == "ends" else 1
        moves_zero = self.zero_points == "predict"
        predictor = Predictor(len(sites), features, self.degree, self.chunks, self.clamp, self.constant, moves_zero)
        predictor.to(work.device)
        tap = work.model.model.get_submodule(segments[depth].modules[0])
        if self.fit == "distill":
            seen = features_of(work, predictor, tap, self.images)
        else:
            seen, best = search(work, predictor, tap, sites, self.clamp, self.images)
        std = seen.std(dim=0, unbiased=False)
        predictor.mean.copy_(seen.mean(dim=0))
        predictor.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))
        if self.fit == "closed":
            predictor.scales.data.copy_(solve(predictor.powers(seen), best - 1, self.ridge))
        predictor.listen(tap)
        # The predictor belongs to the model: it moves and is saved with it.
        work.model.predictor = predictor
        for index, (site, static) in enumerate(sites):
            site.quantizer = PerImageUniform(static, Predicted(predictor, index, moves_zero))
        if self.fit == "distill":
            return
        if self.fit == "gradient":
            descend(work, predictor, self)
        work.artifacts["predicted_scales"] = _table(predictor, sites, best, seen)


def deeper(model: QuantizedModel, sites: Iterable[Site], depth: int) -> list[tuple[Site, UniformQuantizer]]:
    """Of these sites the activations that are uniform and in a segment behind the tap whose rows are images."""
    segments = [segment for segment in model.structure.segments[depth + 1 :] if segment.learned]
    return [
        (site, site.quantizer)
        for site in sites
        if not site.is_weight and type(site.quantizer) is UniformQuantizer
        if any(segment.holds(site.owner) for segment in segments)
    ]


def solve(powers: Tensor, target: Tensor, ridge: float) -> Tensor:
    """(P, Q) coefficients a of least ‖powers·a − target‖² + ridge·n·‖a‖²; powers (n, P), target (n, Q)."""
    x, y = powers.double(), target.double()
    gram = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    # A feature that is the same for all images has a zero row: the least solution leaves its coefficient at zero.
    inverse: Tensor = torch.linalg.pinv(gram, hermitian=True)
    return (inverse @ (x.T @ y)).float()


def descend(work: Workspace, predictor: Predictor, step: PredictScales) -> None:
    """Adam on the coefficients, everything else frozen, from a = 0: the base method."""
    images = step.images or len(work.calib)
    iterations, factor = work.config.method.course(step.iterations)
    backward = _of_objects(work) if work.teacher.comparison is not None else _of_logits(work, images)
    learned = [predictor.scales, *([predictor.zeros] if step.zero_points == "predict" else [])]
    for parameter in work.model.parameters():
        parameter.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(learned, lr=step.lr * factor)
    generator = torch.Generator().manual_seed(work.config.seed)
    work.progress.stage("predict_scales", iterations)
    losses = []
    with work.progress.iterating():
        for _ in range(iterations):
            chosen = torch.randperm(images, generator=generator)[: step.batch_size]
            optimizer.zero_grad(set_to_none=True)
            losses.append(backward(chosen))
            optimizer.step()
            work.progress.advance()
        work.curves.setdefault("predict_scales", []).append(torch.stack(losses).cpu())
    for parameter in learned:
        parameter.requires_grad_(False)


def _of_logits(work: Workspace, images: int) -> Callable[[Tensor], Tensor]:
    """Mean KL of the images at some positions, its gradients added up."""
    inputs = torch.cat(list(work.batches(images)))
    with torch.no_grad():
        target = torch.cat([work.teach(batch).log_softmax(-1) for batch in inputs.split(work.config.calib.batch_size)])

    def backward(chosen: Tensor) -> Tensor:
        here = chosen.to(inputs.device)
        logits = work.model(inputs[here])
        loss = nn.functional.kl_div(logits.log_softmax(-1), target[here], log_target=True, reduction="batchmean")
        loss.backward()
        return loss.detach()

    return backward


def _of_objects(work: Workspace) -> Callable[[Tensor], Tensor]:
    targets = ObjectTargets(work)
    return lambda chosen: targets.backward(chosen, features=0, logits=1)


def _table(
    predictor: Predictor, sites: list[tuple[Site, UniformQuantizer]], best: Tensor, features: Tensor
) -> pd.DataFrame:
    """One row for each predicted site: spread of the images' best factors, what the fit explains of their distance
    from 1, coefficients."""
    with torch.no_grad():
        fitted = (1 + predictor.powers(features) @ predictor.scales).clamp(*predictor.clamp)
    residual, total = (best - fitted).square().sum(dim=0), (best - 1).square().sum(dim=0)
    rows = {
        "site": [site.name for site, _ in sites],
        "best_mean": best.mean(dim=0).tolist(),
        "best_std": best.std(dim=0).tolist(),
        "explained": (1 - residual / total.clamp(min=1e-12)).tolist(),
        "parameters": [predictor.scales.shape[0] + predictor.zeros.shape[0]] * len(sites),
    }
    for index, row in enumerate(predictor.scales.tolist()):
        rows[f"a{index + 1}"] = row
    for index, row in enumerate(predictor.zeros.tolist()):
        rows[f"b{index + 1}"] = row
    return pd.DataFrame(rows)
