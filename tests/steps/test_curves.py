"""The table of reconstruction losses."""

from __future__ import annotations

import torch

from vitq.steps.curves import Curves


def test_each_curve_belongs_to_the_step_that_added_it() -> None:
    curves: dict[str, list[torch.Tensor]] = {"a": [torch.tensor([3.0, 2.0])]}
    noted = Curves()
    noted.note("one", curves)
    noted.note("between", curves)
    curves["a"].append(torch.tensor([1.0]))
    curves["b"] = [torch.zeros(0), torch.tensor([0.5])]
    noted.note("two", curves)
    table = noted.table()
    assert table.values.tolist() == [
        ["one", "a", 0, 3.0],
        ["one", "a", 1, 2.0],
        ["two", "a", 0, 1.0],
        ["two", "b", 0, 0.5],
    ]


def test_long_curves_keep_their_ends_and_order() -> None:
    noted = Curves()
    noted.note("one", {"a": [torch.arange(20_000.0)]})
    table = noted.table()
    assert len(table) == 1000
    assert table["iteration"].is_monotonic_increasing
    assert table["iteration"].is_unique
    assert (table["iteration"].iloc[0], table["iteration"].iloc[-1]) == (0, 19_999)
    assert (table["loss"] == table["iteration"]).all()
