"""The page of ``cellfm view`` in a browser, served by the command itself."""

import csv
import http.client
import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest

playwright = pytest.importorskip("playwright.sync_api")
for package in ("starlette", "uvicorn", "plotly", "scanpy"):
    pytest.importorskip(package)

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
N_UNKNOWN = 30


class Server(NamedTuple):
    process: subprocess.Popen
    url: str
    origin: str
    folder: Path

    def request(self, path: str, **headers: str) -> tuple[int, str]:
        """Ask without a browser."""
        with closing(http.client.HTTPConnection(self.origin.removeprefix("http://"))) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


def shown_file(simulated: Path, path: Path) -> Path:
    """Cells in two clouds, one a type, with what `cellfm annotate` writes."""
    adata = anndata.read_h5ad(simulated)
    rng = np.random.default_rng(0)
    right = (adata.obs["cell_type"] == "type1").to_numpy()
    adata.obsm["X_umap"] = np.c_[10.0 * right, np.zeros(len(right))] + rng.normal(
        0, 1, (len(right), 2)
    )
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    labels[:N_UNKNOWN] = "unknown"
    adata.obs["cellfm"] = pd.Categorical(labels)
    adata.obs["cellfm_probability"] = np.linspace(0.2, 1, len(labels)).astype(np.float32)
    adata.obs["cellfm_novelty"] = rng.random(len(labels)).astype(np.float32)
    adata.obs["n_genes"] = np.asarray((adata.X > 0).sum(axis=1)).ravel()
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def shown(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shown_file(simulated, tmp_path_factory.mktemp("view") / "shown.h5ad")


@pytest.fixture(scope="module")
def server(shown: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not CHROMIUM.is_file():
        pytest.skip("there is no chromium here")
    folder = tmp_path_factory.mktemp("temporary")
    code = (
        f"import tempfile; tempfile.tempdir = {str(folder)!r}; from cellfm.cli import main; main()"
    )
    words = [sys.executable, "-c", code, "view", str(shown), "--no-browser", "--model", str(model)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = process.stdout.readline().strip()
    origin = url.partition("/?")[0]
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", url)
        yield Server(process, url, origin, folder)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert said.endswith("stopped\n")
        assert "Traceback" not in said
        assert not list(folder.iterdir())
    finally:
        process.kill()


class Page:
    def __init__(self, page, server: Server) -> None:
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(server.url)
        self.drawn("cellfm")

    def drawn(self, name: str) -> None:
        """Wait until the cells are coloured by this."""
        self.page.wait_for_selector(f'#plot[data-drawn="{name}"]')

    def drag(self, *corners: tuple[float, float]) -> None:
        """Draw on the map; places as shares of its width and height."""
        box = self.page.locator("#plot .nsewdrag").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        mouse = self.page.mouse
        mouse.move(*places[0])
        mouse.down()
        for place in places[1:]:
            mouse.move(*place, steps=5)
        mouse.up()

    def rows(self, table: str) -> list[list[str]]:
        self.page.wait_for_selector(f"#{table} tbody tr")
        rows = self.page.locator(f"#{table} tbody tr").all()
        return [row.locator("td").all_inner_texts() for row in rows]

    def drop(self, name: str, content: bytes) -> None:
        """Let a file fall on the page."""
        transfer = self.page.evaluate_handle(
            """([name, bytes]) => { const t = new DataTransfer();
            t.items.add(new File([Uint8Array.from(bytes)], name)); return t; }""",
            [name, list(content)],
        )
        self.page.dispatch_event("body", "drop", {"dataTransfer": transfer})

    def message(self) -> str:
        self.page.wait_for_selector("#message:not([hidden])")
        return self.page.locator("#message-text").inner_text()


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser, server: Server) -> Page:
    return Page(browser.new_page(viewport={"width": 1366, "height": 768}), server)


@pytest.fixture
def page(opened: Page, server: Server) -> Iterator[Page]:
    """The page as it was when it was loaded; after the test it has asked nobody else and made no errors."""
    opened.said.clear()
    opened.page.evaluate("document.getElementById('message-close').click()")
    opened.page.evaluate("document.getElementById('clear').click()")
    opened.page.wait_for_selector("#selected", state="hidden")
    opened.page.select_option("#column", "n_genes")
    opened.drawn("n_genes")
    opened.page.select_option("#column", "cellfm")
    opened.drawn("cellfm")
    yield opened
    opened.page.wait_for_load_state("networkidle")
    foreign = [url for url in opened.asked if not url.startswith((server.origin, "data:", "blob:"))]
    assert foreign == []
    # what the browser says of its own slow graphics, and of refusals that the page shows, is no error of the page
    assert [text for text in opened.said if "GL Driver" not in text and " 422 " not in text] == []


def test_cells_are_shown_with_their_labels(page: Page) -> None:
    assert page.page.url.endswith("/")  # the token is in no history
    assert page.page.locator("#facts").inner_text() == "600 cells × 400 genes"
    assert (
        f"{N_UNKNOWN} of 600 cells unknown (5.0 %)" in page.page.locator("#annotation").inner_text()
    )
    names = page.page.locator("#legend .name").all_inner_texts()
    assert names == ["type0", "type1", "unknown"]
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 1366
    traces = page.page.evaluate(
        "document.getElementById('plot').data.map(t => [t.name, t.x.length])"
    )
    assert traces[0] == ["unknown", N_UNKNOWN]  # below all others
    assert sum(n for _, n in traces) == 600
    assert page.page.locator("#plot").inner_text().count("WebGL") == 0


def test_colour_by_column_and_by_gene(page: Page, shown: Path) -> None:
    page.page.select_option("#column", "cellfm_probability")
    page.drawn("cellfm_probability")
    assert "from 0.2 to 1" in page.page.locator("#colour-note").inner_text()
    adata = anndata.read_h5ad(shown)
    gene = adata.var_names[3]
    page.page.fill("#gene", gene.lower())
    page.page.press("#gene", "Enter")
    page.drawn(gene)
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    expected = np.log1p(adata[:, gene].X.toarray()[:, 0] / total * 1e4)
    found = page.page.evaluate("Array.from(document.getElementById('plot').data[0].marker.color)")
    np.testing.assert_allclose(found, np.sort(expected), rtol=1e-5)
    page.page.fill("#gene", "NOSUCHGENE")
    page.page.press("#gene", "Enter")
    assert "There is no gene 'NOSUCHGENE'" in page.message()


def test_near_names_are_offered_and_chosen_by_keys(page: Page, shown: Path) -> None:
    gene = str(anndata.read_h5ad(shown, backed="r").var_names[5])
    page.page.locator("#gene").press_sequentially(gene[:-1])
    page.page.wait_for_selector("#near li")
    offered = page.page.locator("#near li").all_inner_texts()
    assert gene in offered
    for _ in range(offered.index(gene) + 1):
        page.page.press("#gene", "ArrowDown")
    page.page.press("#gene", "Enter")
    page.drawn(gene)


def test_select_by_mouse_then_composition_markers_and_csv(page: Page, shown: Path) -> None:
    adata = anndata.read_h5ad(shown)
    page.drag((0.6, 0.05), (0.98, 0.05), (0.98, 0.95), (0.6, 0.95), (0.6, 0.06))
    rows = page.rows("composition")
    right = adata.obsm["X_umap"][:, 0] > 5
    expected = adata.obs["cellfm"][right].value_counts()
    assert {row[0]: int(row[1]) for row in rows} == {k: n for k, n in expected.items() if n}
    n = int(right.sum())
    assert page.page.locator("#chosen-text").inner_text().startswith(f"{n} of 600 cells")
    page.page.click("#find-markers")
    found = [row[0] for row in page.rows("markers")]
    logged = np.log1p(adata.X.toarray() / adata.X.sum(axis=1) * 1e4)
    gap = np.asarray(logged[right].mean(axis=0) - logged[~right].mean(axis=0)).ravel()
    best = set(adata.var_names[np.argsort(-gap)[:20]])
    assert len(set(found[:10]) & best) >= 8
    with page.page.expect_download() as download:
        page.page.click("#csv")
    text = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == f"shown_{n}_cells.csv"
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["barcode"] for row in table] == list(adata.obs_names[right])
    assert {row["cell_type"] for row in table} == {"type1"}
    assert float(table[0]["umap_1"]) == pytest.approx(adata.obsm["X_umap"][right][0, 0], abs=1e-4)


def test_select_without_a_mouse_and_clear(page: Page) -> None:
    button = page.page.get_by_role("button", name="select the cells of unknown")
    button.focus()
    button.press("Enter")
    page.page.wait_for_selector("#selected:not([hidden])")
    assert page.rows("composition") == [["unknown", "30", "100.0 %", "5.0 %"]]
    page.page.click("#clear")
    page.page.wait_for_selector("#selected", state="hidden")
    page.page.select_option("#column", "cellfm_probability")
    page.drawn("cellfm_probability")
    page.page.fill("#low", "0.9")
    page.page.fill("#high", "1")
    page.page.press("#high", "Enter")
    page.page.wait_for_selector("#selected:not([hidden])")
    assert page.page.locator("#chosen-text").inner_text().startswith("75 of 600")


def test_uncertain_and_hidden_cells_are_not_coloured(page: Page) -> None:
    def traces() -> dict[str, int]:
        script = "document.getElementById('plot').data.map(t => [t.name, t.x.length])"
        return dict(page.page.evaluate(script))

    everything = traces()
    page.page.get_by_role("checkbox", name="show type0").uncheck()
    page.page.wait_for_function(
        "() => !document.getElementById('plot').data.some(t => t.name === 'type0')"
    )
    assert traces() == {name: n for name, n in everything.items() if name != "type0"}
    page.page.locator("#certain").fill("0.6")
    page.page.locator("#certain").dispatch_event("change")
    page.page.wait_for_function(
        "() => document.getElementById('plot').data.some(t => t.name.startsWith('below'))"
    )
    assert traces()["below the probability"] == 300


def test_bad_files_get_their_message(page: Page, shown: Path) -> None:
    page.drop("notes.txt", b"no cells at all")
    assert "notes.txt (15 bytes) is no h5ad file" in page.message()
    page.page.click("#message-close")
    page.drop("half.h5ad", shown.read_bytes()[:20_000])
    assert page.message().startswith("half.h5ad cannot be opened as HDF5")
    assert page.page.locator("#facts").inner_text() == "600 cells × 400 genes"  # still there


def test_dropped_file_is_embedded_and_shown(page: Page, simulated: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.h5ad"
    anndata.read_h5ad(simulated)[:20].copy().write_h5ad(path)
    page.drop("few.h5ad", path.read_bytes())
    page.page.wait_for_selector('#plot[data-layout="UMAP of X_cellfm"]', timeout=60_000)
    assert page.page.locator("#facts").inner_text() == "20 cells × 400 genes"
    assert "genes" in page.message()  # how they matched
    with page.page.expect_download() as download:
        page.page.click("#download")
    made = anndata.read_h5ad(download.value.path())
    assert made.obsm["X_cellfm"].shape[0] == 20
    # the other file is still open
    page.page.select_option("#files", "0")
    page.drawn("cellfm")
    assert page.page.locator("#facts").inner_text() == "600 cells × 400 genes"


def test_strangers_are_refused(browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"{server.origin}/?token=wrong")
    assert answer.status == 403
    assert "Open the whole address that the terminal shows" in page.inner_text("body")
    assert page.goto(f"{server.origin}/api/state").status == 403
    context.close()
    token = server.url.partition("=")[2]
    port = server.origin.rpartition(":")[2]
    assert server.request(f"/api/state?token={token}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1"):
        assert server.request(f"/api/state?token={token}", Host=host)[0] == 400
    status, _ = server.request(f"/api/state?token={token}", Origin="http://evil.example")
    assert status == 403


def test_nothing_listens_elsewhere(server: Server) -> None:
    import psutil

    listening = [
        c for c in psutil.Process(server.process.pid).net_connections() if c.status == "LISTEN"
    ]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
