"""GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323): weights column by column, errors fed into later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from vitq.steps.calibrate import fit_weight
from vitq.steps.layer_walk import Layer, NetworkWalk, layers, quantized_walk
from vitq.steps.step import Count, NotNegative, Workspace, register_step
from vitq.steps.weight_grid import Grid, WeightStep, as_rows, cholesky, damped, put_weight, uniform_of


@register_step("gptq")
class Gptq(WeightStep):
    """Minimize ‖(W − Ŵ)X̄‖² of each layer over codes Ŵ on the grid of its fitted weight quantizer.

    X̄ is what the layer reads in the quantized network, earlier layers done. Columns are rounded one by one, the error
    of each is spread over those not yet rounded by the optimal-brain update; scales and zero points stay as they were
    fitted to the full-precision weight. A weight quantizer that has no range yet is fitted first.

    damping: share of the mean of H's diagonal that is added to it. act_order: columns in the order of falling H_jj
        instead of their own. block: columns between two updates of those that follow (speed only).
    """

    damping: NotNegative = 0.01
    act_order: bool = False
    block: Count = 128

    def run(self, work: Workspace) -> None:
        walk = quantized_walk(work)
        for name, layer in layers(work, [walk], "gptq"):
            site = layer.weight_site
            if site.quantizer is None:
                continue
            quantizer = uniform_of(site)
            if not quantizer.fitted:
                fit_weight(work, site)
            grid = Grid.of(quantizer, layer.weight.data)
            weight = layer.weight.data.flatten(1).double()
            put_weight(layer, solve(weight, hessian(walk, layer, name), grid, self.damping, self.act_order, self.block))
            site.on = True


@torch.no_grad()
def hessian(walk: NetworkWalk, layer: Layer, name: str) -> Tensor:
    """(I, I) float64: mean of x̄ x̄ᵀ over all images and positions."""
    inputs, count = layer.weight[0].numel(), 0
    total = torch.zeros(inputs, inputs, dtype=torch.float64, device=layer.weight.device)
    for x in walk.arriving(f"{name}.input_site"):
        rows = as_rows(layer, layer.input_site(x))
        total += rows.T @ rows
        count += len(rows)
    if not count:
        raise RuntimeError(f"no calibration image reached {name}")
    return total / count


def solve(
    weight: Tensor, H: Tensor, grid: Grid, damping: float = 0.01, act_order: bool = False, block: int = 128
) -> Tensor:
    """The quantized weight, (O, I) float64 values on the grid.

    weight: (O, I) float64; H: (I, I) float64, symmetric. With U the upper Cholesky factor of (H + λI)⁻¹, the error of
    column j divided by U_jj times row j of U is what the columns behind j lose.
    """
    inputs = weight.shape[1]
    order = torch.argsort(H.diagonal(), descending=True, stable=True) if act_order else torch.arange(inputs)
    order = order.to(weight.device)
    grid, H = grid.columns(order), H[order][:, order]
    damped_H = damped(H, damping * float(H.diagonal().mean()))
    inverse = torch.cholesky_inverse(cholesky(damped_H, "damping"))
    U = torch.linalg.cholesky(inverse, upper=True)
    # Columns as rows: each one is contiguous.
    left, scale, zero = (m.T.contiguous() for m in (weight[:, order], grid.scale, grid.zero))
    done = torch.empty_like(left)
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        errors = torch.zeros_like(left[start:stop])
        for j in range(start, stop):
            # The errors of this block's earlier columns arrive when a column is due; later blocks get them all at once.
            column = left[j] - U[start:j, j] @ errors[: j - start]
            column_grid = Grid(scale[j], zero[j], grid.codes)
            done[j] = column_grid.decode(column_grid.encode(column))
            errors[j - start] = (column - done[j]) / U[j, j]
        left[stop:] -= U[start:stop, stop:].T @ errors
    quantized = torch.empty_like(weight)
    quantized[:, order] = done.T
    return quantized
