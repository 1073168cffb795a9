"""The README's pictures of the report: `python benchmarks/screenshots.py` after `dvc repro` writes docs/report*.png.

Needs Chromium and the dev extra. Each picture is a named part of reports/index.html as it opens; nothing is arranged.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 300_000  # bytes of a picture
# picture: (width, height, colour scheme, data set as listed on the page, heading scrolled to)
PICTURES = {
    "report.png": (1160, 980, "light", 0, "Records: look, and decide"),
    "report-dark.png": (1160, 980, "dark", 1, "Records: look, and decide"),
}


def main(page: Path, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or not page.is_file():
        sys.exit(f"{page}: needs the report (dvc repro) and a browser (apt-get install chromium)")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, scheme, at, heading) in PICTURES.items():
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme,
                                   reduced_motion="reduce")  # fmt: skip
            tab.goto(page.resolve().as_uri())
            title = tab.locator(f"#d{at + 1} h3", has_text=heading)
            title.evaluate("node => { node.scrollIntoView(); scrollBy(0, -16) }")
            tab.screenshot(path=out / name)
            size = (out / name).stat().st_size
            print(f"{out / name}: {size} bytes" + ("" if size < LIMIT else f", more than {LIMIT}"))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reports" / "index.html", ROOT / "docs")
