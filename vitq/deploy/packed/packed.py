"""Packed checkpoints: codes at their real widths, scales, zero points, recipe and signature in one safetensors file.

Tensors of the file: each quantized weight under its own name as uint8, its codes bit-packed; every other parameter in
float32, or in float16 where that holds it exactly; `quantizers.<parameter>`, the parameters of all quantizers one after
another, in the order of the header's sites; `<layer>.balance`, the exponents of an input that is balanced at run time.
The file itself: container.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import vitq
from vitq.config import RunConfig, canonical, signature
from vitq.deploy.packed.bitpack import pack, packed_bytes, unpack
from vitq.deploy.packed.container import narrow, plain, read
from vitq.deploy.packed.header import Header, QuantizerSpec
from vitq.errors import DeployError, VitqError
from vitq.models.build import create
from vitq.quant.dual import DualLayout
from vitq.quant.layers import QuantLinear
from vitq.quant.layout import Layout
from vitq.quant.model import QuantizedModel, build
from vitq.quant.quantizer import QUANTIZERS, Quantizer
from vitq.quant.site import Site
from vitq.steps.step import enabled_steps
from vitq.store.atomic import write_bytes

_PARAMETERS = "quantizers."


@dataclass(frozen=True)
class Packed:
    """A packed checkpoint in memory: the model on the CPU, ready to run, and what it was made from."""

    model: QuantizedModel
    config: RunConfig
    signature: str
    float_bytes: int
    file_bytes: int


@torch.no_grad()
def save_packed(model: QuantizedModel, config: RunConfig, float_bytes: int, path: Path) -> int:
    """Write a quantized model atomically; returns the bytes of the file.

    float_bytes: of the model before it was quantized, float32. Raises DeployError for a site that codes cannot hold
    (ranges of each image's own; more levels than 2^bits), StoreError when the disk refuses.
    """
    specs: list[QuantizerSpec] = []
    sites: dict[str, int | None] = {}
    parameters: dict[str, list[Tensor]] = {}
    tensors = {name: narrow(value.detach().float().cpu()) for name, value in model.plain_state().items()}
    for site in model.sites.values():
        sites[site.name] = None
        if not site.on or site.quantizer is None:
            continue
        spec = _spec(site, site.quantizer)
        if spec not in specs:
            specs.append(spec)
        sites[site.name] = specs.index(spec)
        for name in site.quantizer.parameter_names:
            parameters.setdefault(name, []).append(getattr(site.quantizer, name).detach().cpu())
        if site.is_weight:
            tensors[site.name] = _codes(site, site.quantizer, model.layer(site).weight)
    tensors |= {_PARAMETERS + name: narrow(torch.cat(values)) for name, values in parameters.items()}
    for name, layer in model.layers().items():
        if isinstance(layer, QuantLinear) and layer.balance is not None:
            tensors[f"{name}.balance"] = _exponents(name, layer.balance.detach().cpu())
    header = Header(
        vitq=vitq.__version__,
        signature=signature(config),
        config=canonical(config),
        float_bytes=float_bytes,
        quantizers=specs,
        sites=sites,
    )
    data = plain(header, tensors)
    write_bytes(path, data)
    return len(data)


@torch.no_grad()
def load_packed(path: Path) -> Packed:
    """Read a packed checkpoint, whole or not at all; the original checkpoint is not needed.

    The model computes on the CPU in float32 what the simulated one computed, bit for bit. Raises DeployError, naming
    the file and what to do: missing, truncated, damaged, no packed checkpoint, newer layout, another architecture.
    """
    try:
        header, tensors = read(path)
        config = header.run_config()
        model = _skeleton(config, header, tensors)
    except DeployError as error:
        (problem,) = error.problems
        raise DeployError(problem.reworded(f"packed checkpoint {path}: {problem}")) from error
    return Packed(model, config, header.signature, header.float_bytes, path.stat().st_size)


def _spec(site: Site, quantizer: Quantizer) -> QuantizerSpec:
    if not quantizer.packable:
        raise DeployError(
            f"site {site.name} has a range of each image's own (scale_predictor), which a packed checkpoint cannot "
            "hold; export the base method",
            "site",
            site.name,
        )
    if not quantizer.fitted:
        raise DeployError(f"site {site.name} is switched on, but its quantizer was never fitted", "site", site.name)
    layout = quantizer.layout
    return QuantizerSpec(
        quantizer=_registered(quantizer),
        bits=quantizer.bits,
        # What is fitted: a step may have made one range of many.
        granularity=layout.granularity,
        range=quantizer.range_search,
        symmetric=quantizer.symmetric,
        options={k: v for k, v in quantizer.settings.items() if _listed(v) != _listed(quantizer.options.get(k))},
        params=layout.params,
        split=layout.split,
        second=tuple(layout.columns()) if isinstance(layout, DualLayout) else None,
    )


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _registered(quantizer: Quantizer) -> str:
    for name in QUANTIZERS:
        if QUANTIZERS[name] is type(quantizer):
            return name
    raise DeployError(f"{type(quantizer).__name__} is not registered by name; register it with QUANTIZERS.register")


def _codes(site: Site, quantizer: Quantizer, weight: Tensor) -> Tensor:
    codes = quantizer.encode(weight)
    if not torch.equal(quantizer.decode(codes), quantizer(weight)):
        raise DeployError(
            f"the codes of {site.name} do not give its simulated values back; this is a bug of its quantizer"
        )
    try:
        return pack(codes, quantizer.bits)
    except ValueError as error:
        raise DeployError(f"{site.name}: {error}; its quantizer uses more levels than its bits hold") from error


def _exponents(name: str, balance: Tensor) -> Tensor:
    exponents = balance.log2().round()
    if not torch.equal(torch.exp2(exponents), balance):
        raise DeployError(f"{name}: its input is multiplied by factors that are no powers of two")
    return exponents.to(torch.int8)


def _skeleton(config: RunConfig, header: Header, tensors: dict[str, Tensor]) -> QuantizedModel:
    """The architecture of the config, filled from the file."""
    try:
        model = QuantizedModel(create(config.model, config.data))
        model.equip(config.method, config.bits)
        for step in enabled_steps(config):
            step.rebuild(model.structure)
    except VitqError as error:
        raise DeployError(f"its model {config.model.name!r} cannot be built here ({error})") from error
    if set(header.sites) != set(model.sites):
        raise _other(config, sorted(set(header.sites) ^ set(model.sites)))
    _equip(model, header, tensors)
    _fill(model, config, tensors)
    return model.eval()


def _equip(model: QuantizedModel, header: Header, tensors: dict[str, Tensor]) -> None:
    """Give every site its stored quantizer."""
    flat = {k.removeprefix(_PARAMETERS): tensors.pop(k).float() for k in list(tensors) if k.startswith(_PARAMETERS)}
    offset = dict.fromkeys(flat, 0)
    for name, index in header.sites.items():
        site = model.sites[name]
        site.quantizer, site.on = None, index is not None
        if index is None:
            continue
        spec = header.quantizers[index]
        quantizer = build(
            spec.quantizer, spec.bits, site.axes, spec.granularity, spec.range, spec.symmetric, dict(spec.options)
        )
        groups = math.prod(spec.params)
        taken = {}
        for parameter in quantizer.parameter_names:
            taken[parameter] = flat[parameter][offset[parameter] : offset[parameter] + groups].clone()
            offset[parameter] += groups
        if spec.second is None:
            layout = Layout(spec.granularity, site.axes, groups, spec.params, spec.split)
        else:
            layout = DualLayout.of_columns(site.axes, spec.params[0], model.layer(site).weight.shape[1], spec.second)
        quantizer.set_parameters(layout, **taken)
        site.quantizer = quantizer


def _fill(model: QuantizedModel, config: RunConfig, tensors: dict[str, Tensor]) -> None:
    """Weights from codes, everything else as it is."""
    inner = model.model
    for name in [name for name in tensors if name.endswith(".balance")]:
        layer = inner.get_submodule(name.removesuffix(".balance"))
        layer.balance = torch.exp2(tensors.pop(name).float())
    for site in model.sites.values():
        if not site.is_weight or site.quantizer is None:
            continue
        weight = model.layer(site).weight
        if site.name not in tensors or tensors[site.name].numel() != packed_bytes(weight.numel(), site.quantizer.bits):
            raise _other(config, [site.name])
        codes = unpack(tensors[site.name], site.quantizer.bits, weight.numel())
        tensors[site.name] = site.quantizer.decode(codes.to(torch.int64).view(weight.shape))
        # The weight is what its codes stand for already: a second rounding would change nothing.
        site.stand_in = nn.Identity()
    for name in tensors:
        owner, _, leaf = name.rpartition(".")
        # Folding a shift gives a layer a bias that the architecture does not have.
        if leaf == "bias" and isinstance(layer := inner.get_submodule(owner), QuantLinear) and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_features))
    own = model.plain_state()
    wrong = [
        name
        for name in sorted(set(own) | set(tensors))
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise _other(config, wrong)
    for name, value in tensors.items():
        own[name].copy_(value)


def _other(config: RunConfig, names: list[str]) -> DeployError:
    shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    return DeployError(
        f"its tensors do not fit the architecture {config.model.name!r} as timm builds it here ({len(names)} differ: "
        f"{shown}); use the timm version that it was exported with, or export it again",
        "model.name",
        config.model.name,
    )
