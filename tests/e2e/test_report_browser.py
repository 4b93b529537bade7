"""The report in a browser: it works, sorts, and asks nothing of the network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cellfm.bench import report
from tests.benchmarks import full_run

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jinja2")
pytest.importorskip("plotly")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, page, path: Path) -> None:
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg", state="attached")


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Iterator[Opened]:
    if not CHROMIUM.is_file():
        pytest.skip("there is no chromium here")
    folder = full_run(tmp_path_factory.mktemp("bench"))
    path = report.write_report(folder)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        opened = Opened(page, path)
        opened.path = path
        yield opened
        browser.close()


def test_no_errors_and_no_requests_but_for_the_file(opened) -> None:
    opened.page.wait_for_load_state("networkidle")
    assert opened.said == []
    assert opened.asked == [opened.path.as_uri()]


def test_tables_and_figures_are_there(opened) -> None:
    page = opened.page
    assert page.locator("h1").inner_text() == "CellFM benchmark"
    # 1 glance, 5 questions with scores and differences, 1 of the data, 2 folded
    assert page.locator("table").count() == 1 + 2 * 5 + 1 + 2
    assert page.locator(".js-plotly-plot").count() == 2
    assert page.locator(".js-plotly-plot .scatterlayer .trace").count() == 2 + 6
    assert page.locator("tr.failed").inner_text().count("failed") == 1


def test_page_fits_its_window(opened) -> None:
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1300


def test_click_on_a_heading_sorts_and_what_failed_stays_last(opened) -> None:
    table = opened.page.locator("table", has=opened.page.locator("tr.failed"))
    names = table.locator("tbody tr td:first-child")

    def order() -> list[str]:
        return [text.split("\n")[0] for text in names.all_inner_texts()]

    by_score = ["oracle", "logistic", "pca", "cellfm", "random", "majority", "scvi"]
    assert order() == by_score
    heading = table.locator("th button", has_text="macro-F1")
    heading.click()
    assert order() == by_score
    heading.click()
    assert order() == [*reversed(by_score[:-1]), "scvi"]
    assert heading.locator("..").get_attribute("aria-sort") == "ascending"
    table.locator("th button", has_text="method").click()
    assert order() == sorted(by_score)


def test_hashes_are_folded_away_until_asked_for(opened) -> None:
    folded = opened.page.locator("details")
    hidden = folded.get_by_text("w" * 64)
    assert not hidden.is_visible()
    folded.locator("summary").click()
    assert hidden.is_visible()
