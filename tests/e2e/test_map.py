"""A reference index is made, asked and searched on the command line."""

from pathlib import Path

import pytest
from anndata import read_h5ad

from tests.e2e.conftest import Cellfm
from tests.e2e.simulate import N_CELLS

pytest.importorskip("faiss")


def test_build_query_and_search(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    index, target = tmp_path / "index", tmp_path / "mapped.h5ad"
    built = cellfm("map", "build", simulated, index, "--model", model, "--label", "cell_type")
    assert built.code == 0, built.err
    assert "get the label of the other cells with accuracy" in built.out
    assert f"wrote {index}: {N_CELLS} cells × 32 (cls), flat, euclidean" in built.out
    mapped = cellfm("map", "query", simulated, index, target, "--model", model)
    assert mapped.code == 0, mapped.err
    assert f"wrote {target}: {N_CELLS} cells" in mapped.out
    obs = read_h5ad(target).obs
    # The cells are those of the index, so that each finds itself; the network is random.
    assert (obs["map_cell_type"].astype(str) == obs["cell_type"].astype(str)).mean() > 0.75
    found = cellfm("map", "search", index, "--cell", "cell3", "--n-results", 2)
    assert found.code == 0, found.err
    header, *lines = found.out.splitlines()
    assert header.split("\t") == ["query", "rank", "cell", "distance", "percentile", "cell_type"]
    assert len(lines) == 2
    own = cellfm("map", "search", index, simulated, "--cell", "cell3", "--model", model)
    assert own.out.splitlines()[1].split("\t")[:3] == ["cell3", "1", "cell3"]


def test_refusals_leave_nothing(
    cellfm: Cellfm, simulated: Path, model: Path, tmp_path: Path
) -> None:
    refused = cellfm("map", "build", simulated, tmp_path / "i", "--model", model, "--label", "x")
    assert refused.code == 2
    assert "no column 'x'; it has cell_type" in refused.err
    refused = cellfm("map", "query", simulated, tmp_path, tmp_path / "out.h5ad")
    assert refused.code == 2
    assert "no reference index" in refused.err
    assert not list(tmp_path.iterdir())
