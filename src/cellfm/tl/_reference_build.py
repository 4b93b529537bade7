"""Making a reference index of the cells of an AnnData or a file."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import H5adSource, RowSource, h5ad_source
from cellfm.errors import ConfigError, DataError
from cellfm.optional import require
from cellfm.tl._embed import Progress, match_genes
from cellfm.tl._label_transfer import transfer_scores, vote_shares
from cellfm.tl._reference_index import (
    DESCRIPTION,
    MOST_NEIGHBOURS,
    N_CALIBRATION,
    QUANTISER,
    IndexDescription,
    Metric,
    Neighbours,
    ReferenceIndex,
    Standard,
    Structure,
    choose_structure,
    default_effort,
    list_count,
    make_vectors,
    nearest,
    write_index,
)
from cellfm.tl._states import (
    BLOCK,
    EmbedOptions,
    Pool,
    StateEncoder,
    as_model,
    default_pool,
    whitening_of,
)
from cellfm.weights.atomic import refuse_existing, replacing_folder
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

N_NEIGHBOURS = 15
"""That vote, unless the user says otherwise."""
WIDER = 4
"""Factor of the effort of a search among other donors."""


def build_reference(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData | Path | str",
    out: Path | str,
    model: Pretrained | str | Path | None = None,
    *,
    label: str | Sequence[str] = "cell_type",
    keep: str | Sequence[str] = (),
    batch_key: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    max_genes: int | None = None,
    pool: Pool | None = None,
    metric: Metric = "euclidean",
    structure: Structure = "auto",
    device: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IndexDescription:
    """Make a reference index on disk: an atlas that queries are mapped to.

    The states of all cells are computed block by block and put into a nearest-neighbour index (faiss), each dimension
    divided by its standard deviation among the reference cells; whitened states as they are, in units of noise. The folder
    appears whole or not at all.

    Parameters
    ----------
    adata
        Reference cells in memory or backed, or an h5ad file, which is read block by block.
    out
        Folder to make.
    model
        From `cellfm.load`, or a weights folder or name; None takes the small one that comes with the package.
    label
        Column or columns of ``obs`` whose labels queries shall get; cells without one do not vote.
    keep
        More columns of ``obs`` to show with cells that are found, such as the donor.
    batch_key
        Column of donors or batches. With it, usual distances, and the accuracy that is noted, are those of a reference cell to the
        cells of *other* donors: what a query from a new donor should be compared with. Without it, to all other cells.
    layer, use_raw, gene_names, scale, max_genes, device, min_matched
        As in `embed`.
    pool
        As in `embed`; None takes ``"whitened"`` where the weights have a whitening, else ``"cls"``.
    metric
        ``"euclidean"`` or ``"cosine"`` of the states in the index.
    structure
        ``"flat"`` (exact), ``"ivf"`` (lists with 2 bytes a number), ``"ivf8"`` (lists with 1 byte a number), ``"hnsw"``
        (graph; 4 bytes a number and 272 a cell), or ``"auto"``: flat up to 20,000 cells, ivf up to 3 million, then ivf8.
    seed
        Of the reference cells that usual distances are taken from, and of those an IVF index is trained on.
    overwrite
        Replace an existing index.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    What was made; ``leave_one_out`` has accuracy and macro-F1 of each label's transfer to reference cells left out.

    Raises
    ------
    OutputExistsError
        `out` exists.
    DataError
        A column is missing or without labels, names of cells are not unique, or there are fewer than three cells.
    GeneMatchError, CountsError
        As in `embed`.
    MissingDependencyError
        faiss is not installed.

    Examples
    --------
    >>> cellfm.tl.build_reference(
    ...     "atlas.h5ad", "atlas-index", label=["cell_type"], batch_key="donor"
    ... )  # doctest: +SKIP
    """
    require("faiss", extra="index")
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    if metric not in ("euclidean", "cosine"):
        msg = f"metric is {metric!r}; it must be 'euclidean' or 'cosine'. Choose one of these."
        raise ConfigError(msg)
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        max_genes=max_genes,
        min_matched=min_matched,
    )
    labels = columns(label)
    with opened(adata, options) as (rows, obs, var):
        cells = _cells(obs, labels, columns(keep), batch_key)
        kind = choose_structure(structure, len(cells))
        pretrained = as_model(model, device)
        options = replace(options, pool=pool or default_pool(pretrained))
        encoder = make_encoder(pretrained, var, options, rows.n_rows)
        description = IndexDescription(
            weights_hash=pretrained.hash,
            vocabulary_hash=pretrained.vocabulary.hash,
            weights=pretrained.name,
            pool=options.pool,
            whitening_hash=whitening_hash(pretrained, options.pool),
            n_cells=len(cells),
            dim=encoder.dim,
            metric=metric,
            structure=kind,
            n_lists=list_count(len(cells)) if kind in QUANTISER else 0,
            labels=labels,
            batch_key=batch_key,
            leave_one_out={},
            cellfm_version=__version__,
        )
        with replacing_folder(out, marker=DESCRIPTION) as new:
            states = state_blocks(encoder, rows, progress)
            return _fill(new, description, cells, states, seed=seed)


def whitening_hash(model: Pretrained, pool: Pool) -> str | None:
    """Return the hash of the map that makes a pool of states, or None for pools without one.

    Parameters
    ----------
    model
        Weights.
    pool
        Which states.

    Raises
    ------
    WeightsError
        The pool is whitened, and the weights have no whitening.
    """
    return whitening_of(model).hash if pool == "whitened" else None


def _fill(
    folder: Path,
    description: IndexDescription,
    cells: "pd.DataFrame",
    states: "Iterator[tuple[int, NDArray[np.float32]]]",
    *,
    seed: int,
) -> IndexDescription:
    """Compute the states, in a scratch file rather than in memory, and write all files of the index."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        shape = (description.n_cells, description.dim)
        table = np.memmap(Path(scratch) / "states.f32", np.float32, "w+", shape=shape)
        for start, block in states:
            table[start : start + len(block)] = block
        standard = Standard.of(table, scaled=description.pool != "whitened")
        how = description.metric, description.structure
        vectors = make_vectors(table, standard, metric=how[0], structure=how[1], seed=seed)
        chosen = np.random.default_rng(seed).permutation(len(cells))[:N_CALIBRATION]
        chosen.sort()
        asked = standard.vectors(table[chosen], description.metric)
        del table
    found = _left_out(vectors, asked, chosen, (description, cells))
    scores = {name: _score(found, chosen, cells, name) for name in description.labels}
    index = ReferenceIndex(
        description=replace(description, leave_one_out=scores),
        vectors=vectors,
        obs=cells,
        standard=standard,
        # Not all of them: an approximate search may reach too few cells of other donors.
        calibration=found.distance[np.isfinite(found.distance).all(1)],
        folder=folder,
    )
    write_index(folder, index)
    return index.description


def _left_out(
    vectors: object,
    asked: "NDArray[np.float32]",
    chosen: "NDArray[np.int64]",
    reference: "tuple[IndexDescription, pd.DataFrame]",
) -> Neighbours:
    """Return neighbours of reference cells among the others: all others, or those of other donors."""
    about, cells = reference
    k = min(MOST_NEIGHBOURS, len(cells) - 1)
    if about.batch_key is None:
        return nearest(vectors, asked, k + 1, about=about).without(chosen)
    batch = cells[about.batch_key].astype(str).to_numpy()
    others = len(cells) - np.unique(batch, return_counts=True)[1].max()
    k = min(k, int(others))
    row, distance = np.empty((len(chosen), k), np.int64), np.empty((len(chosen), k), np.float32)
    # Most of what lies near may be of the own donor, and is passed over.
    effort = WIDER * default_effort(about.structure, about.n_lists)
    for name in np.unique(batch[chosen]):
        own = batch[chosen] == name
        row[own], distance[own] = nearest(
            vectors, asked[own], k, about=about, effort=effort, allowed=batch != name
        )
    return Neighbours(row, distance)


def _score(
    found: Neighbours, chosen: "NDArray[np.int64]", cells: "pd.DataFrame", label: str
) -> dict[str, float]:
    """Transfer a label to reference cells that were left out, and score it."""
    code, names = codes(cells, label)
    shares = vote_shares(found.first(N_NEIGHBOURS), code, len(names))
    return transfer_scores(shares.argmax(1), code[chosen])


@contextmanager
def opened(adata: "AnnData | Path | str", options: EmbedOptions) -> Iterator[H5adSource]:
    """Open a count matrix with its tables, from memory or from a file."""
    if isinstance(adata, (str, Path)):
        with h5ad_source(adata, layer=options.layer, use_raw=options.use_raw) as opened:
            yield opened
        return
    source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
    yield H5adSource(source, adata.obs, var)


def make_encoder(
    model: Pretrained, var: "pd.DataFrame", options: EmbedOptions, n_cells: int
) -> StateEncoder:
    if not n_cells:
        msg = "There are no cells: the matrix has 0 rows; at least one is needed. Check the filter that made it."
        raise DataError(msg)
    match = match_genes(var, model.vocabulary, options)
    return StateEncoder(model, match, options, n_cells=n_cells)


def state_blocks(
    encoder: StateEncoder, rows: RowSource, progress: Progress | None
) -> "Iterator[tuple[int, NDArray[np.float32]]]":
    for start in range(0, rows.n_rows, BLOCK):
        stop = min(start + BLOCK, rows.n_rows)
        yield start, encoder.encode(rows.read(start, stop), start)
        if progress is not None:
            progress(stop, rows.n_rows)


def _cells(
    obs: "pd.DataFrame", labels: Sequence[str], keep: Sequence[str], batch_key: str | None
) -> "pd.DataFrame":
    """Return the columns that go into the index, labels as text categories; refuse what cannot be one."""
    names = list(dict.fromkeys([*labels, *keep, *([batch_key] if batch_key else [])]))
    missing = [name for name in names if name not in obs.columns]
    if missing:
        msg = (
            f"obs has no column {', '.join(map(repr, missing))}; it has {', '.join(map(str, obs.columns)) or 'no columns'}. "
            "Name one of these by label=… (--label)."
        )
        raise DataError(msg)
    if not labels:
        msg = "label is empty; name at least one column of obs whose labels queries shall get."
        raise DataError(msg)
    if not obs.index.is_unique:
        twice = obs.index[obs.index.duplicated()][0]
        msg = f"Names of cells are not unique: {twice!r} is there more than once. Call adata.obs_names_make_unique() first."
        raise DataError(msg)
    if len(obs) < 3:  # a cell, and two to tell near from far
        msg = f"There are {len(obs)} reference cells; at least 3 are needed. Check the filter that made the file."
        raise DataError(msg)
    cells = obs[names].copy()
    for name in (*labels, *([batch_key] if batch_key else [])):
        cells[name] = _as_text(cells[name])
        if not cells[name].notna().any():
            msg = (
                f"obs[{name!r}] holds no value for any cell; expected labels. Name another column."
            )
            raise DataError(msg)
    if batch_key and cells[batch_key].nunique(dropna=False) < 2:
        msg = f"obs[{batch_key!r}] has one value, {cells[batch_key].iloc[0]!r}; batch_key needs at least two donors or batches. Leave it out."
        raise DataError(msg)
    return cells


def _as_text(column: "pd.Series") -> "pd.Series":
    """Return labels as categories of text; missing stays missing."""
    text = column.astype(object).where(column.notna(), None)
    return text.map(lambda value: None if value is None else str(value)).astype("category")


def codes(obs: "pd.DataFrame", column: str) -> "tuple[NDArray[np.int64], list[str]]":
    categories = obs[column].cat
    return categories.codes.to_numpy().astype(np.int64), list(categories.categories)


def columns(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
