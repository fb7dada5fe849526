"""Every method on the two embedded models: its top-1 is the golden one (golden.yaml, written by golden.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.methods.golden import ROOT, cells, load, measure
from vitq.planning import compose

GOLDEN = load()
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
# Points of top-1: nine of the 596 test images. Another kind of CPU adds in another order and rounds some codes up
# instead of down.
TOLERANCE = 1.5
# Cells on which that does more (near chance, or learned with few codes): model, method, bits → points.
WIDER: dict[tuple[str, str, str], float] = {}


def test_every_method_has_golden_figures() -> None:
    for method in METHODS:
        wanted = {model: ("fp",) if method == "fp32" else bits for model, bits in cells(method).items()}
        measured = {model: tuple(rows[method]) for model, rows in GOLDEN.items() if method in rows}
        assert measured == wanted, f"measure it: python -m tests.methods.golden {method}"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_top1_is_the_golden_one(method: str, tmp_path: Path) -> None:
    """Where a figure is meant to move, `python -m tests.methods.golden METHOD` measures it anew."""
    found = measure(method, tmp_path)
    moved = {
        (model, bits): (top1, GOLDEN[model][method][bits])
        for model, row in found.items()
        for bits, top1 in row.items()
        if abs(top1 - GOLDEN[model][method][bits]) > WIDER.get((model, method, bits), TOLERANCE)
    }
    assert moved == {}, "(found, golden) top-1 in percent"


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
