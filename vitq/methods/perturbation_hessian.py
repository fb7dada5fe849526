"""APHQ-ViT's loss: squared errors weighted by the average perturbation Hessian (CVPR 2025)."""

from __future__ import annotations

from torch import Tensor

from vitq.steps.reconstruction.curvature import Direction, importance, products
from vitq.steps.reconstruction.objective import Measure, Objective, register_objective
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Positive, Workspace


@register_objective("perturbation_hessian")
class PerturbationHessian(Objective):
    """2·L/L⁰ with L = mean(H̄·Δz²), H̄ the mean over all calibration images of |H·v|, H the Hessian of KL.

    Public code adds ε = 1e-6 to all elements of a segment's full-precision output at once, v = 1, and takes
    |g(z + ε) − g(z − ε)|, g the gradient of KL through the full-precision network. But behind a residual stream whose
    readers all have a LayerNorm a common shift changes nothing, H·1 = 0: what public code averages is the rounding
    error of g, which is larger where g is more sensitive.

    direction: `signs`: v = ±1, drawn for each image [I]; H̄ are then norms of H's rows, in the mean. `ones`: as public
    code. epsilon: None: H·v exactly; a number: differences in float32, public code's 1e-6. temperature: of KL's
    softmaxes.
    """

    temperature: Positive = 20.0
    direction: Direction = "signs"
    epsilon: Positive | None = None

    def of(self, work: Workspace, task: SegmentTask) -> Measure:
        outputs = task.target.batches()
        return Weighted(importance(products(work, task.index, outputs, self.temperature, self.direction, self.epsilon)))


class Weighted(Measure):
    """Squared errors weighted by element, the same for all images. weight: the shape of one image's output."""

    weights = (2.0,)

    def __init__(self, weight: Tensor):
        super().__init__()
        self._weight = weight

    def terms(self, output: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        return ((output - target).square() * self._weight).mean().unsqueeze(0)
