"""What today's code finds in a folder of the archive; the tool that makes one writes down the same."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import cellfm
from cellfm import tl
from cellfm.config import PretrainConfig
from cellfm.config.load import from_dict
from cellfm.corpus import manifest, part
from cellfm.corpus.check import check
from cellfm.corpus.store import Store
from cellfm.tl import Annotator
from cellfm.train import state
from cellfm.weights import artifact, layout, seen, whitening

ARCHIVE = Path(__file__).resolve().parent
EXPECTED, CELLS = "expected.json", "cells.csv"
N_FIRST = 3  # cells whose numbers are written down
DECIMALS = 5


def formats() -> dict[str, int]:
    """Return the number that the code writes for each format."""
    return {
        "weights": layout.FORMAT,
        "whitening": int(whitening.FORMAT),
        "cells seen": int(seen.FORMAT),
        "corpus": manifest.FORMAT,
        "corpus part": part.FORMAT,
        "artifact": artifact.FORMAT,
        "run": state.FORMAT,
    }


def read_cells(folder: Path) -> ad.AnnData:
    """Return the cells of an entry: a table with the counts of a gene in each column but the first, the type."""
    table = pd.read_csv(folder / CELLS, index_col=0)
    counts = sparse.csr_matrix(table.drop(columns="type").to_numpy(np.float32))
    genes = pd.DataFrame(index=[str(name) for name in table.columns.drop("type")])
    obs = pd.DataFrame({"type": pd.Categorical(table["type"])}, index=[str(i) for i in table.index])
    return ad.AnnData(counts, obs=obs, var=genes)


def open_weights(folder: Path) -> dict[str, object]:
    """Load the weights and embed the first cells."""
    model = cellfm.load(folder / "weights")
    cells = read_cells(folder)[:N_FIRST].copy()
    tl.embed(cells, model)
    known = seen.load_seen(folder / "weights")
    return {
        "hash": model.hash,
        "vocabulary": model.vocabulary.hash,
        "card": (folder / "weights" / "card.md").read_text(encoding="utf-8").splitlines()[0],
        "states": _rounded(cells.obsm["X_cellfm"]),
        "whitened": _rounded(_whitened(folder)),
        "n_seen": 0 if known is None else len(known.number),
    }


def _whitened(folder: Path) -> np.ndarray:
    cells = read_cells(folder)[:N_FIRST].copy()
    tl.embed(cells, cellfm.load(folder / "weights"), pool="whitened")
    return cells.obsm["X_cellfm"]


def open_corpus(folder: Path) -> dict[str, object]:
    """Check every file and cell of the corpus, and read the first cells."""
    store = Store.open(folder / "corpus")
    result = check(folder / "corpus")
    return {
        "problems": [problem.what for problem in result.problems],
        "n_cells": store.n_cells,
        "n_values": store.manifest.n_values,
        "content": store.manifest.content,
        "datasets": [dataset.name for dataset in store.manifest.datasets],
        "total_counts": [int(n) for n in store.numbers_of("total_counts")[:N_FIRST]],
    }


def open_annotator(folder: Path) -> dict[str, object]:
    """Label the cells with the annotator and the weights that it is bound to."""
    cells = read_cells(folder)
    model = cellfm.load(folder / "weights")
    annotator = Annotator.load(folder / "annotator", model)
    tl.annotate(cells, annotator=annotator)
    return {
        "labels": [str(label) for label in cells.obs["cellfm"]],
        "by_pca": [str(label) for label in cells.obs["cellfm_pca"]],
        "probability": _rounded(cells.obs["cellfm_probability"][:N_FIRST]),
        "novelty": _rounded(cells.obs["cellfm_novelty"][:N_FIRST]),
    }


def open_run(folder: Path) -> dict[str, object]:
    """Go on with a copy of the run from its checkpoint to its end, and look at the steps that were taken."""
    config = json.loads((folder / "run" / "config.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        shutil.copytree(folder / "run", run)
        begun = state.list_checkpoints(state.RunFolder(path=run, vocabulary_hash=""))
        result = tl.pretrain_file(
            folder / "corpus", from_dict(PretrainConfig, config), run, resume=True, device="cpu"
        )
        text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    return {
        "began_at": state.step_of(begun[-1]),
        "step": result.step,
        "finished": result.finished,
        "losses": _rounded(losses),
        "held_out": _rounded([score.gene_loss for score in result.held_out]),
    }


OPENERS = {
    "weights": open_weights,
    "corpus": open_corpus,
    "annotator": open_annotator,
    "run": open_run,
}


def entries() -> list[Path]:
    """Return the folders of the archive, oldest first."""
    found = [path for path in ARCHIVE.glob("format-*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("format-")))


def read_expected(folder: Path) -> Mapping[str, dict[str, object]]:
    """Return what was found in an entry when it was made."""
    return json.loads((folder / EXPECTED).read_text(encoding="utf-8"))


def _rounded(numbers: object) -> list:
    return np.round(np.asarray(numbers, dtype=np.float64), DECIMALS).tolist()
