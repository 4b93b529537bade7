"""The cells and genes of a screen: which cells stand for a state, what they express, which genes are edited."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.batch import CellBatch
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import BLOCK_ROWS
from cellfm.corpus.counts import check_counts, empty_rows, refuse_empty_rows
from cellfm.corpus.tokens import tokenize
from cellfm.errors import ConfigError, DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.near import near_symbols
from cellfm.tl._embed import match_genes
from cellfm.tl._states import EmbedOptions

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Missing = Literal["error", "skip"]
LEAST_CELLS = 10
"""Cells a state needs."""
LEAST_EXPRESSING = 3
"""Chosen cells that must express a gene for its knock-out to be looked at; cells of the data that must for its level to be known."""
N_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScreenCells:
    """The chosen cells as the network reads them, and what they express.

    Attributes
    ----------
    batch
        The cells of the state that is edited.
    goal
        Those of the state it should move to; None without a goal.
    name
        Name of each token in the input; empty for genes that are not in it.
    n_expressing
        Chosen cells that express each token.
    mean
        Mean over all chosen cells of ``log1p(counts per 10⁴)`` of each token.
    rate
        Mean counts per 10⁴ of each token over the cells that express it, of all cells of the data; NaN where too few do. None where it is not needed.
    """

    batch: CellBatch
    goal: CellBatch | None
    name: "NDArray[np.object_]"
    n_expressing: "NDArray[np.int64]"
    mean: "NDArray[np.float64]"
    rate: "NDArray[np.float64] | None"

    @property
    def detection(self) -> "NDArray[np.float64]":
        """Share of the chosen cells that express each token."""
        return self.n_expressing / self.batch.n_cells

    @property
    def level(self) -> "NDArray[np.float64]":
        """Mean ``log1p(counts per 10⁴)`` of each token over the chosen cells that express it; 0 where none does."""
        return self.mean * self.batch.n_cells / np.maximum(self.n_expressing, 1)

    @classmethod
    def read(
        cls,
        adata: "AnnData",
        chosen: "tuple[NDArray[np.int64], NDArray[np.int64] | None]",
        vocabulary: Vocabulary,
        options: EmbedOptions,
        *,
        rates: bool,
    ) -> "ScreenCells":
        """Read the counts of the cells of a state, and of its goal.

        Parameters
        ----------
        adata
            In memory or backed.
        chosen
            Rows of the state, and of the goal or None.
        vocabulary
            Of the model.
        options
            How to read.
        rates
            Also find the level of each gene where it is expressed, which means reading all cells.
        """
        batch, name = _read(adata, chosen[0], vocabulary, options)
        goal = None if chosen[1] is None else _read(adata, chosen[1], vocabulary, options)[0]
        n = len(name)
        token, value = batch.gene.numpy(), batch.value.numpy().astype(np.float64)
        return cls(
            batch=batch,
            goal=goal,
            name=name,
            n_expressing=np.bincount(token, minlength=n),
            mean=np.bincount(token, value, minlength=n) / batch.n_cells,
            rate=_rates(adata, vocabulary, options) if rates else None,
        )


def _read(
    adata: "AnnData", rows: "NDArray[np.int64]", vocabulary: Vocabulary, options: EmbedOptions
) -> "tuple[CellBatch, NDArray[np.object_]]":
    """Return some cells and the input's name of each token."""
    part = adata[rows]
    part = part.to_memory() if adata.isbacked else part
    source, var = anndata_source(part, layer=options.layer, use_raw=options.use_raw)
    match = match_genes(var, vocabulary, options)
    block = source.read(0, source.n_rows)
    check_counts(block, scale=options.scale)
    batch = tokenize(block, match.token, scale=options.scale)
    refuse_empty_rows(empty_rows(batch), n_rows=source.n_rows)
    name = np.full(len(vocabulary) + 1, "", object)
    # Of names with the same token the first is kept.
    name[match.token[::-1]] = np.array(list(map(str, var.index)), object)[::-1]
    name[0] = ""
    return batch, name


def _rates(
    adata: "AnnData", vocabulary: Vocabulary, options: EmbedOptions
) -> "NDArray[np.float64]":
    """Return the mean counts per 10⁴ of each token over the cells that express it."""
    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    match, n = match_genes(var, vocabulary, options), len(vocabulary) + 1
    total, counted = np.zeros(n), np.zeros(n, np.int64)
    for start in range(0, source.n_rows, BLOCK_ROWS):
        block = source.read(start, min(start + BLOCK_ROWS, source.n_rows))
        check_counts(block, first_row=start, scale=options.scale)
        batch = tokenize(block, match.token, scale=options.scale)
        token = batch.gene.numpy()
        total += np.bincount(token, np.expm1(batch.value.numpy(), dtype=np.float64), n)
        counted += np.bincount(token, minlength=n)
    enough = counted >= LEAST_EXPRESSING
    return np.divide(total, counted, out=np.full(n, np.nan), where=enough)


def choose_cells(
    obs: "pd.DataFrame",
    *,
    groupby: str | None,
    group: str | Sequence[str] | None,
    towards: "str | Sequence[bool] | NDArray[np.bool_] | None",
    n_cells: int,
    seed: int,
) -> "tuple[NDArray[np.int64], NDArray[np.int64] | None]":
    """Return rows, ascending, of the cells to edit and of those of the goal.

    Parameters
    ----------
    obs
        Table of all cells.
    groupby, group
        Column and its entry, or entries, whose cells are edited; all cells without.
    towards
        Entry of `groupby`, boolean column, or a flag for each cell; None for no goal.
    n_cells
        Cells of each of the two, drawn at random when there are more.
    seed
        Of the draw.
    """
    inside = _of_group(obs, groupby, group)
    goal = None if towards is None else _of_goal(obs, groupby, towards)
    if goal is not None and (goal & inside).any():
        both = int((goal & inside).sum())
        msg = f"{both:,} cells are both to be edited and of the goal state; a state cannot move towards itself. Name cells by group=… that are not in towards=…."
        raise DataError(msg)
    rng = np.random.default_rng(seed)
    rows = _drawn(inside, n_cells, rng, "to edit (groupby=…, group=…)")
    return rows, None if goal is None else _drawn(goal, n_cells, rng, "of the goal (towards=…)")


def _drawn(
    inside: "NDArray[np.bool_]", n_cells: int, rng: np.random.Generator, what: str
) -> "NDArray[np.int64]":
    rows = np.flatnonzero(inside)
    if len(rows) < LEAST_CELLS:
        msg = f"There are {len(rows):,} cells {what}; a state needs at least {LEAST_CELLS}. Name a larger group."
        raise DataError(msg)
    return np.sort(rng.permutation(rows)[:n_cells])


def _of_group(
    obs: "pd.DataFrame", groupby: str | None, group: str | Sequence[str] | None
) -> "NDArray[np.bool_]":
    if group is None:
        return np.ones(len(obs), np.bool_)
    if groupby is None:
        msg = f"group={group!r} was given without the column it is in; say groupby=…."
        raise ConfigError(msg)
    entries = _entries(obs, groupby)
    wanted = [group] if isinstance(group, str) else list(group)
    if unknown := [name for name in wanted if name not in set(entries)]:
        msg = f"obs[{groupby!r}] has no entry {unknown[0]!r}; it has {_listed(np.unique(entries))}. Name one of these by group=…."
        raise DataError(msg)
    return np.isin(entries, wanted)


def _of_goal(
    obs: "pd.DataFrame", groupby: str | None, towards: "str | Sequence[bool] | NDArray[np.bool_]"
) -> "NDArray[np.bool_]":
    if not isinstance(towards, str):
        flags = np.asarray(towards)
        if flags.dtype != np.bool_ or flags.shape != (len(obs),):
            msg = f"towards has shape {flags.shape} and type {flags.dtype}; give one boolean for each of the {len(obs):,} cells, or a name."
            raise DataError(msg)
        return flags
    if groupby is not None and towards in set(entries := _entries(obs, groupby)):
        return np.asarray(entries == towards)
    if towards in obs.columns and obs[towards].dtype == np.bool_:
        return obs[towards].to_numpy()
    there = "" if groupby is None else f"; obs[{groupby!r}] has {_listed(np.unique(entries))}"
    msg = f"The goal {towards!r} is neither an entry of groupby nor a boolean column of obs{there}. Name one of these by towards=…."
    raise DataError(msg)


def _entries(obs: "pd.DataFrame", groupby: str) -> "NDArray[np.str_]":
    if groupby not in obs.columns:
        msg = f"There is no column {groupby!r} in obs; it has {list(map(str, obs.columns)) or 'no columns'}. Choose one of these."
        raise DataError(msg)
    return np.array([str(entry) for entry in obs[groupby]])


def _listed(names: "Sequence[str] | NDArray[np.str_]") -> str:
    shown = ", ".join(map(str, names[:20]))
    return f"{shown}, …" if len(names) > 20 else shown


def choose_genes(
    genes: Sequence[str] | int | None,
    cells: ScreenCells,
    vocabulary: Vocabulary,
    *,
    least: int,
    missing: Missing,
) -> "NDArray[np.int64]":
    """Return the tokens to edit, in the order of the list, or most expressed first.

    Parameters
    ----------
    genes
        Names; a number of genes, the most expressed; None for all that enough cells express.
    cells
        What is expressed.
    vocabulary
        Of the model.
    least
        Chosen cells that must express a gene.
    missing
        What becomes of genes of a list that cannot be edited.
    """
    if genes is None or isinstance(genes, int):
        order = np.argsort(-cells.mean, kind="stable")
        order = order[cells.n_expressing[order] >= max(least, 1)]
        if isinstance(genes, int) and genes < 1:
            msg = f"genes is {genes}; give names, a number of at least 1, or None for all expressed genes."
            raise ConfigError(msg)
        return order[:genes]
    if not genes or isinstance(genes, str):
        msg = f"genes is {genes!r}; give a list of names, a number for so many of the most expressed genes, or None for all."
        raise ConfigError(msg)
    tokens = tokens_of(genes, vocabulary, missing)
    complaints = {token: _complaint(token, cells, vocabulary, least) for token in tokens}
    if missing == "error" and (said := next(filter(None, complaints.values()), "")):
        msg = f'{said} Leave it out, choose more cells by n_cells=…, or say missing="skip".'
        raise DataError(msg)
    usable = [token for token, complaint in complaints.items() if not complaint]
    if not usable:
        msg = f"None of the {len(genes):,} genes can be edited in these cells; {cells.batch.n_cells:,} cells were chosen. Give other genes, or more cells by n_cells=…."
        raise DataError(msg)
    return np.array(usable, np.int64)


def tokens_of(genes: Sequence[str], vocabulary: Vocabulary, missing: Missing) -> list[int]:
    """Return the tokens of names: symbols, earlier symbols, aliases, Ensembl ids.

    Parameters
    ----------
    genes
        Names.
    vocabulary
        Of the model.
    missing
        Refuse unknown names, or leave them out.
    """
    lookup = Lookup(vocabulary, GeneTable.load())
    tokens = {str(name): lookup.find(str(name).strip()).token for name in genes}
    unknown = [name for name, token in tokens.items() if not token]
    if unknown and missing == "error":
        near = [near_symbols(name, vocabulary.symbols) for name in unknown[:N_SHOWN]]
        said = "; ".join(
            f"{name!r}" + (f" (near: {', '.join(some)})" if some else "")
            for name, some in zip(unknown, near, strict=False)
        )
        msg = f'{len(unknown):,} of {len(genes):,} genes are not in the vocabulary of the model: {said}. Correct the names, or say missing="skip".'
        raise DataError(msg)
    return [token for token in tokens.values() if token]


def _complaint(token: int, cells: ScreenCells, vocabulary: Vocabulary, least: int) -> str:
    """Say why a gene cannot be edited: too few chosen cells express it, or for one that is put in, its level is unknown."""
    symbol, n = vocabulary.symbols[token - 1], int(cells.n_expressing[token])
    if not cells.name[token]:
        return f"The gene {symbol} is in the vocabulary, but not among the genes of the data."
    if n < least:
        return f"The gene {symbol} is expressed in {n:,} of the {cells.batch.n_cells:,} chosen cells; a knock-out needs {least}."
    if cells.rate is not None and not np.isfinite(cells.rate[token]):
        return f"Fewer than {LEAST_EXPRESSING} cells of the data express the gene {symbol}, so the level to raise it to is not known."
    return ""
