"""The table: one row per run, whatever became of it, and labels that never blend two different things."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.errors import refuses
from tests.report.conftest import correct, finish
from vitq import report
from vitq.config import RunConfig
from vitq.config.labels import bits_label, run_label
from vitq.config.search_path import shipped
from vitq.errors import StoreError
from vitq.planning import compose
from vitq.report.accuracy_table import matrices
from vitq.report.runs_table import COLUMNS
from vitq.store import Store, SweepRecord
from vitq.store.claim import Claim
from vitq.store.status import Status

Make = Callable[..., RunConfig]
Sweep = Callable[..., Store]


def one(df: pd.DataFrame, method: str, bits: str) -> pd.Series:
    """The only row of a method at a bit-width."""
    rows = df[(df["method"] == method) & (df["bits"] == bits)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_one_row_per_run_in_the_order_of_the_plan(store: Store) -> None:
    df = report.table(store, "demo")
    assert list(df["signature"]) == store.read_sweep("demo").signatures
    assert list(df.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in df.dtypes.items()} == COLUMNS
    row = df[(df["method"] == "repq_vit") & (df["bits"] == "W4A4")].iloc[0]
    assert (row["model"], row["data"], row["calib"], row["seed"], row["state"]) == (
        "vit_digits",
        "digits",
        32,
        0,
        "done",
    )
    assert row["top1"] == 95.0
    assert row["drop"] == 3.0
    assert row["fp_top1"] == 98.0
    assert row["n_eval"] == 400
    assert row["mb"] == pytest.approx(0.108)
    assert row["fp_mb"] == pytest.approx(0.84)
    assert row["seconds"] == 1.65


def test_full_precision_has_neither_calibration_nor_seed(store: Store) -> None:
    row = report.table(store, "demo").iloc[0]
    assert row["method"] == "fp32"
    assert row["bits"] == "FP"
    assert pd.isna(row["calib"])
    assert pd.isna(row["seed"])


def test_states_of_unfinished_runs(store: Store) -> None:
    df = report.table(store, "demo")
    failed = one(df, "percentile", "W3A3")
    assert failed["state"] == "failed"
    assert failed["error"].startswith("RuntimeError: out of memory")
    assert math.isnan(failed["top1"])
    pending = one(df, "percentile", "W6A6")
    assert pending["state"] == "planned"
    assert pending["error"] == ""


def test_a_killed_run_shows_its_last_sign_of_life(store: Store) -> None:
    signature = one(report.table(store, "demo"), "percentile", "W6A6")["signature"]
    time = "2026-11-20T12:00:00+00:00"
    store.run(signature).write_status(Status(state="running", stage="evaluate", updated_at=time, pid=7, host="node1"))
    row = one(report.table(store, "demo"), "percentile", "W6A6")
    assert row["state"] == "interrupted"
    assert row["error"] == f"its process 7 on node1 died; last sign of life {time}"
    claim = Claim.take(store.run(signature))
    assert claim is not None
    with claim:
        row = one(report.table(store, "demo"), "percentile", "W6A6")
    assert row["state"] == "running"
    assert row["error"] == f"evaluate; last sign of life {time}"


def test_a_status_alone_proves_nothing_and_a_result_alone_does(store: Store) -> None:
    df = report.table(store, "demo")
    store.run(one(df, "percentile", "W6A6")["signature"]).write_status(Status(state="done"))
    done = one(df, "minmax", "W8A8")["signature"]
    store.run(done).write_status(Status(state="failed", error="a later attempt"))
    again = report.table(store, "demo")
    assert one(again, "percentile", "W6A6")["state"] == "failed"
    assert one(again, "minmax", "W8A8")["state"] == "done"
    assert one(again, "minmax", "W8A8")["error"] == ""


def test_damaged_records_are_rows_too(store: Store) -> None:
    signatures = store.read_sweep("demo").signatures
    store.run(signatures[1]).result_path.write_text("{half")
    store.run(signatures[2]).config_path.write_text("model: {nam: x}\n")
    store.run(signatures[3]).config_path.unlink()
    store.run(signatures[4]).status_path.write_text("{half")
    df = report.table(store, "demo")
    assert list(df["state"][1:5]) == ["unreadable", "unreadable", "unreadable", "done"]
    assert "result.json" in df["error"][1]
    assert "nam: unknown key" in df["error"][2]
    assert "never planned" in df["error"][3]
    assert df["method"][1] == "minmax"
    assert df["method"][2] == "?"
    assert len(report.render(df).splitlines()) > 10


def test_an_ablation_is_two_rows_of_the_table_and_not_two_seeds(make_config: Make, make_sweep: Sweep) -> None:
    runs = [make_config(method__steps={"stage1": {"do": "x", "enabled": enabled}}) for enabled in (True, False)]
    store = make_sweep((runs[0], 5), (runs[1], 25), (make_config("repq_vit"), 1))
    df = report.table(store, "demo")
    assert list(df["method"]) == [
        "minmax (steps.stage1.enabled=true)",
        "minmax (steps.stage1.enabled=false)",
        "repq_vit",
    ]
    assert list(df["method_name"]) == ["minmax", "minmax", "repq_vit"]
    assert list(report.summary(df)["n"]) == [1, 1, 1]


def test_other_weights_data_bits_and_protocol_get_labels(make_config: Make, make_sweep: Sweep) -> None:
    store = make_sweep(
        (make_config(model__weights="a" * 64), 1),
        (make_config(model__weights="b" * 64), 2),
        (make_config("mse", data__eval_limit=100, model__weights="a" * 64), 3),
        (make_config("mse", bits__kinds={"probs": 8}, model__weights="a" * 64, bits=4), 4),
        (make_config("mse", bits__kinds={"probs": 6}, model__weights="a" * 64, bits=4), 5),
        (make_config("mse", calib__augment=True, model__weights="a" * 64), 6),
        (make_config("fp32", model__weights="a" * 64), 0),
    )
    df = report.table(store, "demo")
    assert list(df["model"][:2]) == ["vit_digits (weights=aaaaaaaa)", "vit_digits (weights=bbbbbbbb)"]
    assert df["data"][2] == "digits (eval_limit=100)"
    assert df["data"][0] == "digits (eval_limit=none)"
    assert list(df["bits"][3:5]) == ["W4A4* (kinds.probs=8)", "W4A4* (kinds.probs=6)"]
    assert df["method"][5] == "mse (calib.augment=true)"
    assert df["method"][2] == "mse (calib.augment=false)"
    assert df["protocol"][5] == "calib.augment=true"
    assert df["protocol"][6] == ""
    assert df["method"][6] == "fp32"
    assert len(report.summary(df)) == 7


def test_what_stayed_in_floating_point_is_not_shown_as_quantized(make_config: Make, make_sweep: Sweep) -> None:
    off = make_config(bits=3, method__steps={"weights": {"do": "calibrate", "enabled": False}})
    sweep = make_sweep((make_config(bits=3), 5), (off, 1))
    size = {"mean_weight_bits": 32, "mean_activation_bits": 8, "fp_bytes": 840_000, "quantized_bytes": 840_000}
    finish(sweep, off, correct(1), size=size)
    assert list(report.table(sweep, "demo")["bits"]) == ["W3A3", "W32A3"]


def test_only_the_full_precision_method_is_full_precision(make_config: Make, make_sweep: Sweep) -> None:
    stem = make_config(bits="fp", bits__first_last=4)
    image = make_config("mse", bits="fp", bits__image=8)
    store = make_sweep(
        (make_config("fp32"), 0), (make_config(), 3), (stem, 30), (image, 20), (make_config(bits="fp"), 9)
    )
    df = report.table(store, "demo")
    assert list(df["bits"]) == [
        "FP",
        "W8A8",
        "W32A32* (first_last=4, image=fp)",
        "W32A32* (first_last=none, image=8)",
        "W32A32",
    ]
    (matrix,) = matrices(df)
    assert matrix.fp_top1 == pytest.approx(98.0)
    assert len([cell for row in matrix.rows for cell in row.cells if cell is not None]) == 4


def test_volatile_keys_make_no_label(make_config: Make, make_sweep: Sweep) -> None:
    store = make_sweep((make_config(data__root="/a"), 1), (make_config(seed=1, data__root="/b"), 2))
    df = report.table(store, "demo")
    assert set(df["data"]) == {"digits"}
    assert list(report.summary(df)["n"]) == [2]


def test_a_signature_listed_twice_is_one_run(make_config: Make, make_sweep: Sweep) -> None:
    store = make_sweep((make_config(), 1))
    store.write_sweep(SweepRecord(name="twice", signatures=store.signatures() * 2))
    assert len(report.table(store, "twice")) == 1


def test_unknown_sweep(store: Store) -> None:
    with refuses(StoreError, key="sweep", value="dema", valid=["demo"]):
        report.table(store, "dema")


def test_an_empty_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_sweep(SweepRecord(name="none", signatures=[], baseline="minmax"))
    df = report.table(store, "none")
    assert df.empty
    assert report.summary(df).empty
    assert report.render(df) == "0 runs.\n"
    assert set(report.build(store, "none")) == {"html", "csv", "md", "latex", "parquet"}


def test_runs_of_different_bits_are_no_seeds_of_one_cell(make_config: Make, make_sweep: Sweep) -> None:
    """With the weights' step off W4 and W3 are the same run: each is shown, neither lends the other a spread."""
    off = {"method__steps": {"weights": {"do": "calibrate", "enabled": False}}}
    configs = [make_config(bits=bits, seed=seed, bits__activation=4, **off) for bits in (4, 3) for seed in (0, 1)]
    other = make_config("mse", bits=3, bits__activation=4, **off)
    size = {"mean_weight_bits": 32, "mean_activation_bits": 4, "fp_bytes": 840_000, "quantized_bytes": 840_000}
    sweep = make_sweep(*((run, 1) for run in (*configs, other)))
    for run in (*configs, other):
        finish(sweep, run, correct(1 + run.seed), size=size)
    df = report.table(sweep, "demo")
    assert list(df["bits"]) == ["W32A4 (W4A4)"] * 2 + ["W32A4 (W3A4)"] * 2 + ["W32A4"]
    assert list(report.summary(df)["n"]) == [2, 2, 1]


def test_runs_that_differ_in_order_alone_are_no_seeds_of_one_cell(make_config: Make, make_sweep: Sweep) -> None:
    """Steps run in order, and of two patterns that match a site the last one wins."""
    steps = [("a", {"do": "x"}), ("b", {"do": "y"})]
    sites = [("*.weight", 8), ("blocks.0.*", 3)]
    turned = [make_config(method__steps=dict(order)) for order in (steps, steps[::-1])]
    patterns = [make_config("mse", bits__sites=dict(order)) for order in (sites, sites[::-1])]
    other = make_config("mse", bits__sites={"*.bias": 8})
    df = report.table(make_sweep(*((run, 1) for run in (*turned, *patterns, other))), "demo")
    assert list(df["method"]) == ["minmax (steps.order=a > b)", "minmax (steps.order=b > a)", "mse", "mse", "mse"]
    for bits, order in zip(df["bits"][2:], ("*.weight > blocks.0.*", "blocks.0.* > *.weight", "none"), strict=True):
        assert f"sites.order={order}," in bits
    assert list(report.summary(df)["n"]) == [1] * 5


def test_equal_orders_make_no_label(make_config: Make, make_sweep: Sweep) -> None:
    steps = {"a": {"do": "x"}, "b": {"do": "y"}}
    off = {"b": {"do": "y"}}
    runs = [make_config(seed=seed, method__steps=chosen) for chosen in (steps, off) for seed in (0, 1)]
    df = report.table(make_sweep(*((run, 1) for run in runs)), "demo")
    assert not df["method"].str.contains("order").any()
    assert list(report.summary(df)["n"]) == [2, 2]


def test_two_runs_of_one_seed_are_never_averaged(make_config: Make, make_sweep: Sweep) -> None:
    """Whatever they differ in, here in what a label cannot show: the type of a number."""
    runs = [make_config(method__steps={"a": {"do": "x", "options": options}}) for options in ([1], ["1"])]
    df = report.table(make_sweep(*((run, 1) for run in runs), (make_config(seed=1), 1)), "demo")
    assert df["method"].nunique() == 3
    assert report.summary(df)["n"].max() == 1


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "W4A6"),
        ({"mean_bits": None}, "W4A6"),
        ({"mean_bits": [4, 6]}, "W4A6"),
        ({"mean_bits": [5, 5.5]}, "W4A6 (mean 5/5.5)"),
        ({"mean_bits": 5}, "W4A6 (mean 5/5)"),
        ({"size_mb": 0.15}, "W4A6 (≤ 0.15 MB)"),
        ({"mean_bits": 4, "bops": 1e12}, "W4A6 (mean 4/4, ≤ 1e+12 bit operations)"),
        ({"enabled": False, "mean_bits": 5}, "W4A6"),
    ],
)
def test_a_budget_of_its_own_is_no_single_precision(make_config: Make, options: dict[str, Any], label: str) -> None:
    """Else eight bits would stand in the column of four, and win it."""
    config = make_config(bits=4, bits__activation=6, method__steps={"a": {"do": "allocate", **options}})
    assert bits_label(config) == label
    assert label.split(" (")[0] in run_label(config)


def test_a_recipe_that_leaves_some_activations_alone_has_a_star(make_config: Make) -> None:
    kinds: dict[str, Any] = {"weight": {}, "post_gelu": {}}
    assert bits_label(make_config(bits=4, method__kinds=kinds)) == "W4A4*"
    assert bits_label(make_config(bits=4, bits__activation="fp", method__kinds=kinds)) == "W4A32"
    assert bits_label(make_config(bits=4, method__kinds={"weight": {}})) == "W4A4", "the result tells: W4A32"
    assert bits_label(make_config(bits=4)) == "W4A4"


@pytest.mark.parametrize("method", sorted(path.stem for path in (shipped("conf") / "method").glob("*.yaml")))
def test_no_shipped_recipe_has_a_label_of_its_own(method: str) -> None:
    file, roots = compose.root_config()
    (cell,) = compose.expand(compose.load(file, roots, [f"method={method}", "bits=w4a4"], multirun=False))
    config, problems = RunConfig.parse(cell.raw)
    assert config is not None, problems
    assert bits_label(config) == ("FP" if method == "fp32" else "W4A4")
