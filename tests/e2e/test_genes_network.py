"""Networks of genes on the command line: files, tables, a picture, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

from cellfm.weights.folder import load
from tests.e2e.conftest import Cellfm

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("networkx")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty genes of the packaged model; five sources that each switch nine targets, in two conditions."""
    symbols = load("mini").vocabulary.symbols[100:160]
    rng = np.random.default_rng(0)
    on = rng.integers(0, 2, (120, 5))
    rate = np.full((120, 60), 1.5)
    edges = []
    for k in range(5):
        own = [k, *range(5 + 9 * k, 14 + 9 * k)]
        rate[:, own] += 4 * on[:, [k]]
        edges += [(symbols[k], symbols[j]) for j in own[1:]]
    folder = tmp_path_factory.mktemp("network")
    obs = pd.DataFrame({"state": np.repeat(["one", "two"], 60)}, index=[f"c{i}" for i in range(120)])  # fmt: skip
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    AnnData(counts, obs=obs, var=pd.DataFrame(index=list(symbols))).write_h5ad(folder / "cells.h5ad")  # fmt: skip
    known = "".join(f"{one}\t{other}\tUnknown\t1\n" for one, other in edges)
    (folder / "known.tsv").write_text(known, encoding="utf-8")
    (folder / "tfs.txt").write_text("\n".join(symbols[:5]), encoding="utf-8")
    return folder / "cells.h5ad"


def test_a_network_beside_its_controls(cellfm: Cellfm, cells: Path, tmp_path: Path) -> None:
    out, gene = tmp_path / "out", load("mini").vocabulary.symbols[100]
    words = ("genes", "network", cells, out, "--known", cells.parent / "known.tsv")
    made = cellfm(*words, "--n-heads", 1, "--n-genie3", 5, "--n-permutations", 50, "--gene", gene, "--varp")  # fmt: skip
    assert made.code == 0, made.err
    controls = pd.read_csv(out / "controls.csv", index_col=[0, 1])
    assert controls.loc[("all pairs", "|Pearson|"), "epr"] > 5
    assert ("held-out sources", "cellfm, best heads") in controls.index
    assert "|Pearson| in the same cells" in made.out
    edges = pd.read_csv(out / "edges.csv.gz")
    assert {"source", "target", "score", "rank", "p", "known"} <= set(edges.columns)
    assert (out / f"neighbourhood_{gene}.png").stat().st_size > 5000
    assert (out / "network.graphml").read_text(encoding="utf-8").startswith("<?xml")
    written = read_h5ad(out / "cells.h5ad")
    assert written.varp["cellfm_network"].nnz == len(edges)
    refused = cellfm(*words)
    assert refused.code == 2
    assert "exists already" in refused.err


def test_without_a_known_network_it_says_so(cellfm: Cellfm, cells: Path, tmp_path: Path) -> None:
    out, tfs = tmp_path / "out", cells.parent / "tfs.txt"
    made = cellfm("genes", "network", cells, out, "--tfs", tfs, "--method", "embedding", "--n-edges", 20)  # fmt: skip
    assert made.code == 0, made.err
    assert "was not tested" in made.out
    assert len(pd.read_csv(out / "edges.csv.gz")) == 20
    assert not (out / "controls.csv").exists()


def test_two_conditions(cellfm: Cellfm, cells: Path, tmp_path: Path) -> None:
    out, tfs = tmp_path / "out", cells.parent / "tfs.txt"
    words = ("genes", "network", cells, out, "--tfs", tfs, "--groupby", "state")
    made = cellfm(*words, "--between", "one,two", "--n-permutations", 50)
    assert made.code == 0, made.err
    changes = pd.read_csv(out / "changes.csv.gz")
    assert {"difference", "z", "p", "p_family"} <= set(changes.columns)
    assert "differ between one and two" in made.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "No regulators were named"),
        (("--tfs", "TFS", "--between", "one"), "takes two entries"),
        (("--tfs", "TFS", "--gene", "NOTAGENE"), "'NOTAGENE' is not known"),
        (("--tfs", "TFS", "--n-heads", 2), "there is none"),
        (("--known", "KNOWN", "--heads", "layer 0 head 0"), "Leave one of the two out"),
        (("--tfs", "TFS", "--between", "one,two", "--group", "x"), "Run the command twice"),
    ],
)
def test_refusals(
    cellfm: Cellfm, cells: Path, tmp_path: Path, more: tuple[object, ...], message: str
) -> None:
    files = {"TFS": cells.parent / "tfs.txt", "KNOWN": cells.parent / "known.tsv"}
    words = [files.get(word, word) if isinstance(word, str) else word for word in more]
    refused = cellfm("genes", "network", cells, tmp_path / "out", *words, "--method", "embedding")
    assert refused.code == 2
    assert message in refused.err
    assert not (tmp_path / "out").exists()
