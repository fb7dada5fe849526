"""Screenshots of a sweep's report, by headless Chromium: `python docs/screenshots.py runs demo docs/screenshots`.

Needs Debian's `chromium` and `chromium-driver`, and selenium (`pip install 'vitq[dev]'`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from vitq import report
from vitq.store import Store


def browser(dark: bool) -> webdriver.Chrome:
    """A headless Chromium in light or dark."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or sys.exit(
        "chromium is not installed; apt-get install chromium"
    )
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1400,900"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    return driver


def main() -> int:
    """Write report-light.png, report-dark.png (the whole page) into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs_dir")
    parser.add_argument("sweep")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    page = report.build(Store(args.runs_dir), args.sweep, ["html"], args.out)["html"]
    for dark in (False, True):
        driver = browser(dark)
        try:
            driver.get(page.absolute().as_uri())
            drawn = "return document.documentElement.dataset.drawn"
            WebDriverWait(driver, 60).until(lambda d: d.execute_script(drawn) == "true")  # noqa: B023
            height = driver.execute_script("return document.documentElement.scrollHeight")
            driver.set_window_size(1400, min(height + 100, 2600))
            path = args.out / f"report-{'dark' if dark else 'light'}.png"
            driver.save_screenshot(str(path))
            # A palette is enough for a page, and a quarter of the size.
            Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
            print(path)
        finally:
            driver.quit()
    page.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
