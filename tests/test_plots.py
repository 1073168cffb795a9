"""`dvc plots` without a network: the repository's page draws DVC's own specs and asks for nothing."""

from __future__ import annotations

import configparser
import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def page_of(out: Path) -> Path:
    """What `dvc plots show` writes of a loss by DVC's linear template, two arms by ours, and a bar chart."""
    from dvc_render import render_html
    from dvc_render.vega import VegaRenderer

    loss = [{"step": str(i), "loss": str(2 / (i + 1)), "rev": rev} for rev in ("workspace", "main") for i in range(50)]
    curves = [{"recall": r / 10, "precision": 1 - r / 20, "arm": arm, "rev": "workspace"}
              for arm in ("real", "mixed", "<img src=x onerror=alert(1)>") for r in range(11)]  # fmt: skip
    bars = [{"kind": "a", "count": 3, "rev": "workspace"}]
    renderers = [
        VegaRenderer(loss, "loss.csv", x="step", y="loss", title="loss of the base"),
        VegaRenderer(curves, "pr.csv", x="recall", y="precision", template="arms", title="precision and recall",
                     template_dir=str(ROOT / ".dvc" / "plots")),
        VegaRenderer(bars, "bars.csv", x="count", y="kind", template="bar_horizontal", title="counts"),
    ]  # fmt: skip
    render_html(renderers, output_file=out / "index.html", html_template=ROOT / ".dvc" / "plots" / "offline.html")
    return out / "index.html"


def test_dvc_is_told_to_use_the_offline_page():
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    assert (ROOT / ".dvc" / config["plots"]["html_template"]).is_file()


def test_every_template_is_json_and_the_page_names_no_address(tmp_path):
    for template in (ROOT / ".dvc" / "plots").glob("*.json"):
        json.loads(template.read_text())
    text = page_of(tmp_path).read_text()
    assert text.count("vegaEmbed('#") == 3 and not re.search("<script[^>]*src|<link|@import|cdn", text)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
def test_the_page_draws_a_line_a_group_without_a_request(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
    path, asked, said = page_of(tmp_path), [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        drawn = page.locator("body > div").evaluate_all("all => all.map(n => [n.querySelector('h2').textContent, "
                                                        "n.querySelectorAll('svg[role=img] polyline').length, "
                                                        "[...n.querySelectorAll('li')].map(l => l.textContent)])")
        rows, marks = page.locator("table tr").count(), page.locator("polyline").first.get_attribute("points")
        browser.close()
    assert drawn == [["loss of the base", 2, ["workspace", "main"]],
                     ["precision and recall", 3, ["real", "mixed", "<img src=x onerror=alert(1)>"]],
                     ["counts", 0, []]]  # fmt: skip
    ys = [float(pair.split(",")[1]) for pair in marks.split()]
    assert len(ys) == 50 and ys == sorted(ys) and rows == 2  # a falling loss goes down the picture
    assert asked == [path.as_uri()] and said == []
