"""The page of a perturbation model in a browser: the menu changes perturbation and axes, and nothing is asked of the network."""

from pathlib import Path

import pytest

from cellfm import pl
from tests.unit.pl.test_perturbation import NAMES, judged

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jinja2")
pytest.importorskip("plotly")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
RANGE = "document.querySelector('.js-plotly-plot').layout.xaxis.range"


def test_menu_shows_another_perturbation(tmp_path) -> None:
    if not CHROMIUM.is_file():
        pytest.skip("there is no chromium here")
    path = pl.perturbation_report(judged(), tmp_path / "p.html")
    said, asked = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg", state="attached")
        # the largest response comes first: points, mean of the others, perturbed gene
        assert page.locator(".updatemenu-header").text_content().startswith("STAT1")
        assert page.locator(".js-plotly-plot .scatterlayer .trace").count() == 3
        before = page.evaluate(RANGE)
        page.locator(".updatemenu-header").click()
        page.locator(".updatemenu-dropdown-button", has_text=NAMES[0]).click()
        page.wait_for_function(f"JSON.stringify({RANGE}) !== '{before}'.replaceAll(' ', '')")
        assert page.locator(".js-plotly-plot .scatterlayer .trace").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= 1300
        assert said == []
        assert asked == [path.as_uri()]
        browser.close()
