"""A corpus of real files, built by several processes, extended, checked, and searched."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from cellfm.corpus.build import add, build
from cellfm.corpus.check import check
from cellfm.corpus.contains import contains
from cellfm.corpus.sources import read_sources
from cellfm.corpus.store import Store
from cellfm.genes import Vocabulary, resolve
from tests.stores import files_of, four_sources

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_real_files_become_a_corpus(shared_data: Path, tmp_path: Path) -> None:
    sources = read_sources(
        [shared_data / name for name in ("pbmc3k", "baron_pancreas_mini", "papalexi_thp1_crispr")]
    )
    result = build(sources, tmp_path / "s", n_workers=2)
    assert {d.name: d.n_cells for d in result.manifest.datasets} == {
        "baron_pancreas_mini": 171,
        "papalexi_thp1_crispr": 0,  # 299 genes were measured: no cell has 200 of them
        "pbmc3k": 2700,
    }
    assert result.report.dropped["min_genes"] == 20_729
    more = read_sources([shared_data / "tian_3celllines_2tech", shared_data / "pbmc3k"])
    result = add(more, tmp_path / "s", n_workers=1)
    assert result.skipped == (("pbmc3k", "pbmc3k"),)
    assert check(tmp_path / "s").is_good
    store = Store.open(tmp_path / "s")
    assert store.n_cells == 171 + 2700 + 499

    original = ad.read_h5ad(sources[-1].path)
    first = ad.read_zarr(store.parts[0].path)
    rows = first.obs["row"][first.obs["dataset"] == "pbmc3k"].to_numpy()
    token = resolve(original.var_names, Vocabulary.from_hgnc()).token
    totals = np.asarray(original[rows, token > 0].X.sum(axis=1)).ravel()
    assert (totals == first.obs["total_counts"][first.obs["dataset"] == "pbmc3k"]).all()
    found = contains(store, replace(sources[-1], name="again"))
    assert (found.known_as, found.n_found, found.fraction) == ("pbmc3k", 2700, 1.0)
    donor = read_sources([shared_data / "pbmc_donorA_unlabelled"])[0]
    assert contains(store, donor).is_free


SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from cellfm.corpus.build import build
from cellfm.corpus.sources import SourceEntry
from cellfm.errors import CorpusError
from tests.stores import RULES, vocabulary

folder, store, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sources = [SourceEntry(name=n, path=folder / f"{n}.h5ad") for n in ("a", "b", "bad", "c")]
options = dict(rules=RULES, vocabulary=vocabulary(), n_workers=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    build(sources, store, **options)
except CorpusError as error:
    print(error)
assert not store.exists()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
build(sources, store, **options)
build(sources, store.with_name("again"), **options)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the system")
@pytest.mark.parametrize("limit", [500, 6000])
def test_files_that_do_not_fit_leave_no_store(tmp_path: Path, limit: int) -> None:
    four_sources(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, str(tmp_path), str(tmp_path / "s"), str(limit)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be written (File too large). Make room" in done.stdout
    assert files_of(tmp_path / "s") == files_of(tmp_path / "again")
