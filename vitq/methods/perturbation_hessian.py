"""APHQ-ViT's loss: squared errors weighted by the average perturbation Hessian (CVPR 2025)."""

from __future__ import annotations

from torch import Tensor

from vitq.steps.reconstruction.curvature import importance
from vitq.steps.reconstruction.objective import Measure, Objective, register_objective
from vitq.steps.reconstruction.segment_task import SegmentTask
from vitq.steps.step import Positive, Workspace


@register_objective("perturbation_hessian")
class PerturbationHessian(Objective):
    """2·L/L⁰ with L = mean(H̄·Δz²), H̄ the mean over all calibration images of |H·1|, H the Hessian of KL.

    Public code adds ε to all elements of a segment's output at once and takes |g(z + ε) − g(z − ε)|, g the gradient of
    KL through the full-precision network: so H̄ are absolute sums of H's rows, not its diagonal. There ε is 1e-6, less
    than half an ulp of an element above 32 in float32, and lost where activations are massive. epsilon: None: H·1
    exactly [I]; 1e-6: as public code has it. temperature: of both softmaxes in KL.
    """

    temperature: Positive = 20.0
    epsilon: Positive | None = None

    def of(self, work: Workspace, task: SegmentTask) -> Measure:
        return Weighted(importance(work, task.index, task.target.batches(), self.temperature, self.epsilon))


class Weighted(Measure):
    """Squared errors weighted by element, the same for all images. weight: the shape of one image's output."""

    weights = (2.0,)

    def __init__(self, weight: Tensor):
        super().__init__()
        self._weight = weight

    def terms(self, output: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
        return ((output - target).square() * self._weight).mean().unsqueeze(0)
