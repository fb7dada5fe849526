"""Screenshots of a sweep's report, by headless Chromium: `python docs/screenshots.py runs forty docs/screenshots`.

The sweep of docs/screenshots is that of `python benchmarks/tracking.py --runs-dir runs`. Needs Debian's `chromium` and
`chromium-driver`, and selenium (`pip install 'vitq[dev]'`).
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from vitq import report
from vitq.store import Store

# File, theme, and what is on it: from the top of the page (None) or the section with this heading to the end of the
# section with that heading, or of the figure with that id.
SHOTS: tuple[tuple[str, str, str | None, str], ...] = (
    ("report-light.png", "light", None, "Pivot table"),
    ("report-dark.png", "dark", None, "Pivot table"),
    ("report-bits.png", "light", "Bit allocation", "Bit allocation"),
    ("report-landscapes.png", "light", "Loss landscapes", "#loss-landscapes-3"),
    ("report-sites.png", "dark", "Quality of each site", "Not finished"),
)
# Where a shot begins and ends, in pixels of the page; null where there is no such section.
_SPAN = """
const sections = [...document.querySelectorAll("section")];
const section = (name) => sections.find((s) => s.querySelector("h2").textContent === name);
const first = arguments[0] === null ? document.body : section(arguments[0]);
const figure = (id) => document.querySelector(id)?.closest("figure");
const last = arguments[1].startsWith("#") ? figure(arguments[1]) : section(arguments[1]);
if (!first || !last) return null;
return [first.getBoundingClientRect().top + scrollY, last.getBoundingClientRect().bottom + scrollY];
"""
_WIDTH = 1400


def browser(theme: str) -> webdriver.Chrome:
    """A headless Chromium in `light` or `dark`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or sys.exit(
        "chromium is not installed; apt-get install chromium"
    )
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={_WIDTH},900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    return driver


def picture(driver: webdriver.Chrome, first: str | None, last: str) -> Image.Image | None:
    """The page from one section to another, None where it has no such sections."""
    span = driver.execute_script(_SPAN, first, last)
    if span is None:
        return None
    clip = {"x": 0, "y": span[0], "width": _WIDTH, "height": span[1] - span[0] + 20, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def main() -> int:
    """Write the pictures of `SHOTS` into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs_dir")
    parser.add_argument("sweep")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    page = report.build(Store(args.runs_dir), args.sweep, ["html"], args.out)["html"]
    for theme in ("light", "dark"):
        driver = browser(theme)
        try:
            driver.get(page.absolute().as_uri())
            drawn = "return document.documentElement.dataset.drawn"
            WebDriverWait(driver, 60).until(lambda d: d.execute_script(drawn) == "true")  # noqa: B023
            for name, wanted, first, last in SHOTS:
                if wanted == theme:
                    shot = picture(driver, first, last)
                    if shot is None:
                        print(f"{name}: this report has no {first or last}", file=sys.stderr)
                        continue
                    # A palette is enough for a page, and a third of the size.
                    shot.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                        args.out / name, optimize=True
                    )
                    print(args.out / name)
        finally:
            driver.quit()
    page.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
