"""What a set of cells is made of, what it expresses, and its table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.optional import require
from cellfm.view.colours import column_kind, column_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cellfm.view.cells import Cells

Advance = Callable[[str, int, int], None]

N_MARKERS = 50
"""Genes in the table."""
MOST_TESTED = 2000
"""Cells drawn of the selection, and of the rest, for the test."""
LEAST_DETECTED = 0.02
"""Share of cells in either part that must have a gene for it to be tested."""


def as_selection(content: bytes, n_cells: int) -> "NDArray[np.int64]":
    """Read the numbers of cells, sorted and without repeats.

    Parameters
    ----------
    content
        Unsigned 32-bit numbers, little-endian.
    n_cells
        Of the file.

    Raises
    ------
    DataError
        It is none, or not of this file.
    """
    if len(content) % 4:
        msg = f"A selection came with {len(content)} bytes; expected whole numbers of four bytes. Load the page again."
        raise DataError(msg)
    rows = np.unique(np.frombuffer(content, "<u4")).astype(np.int64)
    if not len(rows) or rows[-1] >= n_cells:
        msg = f"A selection of {len(rows)} cells does not fit a file of {n_cells:,}; expected at least one of them. Select again."
        raise DataError(msg)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Cells of one group."""

    group: str
    n: int
    share: float
    """Of the selection."""
    share_of_all: float
    """Of all cells, this group's."""


def composition(cells: "Cells", rows: "NDArray[np.int64]", column: str) -> list[Part]:
    """Count the groups of a column among some cells, largest first.

    Parameters
    ----------
    cells
        The file.
    rows
        Some of its cells.
    column
        Of obs, with groups.

    Raises
    ------
    DataError
        The column holds numbers.
    """
    values = column_of(cells, column)
    if column_kind(values) != "groups":
        msg = f"obs[{column!r}] holds numbers; a composition needs groups. Choose another column."
        raise DataError(msg)
    groups = values.astype("category").cat
    names = [*map(str, groups.categories), "no value"]
    code = groups.codes.to_numpy().astype(np.int64)
    code[code < 0] = len(names) - 1
    everywhere = np.bincount(code, minlength=len(names))
    here = np.bincount(code[rows], minlength=len(names))
    order = np.argsort(-here, kind="stable")
    return [
        Part(
            group=names[i],
            n=int(here[i]),
            share=float(here[i] / len(rows)),
            share_of_all=float(everywhere[i] / len(code)),
        )
        for i in order
        if here[i]
    ]


def marker_table(
    cells: "Cells", rows: "NDArray[np.int64]", advance: Advance, *, seed: int = 0
) -> "pd.DataFrame":
    """Compare the expression of some cells with that of all others by Wilcoxon's rank-sum test.

    Parameters
    ----------
    cells
        The file.
    rows
        Some of its cells.
    advance
        Called with stage, done, in all.
    seed
        Of the choice of cells, where there are more than `MOST_TESTED`.

    Returns
    -------
    A row a gene, highest score first: ``gene``, ``score`` (z), ``log2_fold_change``, ``mean_in``, ``mean_out`` (on the scale that genes are shown in),
    ``detected_in``, ``detected_out`` (shares), ``p_adjusted`` (Benjamini-Hochberg). The cells were chosen by what they look like, so p ranks genes and proves nothing.

    Raises
    ------
    DataError
        There are fewer than three cells inside or outside.
    MissingDependencyError
        scanpy is not installed.
    """
    require("scanpy")
    import scanpy as sc
    from anndata import AnnData

    others = np.setdiff1d(np.arange(cells.n_cells), rows)
    if min(len(rows), len(others)) < 3:
        msg = f"{len(rows):,} cells are selected and {len(others):,} are not; a test needs at least three of each. Select others."
        raise DataError(msg)
    rng = np.random.default_rng(seed)
    drawn = [np.sort(rng.permutation(part)[:MOST_TESTED]) for part in (rows, others)]
    advance("reading counts", 0, 0)
    matrix = cells.rows(np.concatenate(drawn))
    parts = matrix[: len(drawn[0])], matrix[len(drawn[0]) :]
    detected = [part.getnnz(axis=0) / part.shape[0] for part in parts]
    tested = np.flatnonzero(np.maximum(*detected) >= LEAST_DETECTED)
    if not len(tested):
        msg = "No gene is found in enough cells to be tested. Is the matrix empty? Select more cells, or choose a matrix with values."
        raise DataError(msg)
    advance("testing genes", 0, 0)
    import pandas as pd

    part = pd.Categorical(np.repeat(["in", "out"], [len(rows) for rows in drawn]))
    small = AnnData(matrix[:, tested], obs=pd.DataFrame({"part": part}, index=_names(len(part))))
    small.var_names = _names(len(tested))
    small.uns["log1p"] = {"base": None}
    sc.tl.rank_genes_groups(
        small, "part", groups=["in"], reference="out", method="wilcoxon", n_genes=N_MARKERS
    )
    table = sc.get.rank_genes_groups_df(small, "in")
    gene = tested[table["names"].astype(int).to_numpy()]
    return pd.DataFrame(
        {
            "gene": [cells.names.shown[i] for i in gene],
            "score": table["scores"].to_numpy(float),
            "log2_fold_change": table["logfoldchanges"].to_numpy(float),
            "mean_in": np.asarray(parts[0].mean(axis=0)).ravel()[gene],
            "mean_out": np.asarray(parts[1].mean(axis=0)).ravel()[gene],
            "detected_in": detected[0][gene],
            "detected_out": detected[1][gene],
            "p_adjusted": table["pvals_adj"].to_numpy(float),
        }
    )


def cell_table(
    cells: "Cells", rows: "NDArray[np.int64]", points: "NDArray[np.float32] | None", key: str
) -> str:
    """Return the barcodes, places and obs of some cells as csv.

    Parameters
    ----------
    cells
        The file.
    rows
        Some of its cells.
    points
        Where all cells are drawn; None to leave it out.
    key
        Name of these coordinates.
    """
    table = cells.obs.iloc[rows]
    if points is not None:
        name = key.removeprefix("X_")
        for i in (0, 1):
            table = table.assign(**{f"{name}_{i + 1}": points[rows, i]})
    text: str = table.to_csv(index_label=str(cells.obs.index.name or "barcode"))
    return text


def _names(n: int) -> list[str]:
    return [str(i) for i in range(n)]
