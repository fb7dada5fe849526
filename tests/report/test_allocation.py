"""Heat maps of bits: a column for each allocation."""

from __future__ import annotations

import pandas as pd

from vitq.report.allocation import heat_maps


def test_runs_of_equal_bits_are_one_column() -> None:
    bits = {"a": (4, 4), "b": (4, 4), "c": (3, 5), "d": (3, 3), "e": (4, 4)}
    runs = pd.DataFrame(
        [
            {"signature": name, "model": "m", "method": f"method_{name}", "bits": "W4A4", "seed": 0}
            for name in bits
        ]
    )  # fmt: skip
    sites = {name: pd.DataFrame({"site": ["x", "y"], "kind": "value", "bits": widths}) for name, widths in bits.items()}
    ((model, figure),) = heat_maps(runs, sites)
    assert model == "m"
    assert list(figure.layout.xaxis.ticktext) == ["method_a W4A4 and 2 like it", "method_c W4A4", "method_d W4A4"]
    assert [list(row) for row in figure.data[0].text] == [["4", "3", "3"], ["4", "5", "3"]]
