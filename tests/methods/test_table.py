"""Every method, run from the command line on the embedded ViT: how many points of top-1 it may lose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitq.planning import compose

ROOT = Path(__file__).resolve().parents[2]

# Method, bits, and the most points of top-1 that it may lose on vit_digits: 32 calibration images, seed 0.
# A new method adds its row here (docs/extending.md).
TABLE = [
    ("fp32", "w8a8", 0.0),
    ("minmax", "w8a8", 0.5),
    ("percentile", "w8a8", 0.5),
    ("mse", "w8a8", 0.5),
    ("repq_vit", "w8a8", 1.0),
    ("ias_vit", "w8a8", 1.0),
    ("mptq_vit", "w8a8", 1.0),
    ("aocq", "w8a8", 1.0),
    ("gptq", "w8a8", 1.0),
    ("erq", "w8a8", 1.0),
    ("adalog", "w8a8", 1.0),
    ("mixed_precision", "w6a6", 1.0),
    ("adaround", "w8a8", 1.0),
    ("brecq", "w8a8", 1.0),
    ("qdrop", "w8a8", 1.0),
    ("scale_predictor", "w8a8", 1.0),
    ("fq_vit", "w8a8", 2.0),
    ("ptq4vit", "w8a8", 1.0),
    ("mptq_vit_full", "w8a8", 1.5),
    ("mptq_vit_mixed", "w6a6", 1.0),
    ("mptq_vit_full_mixed", "w6a6", 2.0),
    ("integer", "w8a8", 1.0),
]


def test_every_method_has_a_row() -> None:
    methods = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    assert {method for method, _, _ in TABLE} == methods


@pytest.mark.parametrize("method", ["gptq", "erq", "mixed_precision"])
def test_activations_are_those_of_repq_vit_where_a_recipe_says_so(method: str) -> None:
    """Else what the recipe adds to RepQ-ViT could not be told from what it does in another way."""
    file, roots = compose.root_config(None)
    cells = compose.expand(compose.load(file, roots, (f"method={method},repq_vit",), multirun=True))
    ours, theirs = (cell.raw["method"] for cell in cells)
    for kind in theirs["kinds"].keys() - {"weight"}:
        assert ours["kinds"][kind] == theirs["kinds"][kind], kind
    for step in ("activations", "reparameterize"):
        assert ours["steps"][step] == theirs["steps"][step], step
    steps = list(ours["steps"])
    assert steps.index("activations") < steps.index("reparameterize") < steps.index("weights")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "bits", "may_lose"), TABLE)
def test_top1_on_vit_digits(tmp_path: Path, method: str, bits: str, may_lose: float) -> None:
    overrides = [
        "method.iterations=20",
        "model=vit_digits",
        f"method={method}",
        f"bits={bits}",
        "tracker=none",
        f"runs_dir={tmp_path}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vitq", "run", "--json", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["fp_top1"] >= 97.0
    assert metrics["drop"] <= may_lose


# Points of top-1 that a method may lose at W4A4 on either embedded model; one width for all, fully quantized, more.
MAY_LOSE = {"fq_vit": 15.0, "mptq_vit_full": 20.0}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit_digits", "swin_digits"])
def test_every_method_quantizes_both_families_to_four_bits(tmp_path: Path, model: str) -> None:
    methods = ",".join(method for method, _, _ in TABLE)
    overrides = [f"model={model}", f"method={methods}", "bits=w4a4", "method.iterations=20", "tracker=none"]
    command = [sys.executable, "-m", "vitq", "run", "-m", "--json", *overrides, f"runs_dir={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    drops = {row["method_name"].partition("(")[0]: row["drop"] for row in json.loads(done.stdout)["runs"]}
    assert len(drops) == len(TABLE)
    assert {m: drop for m, drop in drops.items() if not drop <= MAY_LOSE.get(m, 8.0)} == {}
