"""A small file of cells, and a client that asks the application without a socket."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

pytest.importorskip("starlette")
pytest.importorskip("plotly")

GENES = ("ACTB", "GAPDH", "CD3E", "MS4A1", "LYZ", "NKG7", "PPBP", "B2M")
N_CELLS = 40


def small_cells(n_cells: int = N_CELLS) -> AnnData:
    """Cells; MS4A1 is high in the second half."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (n_cells, len(GENES))).astype(np.float32)
    counts[:, 0] += 1.0
    counts[n_cells // 2 :, 3] += 20.0
    kind = np.repeat(["T", "B"], n_cells // 2)
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(kind, categories=["T", "B"]),
            "depth": counts.sum(axis=1),
            "good": rng.random(n_cells) < 0.5,
            "note": [None, *["x"] * (n_cells - 1)],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    adata = AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(GENES)))
    adata.obsm["X_umap"] = rng.normal(size=(n_cells, 2)).astype(np.float32)
    adata.obsm["X_cellfm"] = rng.normal(size=(n_cells, 6)).astype(np.float32)
    return adata


@pytest.fixture
def adata() -> AnnData:
    return small_cells()


@pytest.fixture
def path(adata: AnnData, tmp_path: Path) -> Path:
    adata.write_h5ad(tmp_path / "small.h5ad")
    return tmp_path / "small.h5ad"


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


def ask(app, path: str, *, method: str = "GET", headers=None, body: bytes = b"") -> Answer:
    """Send one request to an application."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "root_path": "",
    }
    sent, parts = [], [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]

    async def receive():
        if not parts:  # the client waits for the answer
            await asyncio.Event().wait()
        more = len(parts) > 1
        return {"type": "http.request", "body": parts.pop(0), "more_body": more}

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = sent[0]
    return Answer(
        status=start["status"],
        headers={k.decode(): v.decode() for k, v in start["headers"]},
        content=b"".join(message.get("body", b"") for message in sent[1:]),
    )
