"""Scales and zero points of each image, predicted from the range of a shallow module's output.

ScalePredictor (Li et al., arXiv 2606.21947) as `vitq.methods.scale_predictor` reads it; its step fits the
coefficients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitq.errors import Problem
from vitq.quant.per_image import RangeSource, spread
from vitq.quant.uniform import UniformQuantizer


class Predictor(nn.Module):
    """Listens to one module; knows the factors of the images that passed it last.

    mean, std: (F,) of the features over the calibration images. scales, zeros: (P, Q) coefficients of the Q sites,
    where P = K·F, and one more with a constant; zeros is (0, Q) where zero points stay.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        sites: int,
        features: int,
        degree: int,
        chunks: int,
        clamp: tuple[float, float],
        constant: bool,
        zero_points: bool = False,
    ):
        super().__init__()
        self.degree, self.chunks, self.clamp, self.both = degree, chunks, clamp, features == 2
        self.constant = constant
        count = degree * features + constant
        self.scales = nn.Parameter(torch.zeros(count, sites), requires_grad=False)
        self.zeros = nn.Parameter(torch.zeros(count if zero_points else 0, sites), requires_grad=False)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        # (B, 1) each, one for each site.
        self._factors: tuple[Tensor, ...] = ()
        self._shifts: tuple[Tensor, ...] = ()

    def listen(self, module: nn.Module) -> None:
        """Predict anew whenever `module` has run."""
        module.register_forward_hook(lambda _module, _inputs, output: self.see(output))

    def see(self, x: Tensor) -> None:
        """x: (B, N, C) or (B, H, W, C), output of the module that is listened to."""
        # What is seen is given: what made it does not learn from what is predicted of it.
        powers = self.powers(self.features(x.detach()))
        with torch.autocast(x.device.type, enabled=False):
            factors = (1 + powers @ self.scales).clamp(*self.clamp)
            shifts = powers[:, : len(self.zeros)] @ self.zeros
        # Taken apart once, not by a slice at every site.
        self._factors, self._shifts = factors.split(1, dim=1), shifts.split(1, dim=1)

    def features(self, x: Tensor) -> Tensor:
        """(B, F) float32: robust extrema of each image, as a range or as both ends."""
        tokens = x.float().flatten(1, -2)
        low, high = zip(*(torch.aminmax(c.flatten(1), dim=1) for c in tokens.chunk(self.chunks, dim=1)), strict=True)
        top, bottom = torch.stack(high).mean(dim=0), torch.stack(low).mean(dim=0)
        return torch.stack([top, bottom], dim=1) if self.both else (top - bottom).unsqueeze(1)

    def powers(self, features: Tensor) -> Tensor:
        """(B, P): the standardized features r, r², …, r^K, and 1 with a constant."""
        r = (features - self.mean) / self.std
        first = [torch.ones_like(r[:, :1])] if self.constant else []
        return torch.cat([*first, *(r**k for k in range(1, self.degree + 1))], dim=1)

    def of(self, site: int, rows: int) -> tuple[Tensor, Tensor]:
        """(rows, 1) each: factor of the scale and shift of the zero point. rows: images, or windows image by image."""
        images = len(self._factors[site]) if self._factors else 0
        if not images or rows % images:
            text = (
                f"predicted scales of {images or 'no'} images meet a batch of {rows}: run the model from its first "
                "layer, so that the predictor sees every batch; steps that run segments alone come before "
                "predict_scales"
            )
            raise RuntimeError(Problem(text, "rows", rows, [images]))
        factor, shift = self._factors[site], self._shifts[site]
        if (windows := rows // images) > 1:
            factor, shift = factor.repeat_interleave(windows, dim=0), shift.repeat_interleave(windows, dim=0)
        return factor, shift

    def flops(self, tokens: int, width: int) -> int:
        """Operations for one image: two comparisons an element, then the polynomial of every site."""
        return 2 * tokens * width + 2 * self.scales.numel() + 2 * self.zeros.numel()


class Predicted(RangeSource):
    """Static scale and zero point times and plus what the predictor says of the image."""

    def __init__(self, predictor: Predictor, site: int, moves_zero: bool):
        self.predictor, self.site, self.moves_zero = predictor, site, moves_zero

    def parameters(self, uniform: UniformQuantizer, x: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        factor, shift = self.predictor.of(self.site, len(x))
        ndim = uniform.layout.expand(x).ndim
        scale = spread(uniform, static.unsqueeze(0) * factor, ndim)
        if not self.moves_zero:
            return scale, uniform.layout.view(uniform.zero_point)
        zero = uniform.zero_point.unsqueeze(0) + shift
        if bool((uniform.zero_point >= 0).all() and (uniform.zero_point < uniform.codes).all()):
            zero = zero.clamp(0, uniform.codes - 1)  # else: ranges that leave zero out
        if not zero.requires_grad:  # while it is learned the quantizer rounds it, with a gradient
            zero = zero.round()
        return scale, spread(uniform, zero, ndim)

    def parameter_bytes(self) -> int:
        """Float32 coefficients of one site."""
        return 4 * (self.predictor.scales.shape[0] + self.predictor.zeros.shape[0])
