"""A model of the caller, quantized: one call, no config file, no run folder, no network."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vitq import device as devices
from vitq.api.arguments import Option, config_of, describe
from vitq.config import RunConfig
from vitq.data.given import Given, TensorImages, batches
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.engine import recipe, recipe_checks
from vitq.engine.network_checks import misfits
from vitq.errors import ConfigError, DataError, DeployError, ModelError, VitqError, first_line
from vitq.models.build import required_size, settle
from vitq.models.structure import structure_of
from vitq.progress import Progress
from vitq.quant.model import QuantizedModel
from vitq.quant.site_table import blank, model_bytes, site_table
from vitq.steps.checkpoint import Checkpoint
from vitq.steps.step import Network
from vitq.store.atomic import write_bytes
from vitq.store.metrics import Metrics
from vitq.tasks.classification import metrics

if TYPE_CHECKING:
    import pandas as pd

# Relative to the largest logit: what another order of additions changes, and no other architecture stays below.
_EQUAL = 1e-4


class QuantizedNetwork(nn.Module):
    """A quantized model: normalized images (B, 3, S, S) float32 → logits (B, classes) float32.

    model: with its sites and quantizers. config: the recipe, bits and calibration that made it, and the architecture.
    tables: what steps left, by name: the loss curves of a reconstruction, the path of a bit allocation.
    """

    def __init__(
        self,
        model: QuantizedModel,
        config: RunConfig,
        float_bytes: int,
        calib: Tensor | None = None,
        tables: Mapping[str, pd.DataFrame] | None = None,
    ):
        super().__init__()
        self.model = model.eval()
        self.config = config
        self.tables = dict(tables or {})
        self._float_bytes, self._calib = float_bytes, calib

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out

    def sites(self, images: Tensor | None = None) -> pd.DataFrame:
        """One row a site: site, kind, shape, elements, quantizer, granularity, bits (32: floating point), mse, sqnr_db.

        images: normalized (N, 3, S, S), on which the errors are measured; the first calibration batch where None. A
        model that was loaded has neither calibration images nor the weights before they were rounded: what cannot be
        measured is null.
        """
        where = self._device()
        batch = self._calib if images is None else TensorImages.of(images).images
        table = site_table(self.model, [blank(self.config, where) if batch is None else batch.to(where)])
        lost = table["kind"].eq("weight") if self._calib is None else table["kind"].isna()
        table.loc[lost if batch is not None else slice(None), ["mse", "sqnr_db"]] = float("nan")
        return table

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a packed checkpoint, which `vitq.load` reads on any machine with vitq and timm; returns its path.

        The file holds codes at their bit-widths, scales and the architecture's name and arguments, not the original
        weights. It is read back, and kept if it gives the logits of this model. Raises DeployError where it does not,
        and for a model that codes cannot hold (`scale_predictor`); StoreError where the disk refuses.
        """
        target = Path(path).expanduser()
        with tempfile.TemporaryDirectory(prefix="vitq-") as folder:
            written = Path(folder) / "model.safetensors"
            save_packed(self.model, self.config, self._float_bytes, written)
            self._compare(written)
            write_bytes(target, written.read_bytes())
        return target

    @torch.no_grad()
    def _compare(self, written: Path) -> None:
        model = self.config.model
        action = (
            "say how timm builds the model: vitq.quantize(…, architecture=NAME, model_kwargs={…}) with what was given "
            "to timm.create_model"
        )
        try:
            again = load_packed(written).model.to(self._device())
        except DeployError as error:
            what = f"{model.name!r} with {model.kwargs} is not this model's architecture"
            raise DeployError(
                f"{what} ({str(error).partition(': ')[2]}); {action}", "architecture", model.name
            ) from error
        x = torch.randn(2, *model.image_shape, generator=torch.Generator().manual_seed(0)).to(self._device())
        before, after = self.model(x), again(x)
        difference = float((before - after).abs().max())
        if not difference <= _EQUAL * float(before.abs().max()):
            raise DeployError(
                f"{model.name!r} with {model.kwargs} has this model's tensors and gives other logits (largest "
                f"difference {difference:.3g}): another number of heads, activation or norm; {action}",
                "architecture",
                model.name,
            )

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def quantize(
    model: nn.Module,
    method: Option,
    *,
    bits: Option = "w8a8",
    images: Given,
    seed: int = 0,
    device: str | torch.device | None = None,
    overrides: Sequence[str] = (),
    architecture: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> QuantizedNetwork:
    """A quantized copy of a timm model, with or without a head; the model itself is not touched.

    model: of a supported family (ViT, DeiT, Swin and what `vitq list models` builds on), with its weights.
    method: name of a recipe (`vitq.list_methods()`), path of its YAML file, or the mapping that such a file holds.
    bits: name (`w4a4`, `w4a8` …), path, or mapping: `{"weight": 4, "activation": 8, "kinds": {"probs": 8}}`.
    images: what calibrates, all of it. A float tensor (N, 3, S, S), normalized with the model's own mean and std, S its
        input size; or a DataLoader (any iterable) of such batches. Labels beside them, (images, labels), are not read.
    seed: of every random step. device: where to compute; None for where the model is.
    overrides: as on the command line, `method.steps.stage1.iterations=100`, `bits.kinds.probs=8`, `calib.cache=disk`.
    architecture, model_kwargs: what `timm.create_model` was given, for `save`; needed where the model does not know.

    Deterministic: equal arguments on one kind of machine give equal logits. Raises DataError for images that do not
    fit, ModelError for a model outside the supported families, ConfigError (with `problems`) for a recipe or bits that
    do not exist or do not fit the model.
    """
    listener = progress or Progress()
    given = TensorImages.of(images)
    network = _own_copy(model, given)
    where = devices.resolve(str(device or next(network.parameters()).device))
    classes = _outputs(network, given)
    about = describe(network, given.size, classes, architecture, model_kwargs)
    config = config_of(method, bits, overrides, about, given, classes, seed=seed, device=str(where))
    meta = Network(config, lambda: recipe.equipped(config, copy.deepcopy(network).to("meta")))
    if problems := recipe_checks.problems(config) or misfits(config, meta):
        raise ConfigError(problems)
    network = settle(network, config.model).to(where)
    float_bytes = model_bytes(network)
    with tempfile.TemporaryDirectory(prefix="vitq-") as folder, devices.repeatable():
        # Of this call alone: a cache is keyed by configs, and another model may share this one's.
        own = dataclasses.replace(config, cache_dir=folder)
        kept = Checkpoint(Path(folder) / "state")
        work = recipe.apply(own, network, where, listener, kept, lambda _: nullcontext(), calib=given)
        first = next(iter(work.batches(min(len(given), config.calib.batch_size)))).cpu()
    return QuantizedNetwork(work.model, config, float_bytes, first, work.artifacts)


def load(path: str | os.PathLike[str]) -> QuantizedNetwork:
    """The model of a packed checkpoint, on the CPU: of `save`, or of `vitq export --format packed`.

    Raises DeployError, naming the file and what to do: missing, damaged, no packed checkpoint, a newer layout.
    """
    packed = load_packed(Path(path).expanduser())
    return QuantizedNetwork(packed.model, packed.config, packed.float_bytes)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Given,
    *,
    reference: nn.Module | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 64,
) -> Metrics:
    """Scores of a model on labelled images; with `reference`, also beside another model's.

    model, reference: (B, 3, S, S) → logits (B, classes); in evaluation mode while they are scored, and moved to
    `device` (None: where each of them is).
    images: a DataLoader (any iterable) of (images, labels) batches, read one batch at a time, or one such pair, which
        is split into batches of `batch_size`. Images are normalized floats (B, 3, S, S), labels whole numbers (B,).

    top1, top5: percent. nll: mean cross-entropy, nats. n_eval: images. With a reference: fp_top1, its own top-1; drop,
    points from it; agreement: percent of images with the same class; kl: mean KL(reference ‖ model), nats; else null.
    Raises DataError for images without labels or of another form, VitqError for logits that are not finite.
    """
    models = [model] if reference is None else [model, reference]
    outputs: list[list[Tensor]] = [[] for _ in models]
    truth: list[Tensor] = []
    training = [m.training for m in models]
    try:
        for x, y in batches(images):
            if y is None:
                raise DataError("images: no labels; give (images, labels), or a DataLoader that does", "images.labels")
            truth.append(y)
            for scores, each in zip(outputs, models, strict=True):
                where = torch.device(device) if device is not None else next(each.parameters()).device
                each.to(where).eval()
                size = batch_size if isinstance(images, tuple) else len(x)
                for batch in x.split(size):
                    batch = batch.to(where)
                    scores += [each(p).float().cpu() for p in batch.split(devices.at_once(batch, devices.CPU_ELEMENTS))]
    finally:
        for each, mode in zip(models, training, strict=True):
            each.train(mode)
    logits, labels = [torch.cat(scores) for scores in outputs], torch.cat(truth)
    for name, each_logits in zip(("model", "reference"), logits, strict=False):
        if bad := int((~each_logits.isfinite()).any(dim=1).sum()):
            raise VitqError(f"{name}: NaN or infinity in the logits of {bad} of {len(labels)} images", name)
    numbers: dict[str, float | None] = dict(metrics(logits[0], logits[-1], labels))
    if reference is None:
        numbers |= dict.fromkeys(("fp_top1", "drop", "agreement", "kl"))
    return Metrics(**numbers, n_eval=len(labels))


def _own_copy(model: nn.Module, images: TensorImages) -> nn.Module:
    """A copy in evaluation mode. Raises ModelError for an unsupported model, DataError for images of another size."""
    if not isinstance(model, nn.Module):
        text = f"model: a {type(model).__name__}; a torch.nn.Module of a supported family is needed"
        raise ModelError(text, "model", model)
    own = copy.deepcopy(model).float().eval()
    structure_of(own)  # which may join its projections
    side = images.size
    size = required_size(model, (side, side))
    if size is not None and size != (side, side):
        text = f"images: {side}x{side} pixels, {type(model).__name__} is built for {size[0]}x{size[1]}"
        action = f"resize the images, or build the model with img_size={side}"
        raise DataError(f"{text}; {action}", "images", side, size)
    return own


@torch.no_grad()
def _outputs(model: nn.Module, images: TensorImages) -> int:
    """Numbers that come out for an image. Raises DataError: images that it refuses. ModelError: no (B, classes)."""
    try:
        out = model(images.images[:1].to(next(model.parameters()).device))
    except (RuntimeError, ValueError, AssertionError) as error:  # timm checks sizes by assertions
        text = f"images: refused by {type(model).__name__}: {first_line(error)}"
        raise DataError(text, "images", tuple(images.images.shape)) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[1] < 2:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        text = f"{type(model).__name__} gives {shape}; logits (B, classes) are needed, two classes or more"
        raise ModelError(text, "model", shape)
    return int(out.shape[1])
