"""What ranges of each image's own could gain over static ones, and what learning them gains over learned static ones.

    python benchmarks/per_image_scales.py method=adalog bits=w3a3 model=deit_tiny … calib.size=128 data.held_out=256
    python benchmarks/per_image_scales.py … --degrees 0 1 --distill '{iterations: 100}'     other courses; --json

The words are those of `vitq run`; its recipe is applied once, weights included, and every row starts from there:

    static          as the recipe leaves it
    oracle value    at each uniform activation site, each image's factor of the static scale, ½ to 2, of least squared
                    error of the site's own value, in the network that is quantized so up to there
    oracle output   the same by the error of the linear layer's output; of the value where activations are multiplied
    degree 0        static scales learned end to end by `distill`
    degree 1 to 3   `predict_scales` with fit=distill, then the same `distill`: equal images, iterations, loss, seed
    … + oracle      the oracle by outputs around the learned static scales

Columns: top-1, agreement with full precision, KL to it, and the paired difference in KL and in agreement (points) with
two standard errors over images: from `static`, and of learned rows beside degree 0 from that.
--val scores the evaluation split too: once, at the end, since options must not be chosen on it. --state FOLDER keeps
the quantized model and every finished row there, and a later call with the same words goes on from them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from common import config, options, show
from torch import Tensor, nn

from vitq import data, device
from vitq.config import RunConfig
from vitq.engine.recipe import equipped
from vitq.methods.scale_predictor import deeper
from vitq.models.load import load_model
from vitq.models.structure import structure_of
from vitq.progress import Progress
from vitq.quant.affine import round_trip
from vitq.quant.layers import QuantLinear
from vitq.quant.per_image import Batch, PerImageUniform, RangeSource, spread
from vitq.quant.site import Site
from vitq.quant.uniform import UniformQuantizer
from vitq.steps import Workspace
from vitq.steps.step import enabled_steps, parse_step

# ½ to 2, evenly spaced in the logarithm, 1 among them.
FACTORS = tuple(2 ** (i / 6) for i in range(-6, 7))
DISTILL = {"do": "distill", "learn": ["activation_scales"], "hold_out": 0.0, "compile": "off", "autocast": "bf16"}


class Oracle(RangeSource):
    """Each image's factor of least error. matrix: (C, K) that the value's error is multiplied by; None: by nothing."""

    moves_zero = False

    def __init__(self, batch: Batch, matrix: Tensor | None):
        self.batch, self.matrix = batch, matrix

    def parameters(self, uniform: UniformQuantizer, x: Tensor, static: Tensor) -> tuple[Tensor, Tensor]:
        wide, zero = uniform.layout.expand(x).float(), uniform.views()[1]
        errors = []
        for factor in FACTORS:
            error = round_trip(wide, uniform.layout.view(static * factor), zero, uniform.codes) - wide
            error = error if self.matrix is None else error @ self.matrix
            errors.append(error.square_().reshape(self.batch.images, -1).sum(dim=1))
        best = torch.tensor(FACTORS, device=x.device)[torch.stack(errors).argmin(dim=0)]
        rows = best.repeat_interleave(len(x) // self.batch.images).unsqueeze(1)
        return spread(uniform, static.unsqueeze(0) * rows, wide.ndim), zero


class Start:
    """The recipe's model with a full-precision one beside it; `again` puts both back to how the recipe left them.

    folder: where the first call keeps them, and where later ones read them.
    """

    def __init__(self, recipe: RunConfig, folder: Path | None):
        where = device.resolve(recipe.device)
        model = load_model(recipe.model, recipe.data, recipe.cache_dir, Progress()).to(where).eval()
        teacher = structure_of(copy.deepcopy(model))
        calib = data.calibration_set(recipe, Progress())
        self.work = Workspace(equipped(recipe, model), calib, recipe, where, Progress(), teacher)
        path = None if folder is None else folder / "start.pt"
        if path is None or not path.exists():
            for step in enabled_steps(recipe):
                step.run(self.work)
            sites = {name: (site.quantizer, site.on) for name, site in self.work.model.sites.items()}
            values = [{name: p.detach() for name, p in m.named_parameters()} for m in self._models()]
            self._kept: dict[str, Any] = copy.deepcopy({"sites": sites, "values": values})
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(self._kept, path)
        else:
            self._kept = torch.load(path, map_location=where, weights_only=False)  # written above
        # `method.iterations` is the recipe's; the steps behind it say theirs.
        self.work.config = replace(recipe, method=replace(recipe.method, iterations=None, rates="paper"))

    def _models(self) -> tuple[nn.Module, nn.Module]:
        return self.work.model.model, self.work.teacher.model

    @torch.no_grad()
    def again(self) -> Workspace:
        for name, (quantizer, on) in self._kept["sites"].items():
            site = self.work.model.sites[name]
            site.quantizer, site.on = copy.deepcopy(quantizer), on
        for model, values in zip(self._models(), self._kept["values"], strict=True):
            parameters = dict(model.named_parameters())
            if parameters.keys() != values.keys():
                sys.exit(f"the recipe adds parameters: {sorted(parameters.keys() ^ values.keys())}; leave --state out")
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        self.work.model.predictor = None
        return self.work


def run(work: Workspace, raw: dict[str, Any]) -> None:
    step, problems = parse_step(raw["do"], raw)
    if step is None:
        sys.exit("\n".join(problems))
    step.run(work)


def sites(work: Workspace) -> list[tuple[Site, UniformQuantizer]]:
    """Those whose scales are predicted behind the first block."""
    return deeper(work.model, [site for site in work.model.sites.values() if site.on], 1)


@torch.no_grad()
def ask_oracle(work: Workspace, outputs: bool) -> None:
    batch = Batch(work.model.model)
    for site, static in sites(work):
        layer, matrix = work.model.model.get_submodule(site.owner), None
        if outputs and isinstance(layer, QuantLinear) and static.layout.split is None:
            weight = layer.weight_site(layer.weight)
            # ‖e·Wᵀ‖ = ‖e·Rᵀ‖ with W = Q·R, which is smaller where there are more outputs than inputs.
            matrix = (weight if len(weight) <= weight.shape[1] else torch.linalg.qr(weight).R).T.contiguous()
        site.quantizer = PerImageUniform(static, Oracle(batch, matrix))


def learn(work: Workspace, degree: int, args: Any) -> None:
    if degree:
        run(work, {"do": "predict_scales", "fit": "distill", "degree": degree, **args.predict})
    run(work, {**DISTILL, **args.distill})


@torch.no_grad()
def logits(model: Callable[[Tensor], Tensor], images: data.Images, where: torch.device) -> Tensor:
    return torch.cat([model(x).float().cpu() for batch, _ in images.batches(32, where) for x in batch.split(16)])


class Row:
    """Figures of one model on one set of images, each (N,)."""

    def __init__(self, given: Tensor, wanted: Tensor, labels: Tensor):
        """given, wanted: (N, classes) logits; labels (N,)."""
        log = wanted.double().log_softmax(-1)
        self.kl = (log.exp() * (log - given.double().log_softmax(-1))).sum(-1)
        self.agrees = 100.0 * (given.argmax(-1) == wanted.argmax(-1)).double()
        self.right = 100.0 * (given.argmax(-1) == labels).double()

    def figures(self, other: Row | None) -> dict[str, float]:
        """Means, and the differences from another row: mean and two standard errors."""
        out = {"top1": float(self.right.mean()), "agreement": float(self.agrees.mean()), "kl": float(self.kl.mean())}
        for name in ("kl", "agrees") if other is not None else ():
            difference = getattr(self, name) - getattr(other, name)
            error = float(difference.std()) / len(difference) ** 0.5
            out |= {f"d_{name}": float(difference.mean()), f"±{name}": 2 * error}
        return {name: round(value, 4) for name, value in out.items()}


class Table:
    """Rows by name, each from logits that are computed, or were by an earlier call that kept them in `path`."""

    def __init__(self, work: Workspace, scored: dict[str, data.ImageSet], path: Path | None):
        self._work, self._scored, self._path = work, scored, path
        self._known: dict[str, dict[str, Tensor]] = torch.load(path) if path is not None and path.exists() else {}
        self._rows: dict[str, dict[str, Row]] = {}
        self.facts: dict[str, Any] = {}

    def logits(self, name: str, make: Callable[[], Callable[[Tensor], Tensor]]) -> dict[str, Tensor]:
        """By split. make: gives the model, where they are not known."""
        if name not in self._known:
            model = make()
            self._known[name] = {split: logits(model, x, self._work.device) for split, x in self._scored.items()}
            if self._path is not None:
                torch.save(self._known, self._path)
        return self._known[name]

    def add(self, name: str, make: Callable[[], Callable[[Tensor], Tensor]], against: str | None = None) -> None:
        wanted, given = self.logits("full precision", lambda: self._work.teach), self.logits(name, make)
        labels = {split: torch.as_tensor(images.labels) for split, images in self._scored.items()}
        self._rows[name] = {split: Row(one, wanted[split], labels[split]) for split, one in given.items()}
        other = self._rows.get(against or "", {})
        self.facts[name] = {split: row.figures(other.get(split)) for split, row in self._rows[name].items()}
        print(name, self.facts[name], file=sys.stderr, flush=True)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("words", nargs="+", metavar="WORD")
    parser.add_argument("--degrees", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--distill", type=yaml.safe_load, default={}, help="options of the step, as YAML")
    parser.add_argument("--predict", type=yaml.safe_load, default={}, help="options of predict_scales, as YAML")
    parser.add_argument("--no-oracle", action="store_true")
    parser.add_argument("--val", action="store_true", help="score the evaluation split too")
    parser.add_argument("--state", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    device.make_repeatable()
    recipe = config(*args.words)
    start = Start(recipe, args.state)
    scored = {"held out": data.eval_set(recipe, Progress())}
    if args.val:
        scored["val"] = data.eval_set(config(*args.words, "data.held_out=null"), Progress())
    table = Table(start.again(), scored, args.state and args.state / f"logits{'-val' * args.val}.pt")
    present: list[int] = []  # the degree that the model has learned, where it has

    def asked(outputs: bool, learned: bool = False) -> nn.Module:
        work = start.work if learned and present == [0] else start.again()
        if learned and present != [0]:
            learn(work, 0, args)
        present.clear()
        ask_oracle(work, outputs)
        return work.model

    def taught(degree: int) -> nn.Module:
        learn(start.again(), degree, args)
        present[:] = [degree]
        return start.work.model

    table.add("static", lambda: start.again().model)
    if not args.no_oracle:
        table.add("oracle value", partial(asked, False), "static")
        table.add("oracle output", partial(asked, True), "static")
    course = f" {args.distill or ''}{args.predict or ''}".rstrip()
    for degree in args.degrees:
        table.add(f"degree {degree}{course}", partial(taught, degree), f"degree 0{course}" if degree else "static")
        if not degree and not args.no_oracle:
            table.add(f"degree 0{course} + oracle", partial(asked, True, learned=True), f"degree 0{course}")
    show(table.facts, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
