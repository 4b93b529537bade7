"""Pictures of a corpus show what was counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cellfm import pl
from cellfm.corpus.describe import LABELS, QUANTILES, Description, Group, Histogram
from cellfm.errors import CorpusError, DataError

NOTHING = {name: (Group(label="", n_cells=60),) for name in LABELS}
SAID = Description(
    store="corpus",
    hash="0" * 64,
    content="0" * 32,
    n_cells=60,
    n_values=12_000,
    n_parts=1,
    n_bytes=30_000,
    n_genes=100,
    n_genes_seen=90,
    groups={**NOTHING, "cell_type": (Group(label="B", n_cells=40), Group(label="", n_cells=20))},
    genes_per_cell=tuple(200.0 + 10 * i for i in range(len(QUANTILES))),
    counts_per_cell=tuple(400.0 + 10 * i for i in range(len(QUANTILES))),
    genes_histogram=Histogram(edges=(200.0, 230.0, 260.0), n_cells=(25, 35)),
    datasets=(),
    set_aside=(),
)


def test_histogram_of_genes(tmp_path: Path) -> None:
    axes = pl.corpus(SAID)
    (patch,) = axes.patches
    assert patch.get_data().values.tolist() == [25, 35]
    assert patch.get_data().edges.tolist() == [200.0, 230.0, 260.0]
    assert axes.get_title() == "60 cells, median 230 genes"
    axes.figure.savefig(tmp_path / "a.png", dpi=50)
    from matplotlib.image import imread

    assert imread(tmp_path / "a.png")[..., :3].std() > 0.01


def test_bars_of_a_column_on_given_axes() -> None:
    first = pl.corpus(SAID)
    first.clear()
    axes = pl.corpus(SAID, by="cell_type", ax=first)
    assert axes is first
    assert [bar.get_width() for bar in axes.patches] == [40, 20]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["B", "not known"]
    assert axes.get_title() == "cells by cell type"


def test_many_labels_share_the_last_bar_and_long_ones_are_cut() -> None:
    groups = tuple(Group(label=f"{'donor ' * 9}{i}", n_cells=40 - i) for i in range(40))
    axes = pl.corpus(replace(SAID, groups={**NOTHING, "donor": groups}), by="donor")
    widths = [bar.get_width() for bar in axes.patches]
    assert len(widths) == 25
    assert sum(widths) == sum(group.n_cells for group in groups)
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[-1] == "16 others"
    assert max(map(len, labels)) == 40
    assert np.argmax(widths) == 24


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'age'; draw it by n_genes, dataset, cell_type"):
        pl.corpus(SAID, by="age")
    with pytest.raises(CorpusError, match=r"holds no corpus\.json"):
        pl.corpus(tmp_path)
