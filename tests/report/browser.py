"""A headless Chromium that opens reports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """The driver of a browser whose profile is this folder; its console is logged."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1200",
                     f"--user-data-dir={profile}"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def show(browser: Any, path: Path) -> None:
    """Open a page and wait for its charts."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script("return document.documentElement.dataset.drawn") == "true"
    )


def complaints(browser: Any) -> list[str]:
    """What was written to the console since it was last asked for."""
    return [entry["message"] for entry in browser.get_log("browser")]


def column(browser: Any, table: int, index: int) -> list[str]:
    """Texts of a column of the n-th sortable table, rows that a filter hides left out."""
    script = (
        "return [...document.querySelectorAll('table.sortable')[arguments[0]].tBodies[0].rows]"
        ".filter(r => !r.hidden).map(r => r.cells[arguments[1]].textContent.trim())"
    )
    texts: list[str] = browser.execute_script(script, table, index)
    return texts


# Where the legend of every figure, its texts, the plot and the title of its axis lie.
LEGENDS = """
const box = (node) => node.getBoundingClientRect().toJSON();
const parts = ['.legend .bg', '.legendtext', '.xtitle', '.nsewdrag'];
const drawn = (plot) => parts.every((part) => plot.querySelector(part));
return [...document.querySelectorAll('div.plot')].filter(drawn).map((plot) => ({
  id: plot.id, whole: box(plot), box: box(plot.querySelector(parts[0])), plot: box(plot.querySelector(parts[3])),
  axis: box(plot.querySelector('.xtitle')), texts: [...plot.querySelectorAll('.legendtext')].map(box),
  names: [...plot.querySelectorAll('.legendtext')].map((text) => text.textContent)}))
"""
