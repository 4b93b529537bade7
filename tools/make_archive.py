"""Make the next entry of tests/archive: small files of each format that the code writes today.

python tools/make_archive.py

An entry is made once, when a format is raised, and never again: it stands for the files that users keep. The tool takes the
next number and refuses to touch a folder that is there. Commit what it made.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.archive.opening import (  # noqa: E402
    ARCHIVE,
    CELLS,
    EXPECTED,
    OPENERS,
    entries,
    formats,
    read_cells,
)

import cellfm  # noqa: E402
from cellfm import tl  # noqa: E402
from cellfm.config import PretrainConfig  # noqa: E402
from cellfm.config import load as load_config  # noqa: E402
from cellfm.corpus.adata import anndata_source  # noqa: E402
from cellfm.corpus.build import build  # noqa: E402
from cellfm.corpus.cells import InMemoryCells  # noqa: E402
from cellfm.corpus.curate import Rules  # noqa: E402
from cellfm.corpus.sources import SourceEntry  # noqa: E402
from cellfm.corpus.store import Store  # noqa: E402
from cellfm.genes import GeneTable, Vocabulary  # noqa: E402
from cellfm.tl._whiten import whitening_on  # noqa: E402
from cellfm.train import RunProgress  # noqa: E402
from cellfm.weights import folder as weights  # noqa: E402
from cellfm.weights.seen import write_seen  # noqa: E402
from cellfm.weights.whitening import write_whitening  # noqa: E402

N_GENES, N_EACH, TYPES = 40, 40, ("B cell", "T cell", "monocyte")
SMALL = (
    "model.dim=16",
    "model.n_heads=2",
    "data.token_budget=512",
    "schedule.n_steps=4",
    "run.log_every=1",
    "run.eval_every=4",
    "run.keep_checkpoints=1",
)
STOP_AT = 3  # steps of the checkpoint; one is left to take
CARD = "# Archive of cellfm {version}\n\nRandom weights that today's code must still open.\n"


def genes() -> tuple[str, ...]:
    """Return the first protein-coding genes of the table."""
    table = [g.symbol for g in GeneTable.load().genes if g.locus_group == "protein-coding gene"]
    return tuple(table[:N_GENES])


def draw_cells() -> pd.DataFrame:
    """Draw cells of three types, each with ten genes of its own."""
    rng = np.random.default_rng(0)
    means = np.full((len(TYPES), N_GENES), 0.7)
    for number in range(len(TYPES)):
        means[number, 10 * number : 10 * number + 10] = 6.0
    code = np.tile(np.arange(len(TYPES)), N_EACH)
    table = pd.DataFrame(rng.poisson(means[code]), columns=list(genes()))
    table.insert(0, "type", np.array(TYPES)[code])
    return table


def make_corpus(folder: Path, store: Path, vocabulary: Vocabulary) -> Store:
    """Build a corpus of the cells."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "archive.h5ad"
        read_cells(folder).write_h5ad(source)
        entry = SourceEntry(name="archive", path=source, metadata={"cell_type": "@type"})
        build([entry], store, rules=Rules(min_genes=5), vocabulary=vocabulary, n_workers=1)
    return Store.open(store)


def make_weights(folder: Path, vocabulary: Vocabulary, whole: Store) -> None:
    """Write random weights with a whitening and the fingerprints of cells that they know."""
    model = weights.new("debug", vocabulary, seed=1)
    card = CARD.format(version=cellfm.__version__)
    weights.save(folder / "weights", model.network, vocabulary, card=card, provenance={"seed": "1"})
    source, _ = anndata_source(read_cells(folder), layer=None, use_raw=False)
    cells = InMemoryCells.from_source(source, np.arange(1, N_GENES + 1), scale="counts")
    saved = weights.load(folder / "weights")
    write_whitening(folder / "weights", whitening_on(cells, saved))
    write_seen(folder / "weights", whole, np.arange(0, whole.n_cells, 2))


def make_annotator(folder: Path) -> None:
    """Train an annotator on the cells; where its weights lie is left out, as it will be elsewhere."""
    model = replace(cellfm.load(folder / "weights"), path=None)
    annotator = tl.train_annotator(read_cells(folder), model, label="type")
    annotator.save(folder / "annotator")


def make_run(folder: Path) -> None:
    """Begin a run and interrupt it one step before its end."""

    def stop(progress: RunProgress) -> None:
        if progress.step == STOP_AT:
            raise KeyboardInterrupt

    config = load_config(PretrainConfig, "debug", list(SMALL))
    try:
        tl.pretrain_file(folder / "corpus", config, folder / "run", device="cpu", progress=stop)
    except KeyboardInterrupt:
        return
    sys.exit("the run was not interrupted")


def main() -> None:
    """Make an entry, whole or not at all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    newest = int(entries()[-1].name.removeprefix("format-")) if entries() else 0
    parser.add_argument("--number", type=int, default=newest + 1)
    number = parser.parse_args().number
    target = ARCHIVE / f"format-{number}"
    if target.exists():
        sys.exit(f"{target} exists. An entry of the archive is never made again.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        draw_cells().to_csv(folder / CELLS)
        vocabulary = Vocabulary.from_symbols(genes())
        make_corpus(folder, folder / "corpus", vocabulary)
        whole = make_corpus(folder, Path(temporary) / "whole", Vocabulary.from_hgnc())
        make_weights(folder, vocabulary, whole)
        make_annotator(folder)
        make_run(folder)
        found = {kind: opener(folder) for kind, opener in OPENERS.items()}
        expected = {"cellfm": cellfm.__version__, "formats": formats(), **found}
        text = json.dumps(expected, indent=1) + "\n"
        (folder / EXPECTED).write_text(text, encoding="utf-8")
        shutil.copytree(folder, target)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size:,} bytes")


if __name__ == "__main__":
    main()
