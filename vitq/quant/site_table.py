"""Tables about the sites of a model: what they are, how many bits they have, how well they are represented."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from vitq.config import RunConfig
from vitq.quant.layers import QuantLinear
from vitq.quant.model import QuantizedModel
from vitq.quant.quantizer import Quantizer
from vitq.quant.site import Shapes, Site, watching

COLUMNS = ("site", "kind", "shape", "elements", "quantizer", "granularity", "bits", "mse", "sqnr_db")
FP_BITS = 32


@dataclass
class _Error:
    """Running squared signal and squared error of one site."""

    shape: str = ""
    elements: int = 0
    seen: int = 0
    batch: int = 0
    signal: float = 0.0
    noise: float = 0.0


class ErrorObserver:
    """Measures each site's quantization error on the tensors that it receives in the running network.

    images: how many of them are under way, so that Swin's windows, the first dimension there, count as one image's.
    batch: number of the batch under way, so that all calls of a layer, for the levels of a pyramid, count as one's.
    """

    def __init__(self) -> None:
        self.errors: dict[str, _Error] = {}
        self.images = 1
        self.batch = 0

    def observe(self, site: Site, x: Tensor) -> None:
        error = self.errors.setdefault(site.name, _Error())
        # Elements of one image for activations, of the whole tensor for weights.
        windows = 1 if site.is_weight else len(x) // self.images
        shape = tuple(x.shape) if site.is_weight else (*((windows,) if windows > 1 else ()), *x.shape[1:])
        again = error.batch == self.batch and not site.is_weight
        error.shape, error.batch = "x".join(map(str, shape)), self.batch
        error.elements = int(torch.Size(shape).numel()) + (error.elements if again else 0)
        if not site.on or site.quantizer is None or not site.quantizer.fitted:
            return
        wide = x.double()
        error.seen += x.numel()
        error.signal += float(wide.square().sum())
        error.noise += float((site.quantizer(x).double() - wide).square().sum())


@torch.no_grad()
def site_table(model: QuantizedModel, batches: Iterable[Tensor], planned: bool = False) -> pd.DataFrame:
    """One row for each site, in the order of the model; see COLUMNS.

    A site that no step switched on is in floating point, whatever quantizer the recipe names for it; `planned` shows
    that quantizer all the same, for a model that no step has seen.
    mse: mean squared error of the site's quantizer on what it receives while the whole network is quantized; sqnr_db:
    10·log10(signal / error). Both are null for sites in floating point; sqnr_db is null where the error is zero.
    """
    observer = ErrorObserver()
    with watching(model.sites.values(), observer):
        for batch in batches:
            observer.images = len(batch)
            observer.batch += 1
            model(batch)
    rows = [
        _row(site, site.quantizer if site.on or planned else None, observer.errors.get(site.name, _Error()))
        for site in model.sites.values()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def shapes_of(model: QuantizedModel, image: Tensor) -> dict[str, torch.Size]:
    """The shape of every site's tensor when one image passes the model; Swin's windows are its first dimension."""
    return _passed(model, image).seen


def elements_of(model: QuantizedModel, image: Tensor) -> dict[str, int]:
    """How many elements pass every site for one image, of a weight all that it has, in all calls of its layer."""
    passed = _passed(model, image)
    weights = {site.name: passed.seen[site.name].numel() for site in model.sites.values() if site.is_weight}
    return passed.elements | weights


def _passed(model: QuantizedModel, image: Tensor) -> Shapes:
    shapes = Shapes()
    with watching(model.sites.values(), shapes):
        model(image)
    return shapes


def blank(config: RunConfig, device: torch.device) -> Tensor:
    """One black image (1, C, H, W) of the model's input size."""
    return torch.zeros(1, *config.model.image_shape, device=device)


def _row(site: Site, quantizer: Quantizer | None, error: _Error) -> dict[str, object]:
    measured = error.seen > 0
    return {
        "site": site.name,
        "kind": site.kind,
        "shape": error.shape,
        "elements": error.elements,
        "quantizer": "fp" if quantizer is None else quantizer.type_name,
        "granularity": "" if quantizer is None else quantizer.granularity,
        "bits": FP_BITS if quantizer is None else quantizer.bits,
        "mse": error.noise / error.seen if measured else None,
        "sqnr_db": _decibel(error.signal, error.noise) if measured else None,
    }


def _decibel(signal: float, noise: float) -> float | None:
    if signal <= 0 or noise <= 0:
        return None
    return float(10 * torch.log10(torch.tensor(signal / noise, dtype=torch.float64)))


def mean_bits(table: pd.DataFrame) -> tuple[float, float]:
    """Mean bit-widths of (weights, activations), weighted by elements."""

    def mean(rows: pd.DataFrame) -> float:
        return float((rows.bits * rows.elements).sum() / rows.elements.sum()) if len(rows) else float(FP_BITS)

    weights = table.kind == "weight"
    return mean(table[weights]), mean(table[~weights])


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters in float32."""
    return sum(parameter.numel() * 4 for parameter in model.parameters())


def quantized_bytes(model: QuantizedModel, fp_bytes: int) -> int:
    """Bytes at the run's bit-widths: packed weights, all scales and zero points, one for each exponent of an input that
    is balanced at run time, the unpacked in float32; after the step `half`, scales and the unpacked in float16.
    """
    total = unpacked = fp_bytes
    for site in model.quantized():
        quantizer = site.quantizer
        if not site.on or quantizer is None:
            continue
        total += quantizer.parameter_bytes()
        unpacked += quantizer.get_buffer("scale").numel() * 4 if "scale" in quantizer.parameter_names else 0
        if site.is_weight:
            elements = model.layer(site).weight.numel()
            unpacked -= elements * 4
            total += -(-elements * quantizer.bits // 8) - elements * 4
    if model.halved:
        total -= unpacked // 2
    balanced = (layer.balance for layer in model.modules() if isinstance(layer, QuantLinear))
    return total + sum(balance.numel() for balance in balanced if balance is not None)
