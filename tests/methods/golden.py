"""Top-1 of methods on the embedded models, as the command line measures it; golden.yaml holds what it was.

The weights lie in weights/ (float16): training gives others on another kind of CPU or with another torch, and at three
bits so small a difference moves a method by more than two points.

    python -m tests.methods.golden                 measure every method of conf/method anew
    python -m tests.methods.golden mine minmax     these alone; the others keep their figures

Say in CHANGELOG.md why a figure moved: where a method's results did not mean to change, the change is at fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from vitq.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("golden.yaml")
WEIGHTS = Path(__file__).with_name("weights")
# Model → bit-widths: where methods differ. All of both models at W8A8 too take ten minutes.
CELLS = {"vit_digits": ("w4a4", "w3a3"), "swin_digits": ("w4a4",)}
# Whose searches, or tables of codes while they learn, would take most of the time of all on the second model.
VIT_ALONE = ("adalog_reconstruct", "aocq", "mptq_vit", "mptq_vit_full")
# At a budget of three bits they have no narrower width to give, and do what their base does.
MIXED = ("mixed_precision", "mptq_vit_full_mixed", "mptq_vit_mixed")
# Seed 0 is the default. So few images and iterations leave a learning method where it begins, and show all the same
# when its loss, its rates or its order of blocks is another one.
OVERRIDES = ("calib.size=16", "method.iterations=5", "tracker=none", "device=cpu")

HEADER = """\
# Top-1 in percent on the 596 test images of the digits: model → method → bits. 32 calibration images, seed 0,
# method.iterations=5, one thread. Measured by `python -m tests.methods.golden`, never written by hand.
"""
# model → method → bits → top-1 in percent.
Figures = dict[str, dict[str, dict[str, float]]]


def cells(method: str) -> dict[str, tuple[str, ...]]:
    """Model → bit-widths at which a method is measured."""
    if method in MIXED:
        return {"vit_digits": ("w4a4",)}
    return {model: bits for model, bits in CELLS.items() if model == "vit_digits" or method not in VIT_ALONE}


def measure(method: str, runs_dir: Path) -> dict[str, dict[str, float]]:
    """Model → bits (`w4a4`, or `fp`) → top-1 in percent of a method."""
    found: dict[str, dict[str, float]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads add in another order
    try:
        for model, bits in cells(method).items():
            checkpoint = WEIGHTS / f"{model}.safetensors"
            words = [
                f"model={model}",
                f"model.checkpoint={checkpoint}",
                f"method={method}",
                f"bits={','.join(bits)}",
                f"runs_dir={runs_dir}",
            ]
            with contextlib.redirect_stdout(io.StringIO()) as out:
                code = main(["run", "-m", "--name", model, "--json", *words, *OVERRIDES])
            assert code == 0, f"{method} failed on {model}; its runs are in {runs_dir}"
            rows = json.loads(out.getvalue())["runs"]
            found[model] = {row["bits"].lower(): round(row["top1"], 2) for row in rows}
    finally:
        torch.set_num_threads(threads)
    return found


def load() -> Figures:
    """The figures of golden.yaml."""
    found: Figures = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def write(measured: dict[str, dict[str, dict[str, float]]]) -> None:
    """Put figures, method → model → bits → top-1, into golden.yaml."""
    known = load() if FILE.exists() else {model: {} for model in CELLS}
    lines = [HEADER]
    for model in CELLS:
        figures = known.get(model, {}) | {method: found[model] for method, found in measured.items() if model in found}
        rows = [f"  {name}: {json.dumps(row).replace(chr(34), '')}\n" for name, row in sorted(figures.items())]
        lines += [f"{model}:\n", *rows]
    FILE.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    methods = sys.argv[1:] or sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
    for name in methods:
        with tempfile.TemporaryDirectory() as folder:
            write({name: measure(name, Path(folder))})
