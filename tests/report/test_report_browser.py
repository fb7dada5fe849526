"""The page in a real headless Chromium: charts render, tables sort and filter, nothing is written to the console."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.report.browser import CHROMIUM, DRIVER, LEGENDS, chromium, column, complaints, show
from tests.report.conftest import METHODS, config, correct, finish
from tests.report.test_report_probes import probe
from vitq import report
from vitq.report.serve import server
from vitq.store import Store, SweepRecord

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def sites(bits: list[int], seed: int) -> pd.DataFrame:
    kinds = ["weight", "post_norm", "probs", "weight", "post_gelu"] * (len(bits) // 5)
    noise = np.random.default_rng(seed).uniform(10, 40, len(bits))
    return pd.DataFrame(
        {
            "site": [f"blocks.{i // 5}.site{i % 5}" for i in range(len(bits))], "kind": kinds, "shape": "4x4",
            "elements": 16, "quantizer": "uniform", "granularity": "tensor", "bits": bits, "mse": 0.1, "sqnr_db": noise,
        }
    )  # fmt: skip


@pytest.fixture
def rich(tmp_path: Path) -> Store:
    """Three seeds, an ablation of one method, and a mixed allocation; every run has its table of sites."""
    store = Store(tmp_path / "runs")
    signatures = [finish(store, config("fp32"), correct(0))]
    wrong = {"minmax": 60, "percentile": 30, "repq_vit": 12}
    for method in METHODS:
        for seed in range(3):
            signatures.append(finish(store, config(method, 4, seed), correct(wrong[method] + seed, seed)))
            store.run(signatures[-1]).write_sites(sites([4] * 40, seed))
    for value in ("true", "false"):
        run = config("ias_vit", 4, method__steps={"stage1": {"do": "reconstruct", "enabled": value == "true"}})
        signatures.append(finish(store, run, correct(10 if value == "true" else 25)))
    mixed = config("mixed_precision", 4)
    signatures.append(finish(store, mixed, correct(9)))
    store.run(signatures[-1]).write_sites(sites([3, 4, 5, 8, 6] * 8, 9))
    store.write_sweep(SweepRecord(name="demo", signatures=signatures, baseline="minmax"))
    return store


def test_charts_render_and_the_console_stays_empty(browser: Any, rich: Store) -> None:
    show(browser, report.build(rich, "demo", ["html"])["html"])
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => [p.id, p.querySelectorAll('svg.main-svg').length])"
    )
    assert [name for name, _ in drawn] == ["figure-0-0", "figure-0-1", "bit-allocation-0", "ablations-0", "site-plot"]
    assert all(count > 0 for _, count in drawn)
    shown = browser.execute_script("return document.querySelectorAll('#bit-allocation-0 .heatmaplayer image').length")
    assert shown == 1
    assert complaints(browser) == []


@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_the_page_fits_its_width(browser: Any, rich: Store, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        show(browser, report.build(rich, "demo", ["html"])["html"])
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        # What every number is compared with is in view before anybody scrolls sideways.
        full = browser.execute_script("return document.querySelector('.fp td.n').getBoundingClientRect().toJSON()")
        assert 0 < full["left"] < full["right"] <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert complaints(browser) == []


@pytest.mark.parametrize("width", [400, 1000])
def test_long_names_in_legends_are_whole(browser: Any, tmp_path: Path, width: int) -> None:
    store = Store(tmp_path / "runs")
    long = "rols_distill_with_held_out_guard_and_schedule_of_square_roots"
    signatures = []
    for index, name in enumerate((long, f"{long}_again", "Unbreakable" * 6, "minmax")):
        signatures.append(finish(store, config(name), correct(10 * index)))
        store.run(signatures[-1]).write_sites(sites([4] * 10, index))
        probe(store.run(signatures[-1]), index)
    store.write_sweep(SweepRecord(name="demo", signatures=signatures, baseline="minmax"))
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        show(browser, report.build(store, "demo", ["html"])["html"])
        legends = browser.execute_script(LEGENDS)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert {"figure-0-0", "figure-0-1", "site-plot", "distribution-plot"} <= {legend["id"] for legend in legends}
    for legend in legends:
        whole = legend["whole"]
        for text in legend["texts"]:
            assert whole["left"] <= text["left"] < text["right"] <= whole["right"] + 1, legend
            assert whole["top"] <= text["top"] < text["bottom"] <= whole["bottom"] + 1, legend
        # It lies above the plot, or below the title of its axis.
        above = legend["box"]["bottom"] <= legend["plot"]["top"] + 2
        assert above or legend["box"]["top"] >= legend["axis"]["bottom"] - 2, legend
        assert legend["plot"]["height"] > 150, legend
    names = {name for legend in legends for name in legend["names"]}
    assert any(long in name for name in names), names
    assert complaints(browser) == []


def test_sites_of_two_methods_at_the_same_bits_stand_beside_each_other(browser: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    signatures = []
    for method, bits, seed in (("minmax", 8, 0), ("minmax", 8, 1), ("minmax", 3, 0), ("repq_vit", 8, 0)):
        signatures.append(finish(store, config(method, bits, seed), correct(bits + seed)))
        store.run(signatures[-1]).write_sites(sites([bits] * 10, seed))
    store.write_sweep(SweepRecord(name="demo", signatures=signatures))
    show(browser, report.build(store, "demo", ["html"])["html"])
    chosen = "return document.getElementById('site-{}').selectedOptions[0].textContent"
    assert [browser.execute_script(chosen.format(side)) for side in "ab"] == [
        "minmax W8A8, seed 0", "repq_vit W8A8, seed 0"
    ]  # fmt: skip


def test_probes_are_drawn_and_sites_can_be_chosen(browser: Any, rich: Store) -> None:
    from selenium.webdriver.support.ui import Select

    df = report.table(rich, "demo")
    quantized = df[(df["state"] == "done") & (df["bits"] != "FP")].drop_duplicates(["method", "bits"])
    chosen = quantized["signature"].tolist()[:3]
    for index, signature in enumerate(chosen):
        probe(rich.run(str(signature)), index)
    show(browser, report.build(rich, "demo", ["html"])["html"])
    count = "return document.querySelectorAll('#loss-landscapes-{} .{}').length"
    assert [browser.execute_script(count.format(n, "contourlayer image")) for n in (0, 1, 2)] == [3, 0, 6]
    assert browser.execute_script(count.format(1, "scatterlayer .trace")) == 3
    bars = "return document.querySelectorAll('#distribution-plot .barlayer .trace').length"
    assert browser.execute_script(bars) == 2
    notes = "return document.getElementById('distribution-notes').textContent"
    before = browser.execute_script(notes)
    Select(browser.find_element("id", "distribution-site")).select_by_visible_text("blocks.3.site5")
    after = browser.execute_script(notes)
    assert before != after
    assert after.count("SQNR") == 2
    Select(browser.find_element("id", "distribution-b")).select_by_index(0)
    assert browser.execute_script(bars) == 1
    assert complaints(browser) == []


def test_tables_sort_and_filter(browser: Any, rich: Store) -> None:
    show(browser, report.build(rich, "demo", ["html"])["html"])
    heads = browser.execute_script(
        "return [...document.querySelectorAll('table.sortable')]"
        ".map(t => [...t.tHead.rows[0].cells].map(c => c.textContent))"
    )
    table, index = next((i, h.index("top‑1, %")) for i, h in enumerate(heads) if "top‑1, %" in h)
    head = f"document.querySelectorAll('table.sortable')[{table}].tHead.rows[0].cells[{index}]"
    button = f"{head}.querySelector('button').click()"
    browser.execute_script(button)
    up = [float(v) for v in column(browser, table, index)]
    browser.execute_script(button)
    assert up == sorted(up)
    assert [float(v) for v in column(browser, table, index)] == up[::-1]
    search = browser.find_elements("css selector", ".filter input")[-1]
    search.send_keys("percentile 1")
    methods = column(browser, table, heads[table].index("method"))
    assert methods
    assert set(methods) == {"percentile"}
    assert complaints(browser) == []


def test_pivot_and_verdict_answer(browser: Any, rich: Store) -> None:
    from selenium.webdriver.support.ui import Select

    show(browser, report.build(rich, "demo", ["html"])["html"])
    df = report.table(rich, "demo")

    def pivot() -> dict[str, list[str]]:
        rows = browser.execute_script(
            "return [...document.querySelectorAll('#pivot tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
        return {row[0]: row[1:] for row in rows}

    minmax = "minmax · 32 calibration images"
    mean, std = df[df["method"] == "minmax"]["top1"].agg(["mean", "std"])
    assert f"{mean:.2f} ± {std:.2f} (3)" in pivot()[minmax]
    Select(browser.find_element("id", "pivot-metric")).select_by_value("mb")
    Select(browser.find_element("id", "pivot-columns")).select_by_value("seed")
    assert pivot()["minmax · W4A4 · 32 calibration images"][:3] == ["0.105"] * 3
    # Nothing but seeds is pooled until somebody asks for it.
    assert all(" · " in name for name in pivot())
    browser.find_element("id", "pivot-pool").click()
    assert {*pivot()} == {*df["method"]}

    Select(browser.find_element("id", "verdict-a")).select_by_value("repq_vit")
    Select(browser.find_element("id", "verdict-b")).select_by_value("minmax")
    lines = browser.find_element("id", "verdict").text.splitlines()
    assert len(lines) == 1
    assert "repq_vit is better than minmax" in lines[0]
    Select(browser.find_element("id", "verdict-b")).select_by_value("repq_vit")
    assert "two different methods" in browser.find_element("id", "verdict").text
    assert complaints(browser) == []


def test_names_of_the_data_stay_text(browser: Any, tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    store = Store(tmp_path / "runs")
    signatures = []
    for name, wrong in ((evil, 3), ("b", 40)):
        signatures.append(finish(store, config(name, model__name=evil), correct(wrong)))
        store.run(signatures[-1]).write_sites(sites([4] * 10, 1))
    store.write_sweep(SweepRecord(name="demo", signatures=signatures, baseline="b"))
    show(browser, report.build(store, "demo", ["html"])["html"])
    assert browser.execute_script("return document.querySelectorAll('img[onerror]').length") == 0
    assert evil in browser.find_element("id", "verdict").text
    assert complaints(browser) == []


def test_two_hundred_runs_stay_below_five_megabytes(browser: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    signatures = []
    for number in range(200):
        run = config(f"method_{number % 10}", (8, 6, 4, 3)[number // 10 % 4], seed=number // 40)
        signatures.append(finish(store, run, correct(number % 50, number)))
        store.run(signatures[-1]).write_sites(sites([3, 4, 5, 8, 6] * 24, number))
    store.write_sweep(SweepRecord(name="demo", signatures=signatures, baseline="method_0"))
    path = report.build(store, "demo", ["html"])["html"]
    assert path.stat().st_size < 5e6
    show(browser, path)
    assert complaints(browser) == []
    assert (
        len(json.loads(browser.execute_script("return document.getElementById('payload').textContent"))["runs"]) == 200
    )


def test_the_live_page_shows_a_new_result_by_itself(browser: Any, store: Store) -> None:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    with server(store, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            browser.get(f"http://127.0.0.1:{running.server_address[1]}/sweep/demo")
            WebDriverWait(browser, 60).until(lambda b: "11 done" in b.find_element("id", "live").text)
            finish(store, config("percentile", 6), correct(4))
            # The page is replaced as it is read.
            wait = WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException])
            wait.until(lambda b: "12 done" in b.find_element("css selector", "header").text)
        finally:
            running.shutdown()
            thread.join()
    assert [line for line in complaints(browser) if "favicon" not in line] == []
