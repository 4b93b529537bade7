"""Reference mapping: labels for query cells by a reference index, and cells like a cell."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.counts import Scale
from cellfm.errors import DataError, OutputExistsError, WeightsError
from cellfm.tl._embed import Progress
from cellfm.tl._label_transfer import vote_shares
from cellfm.tl._reference_build import (
    N_NEIGHBOURS,
    codes,
    columns,
    make_encoder,
    opened,
    state_blocks,
)
from cellfm.tl._reference_index import Neighbours, ReferenceIndex, read_index
from cellfm.tl._states import EmbedOptions, Empty, as_model, check_key, provenance
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


def map_to_reference(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    index: Path | str,
    model: Pretrained | str | Path | None = None,
    *,
    key_added: str = "map",
    label: str | Sequence[str] | None = None,
    k: int = N_NEIGHBOURS,
    effort: int | None = None,
    probabilities: bool = False,
    neighbors: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    empty: Empty = "error",
    max_genes: int | None = None,
    device: str | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Give each cell the label of the reference cells nearest to it, and say how far it is from them.

    The k nearest vote with weights that fall with distance. The distance of a cell is its mean distance to these k; its percentile
    is the share of reference cells that are as near to other reference cells: at 100 the cell is farther than any of
    them, and its label is not to be trusted, whatever the vote.

    Parameters
    ----------
    adata
        Query cells, in memory or backed.
    index
        Folder from `build_reference`.
    model
        The weights the index was made with.
    key_added
        Start of the names of the results.
    label
        Columns to transfer; None for all of the index.
    k
        Neighbours that vote; up to 50 are compared with usual distances.
    effort
        Lists of an IVF index that are looked at (nprobe), or candidates of an HNSW search (efSearch): higher is more exact and slower.
    probabilities
        Also write the share of every label.
    neighbors
        Also write the neighbours.
    layer, use_raw, gene_names, scale, empty, max_genes, device, min_matched
        As in `embed`.
    overwrite
        Replace existing results of that name.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    Nothing; writes

    ``obs[f"{key_added}_{label}"]``
        Label, for each column of labels; missing where no neighbour has one.
    ``obs[f"{key_added}_{label}_probability"]``
        Its share of the weighted votes: agreement of the neighbours, not a calibrated probability.
    ``obs[f"{key_added}_distance"]``, ``obs[f"{key_added}_percentile"]``
        Mean distance to the k neighbours, and its percentile (0–100) among reference cells.
    ``obsm[f"{key_added}_{label}_probabilities"]``
        With `probabilities`: share of each label, a table with the labels as columns.
    ``obsm[f"{key_added}_neighbors"]``, ``obsm[f"{key_added}_distances"]``
        With `neighbors`: rows in the index (−1 for none) and distances, nearest first.
    ``uns["cellfm"][key_added]``
        Index, weights hash, versions, options, gene report.

    Raises
    ------
    WeightsError
        The index was made with other weights, or with another whitening of them.
    DataError
        The index is damaged or there is none, a column is not in it, or there are no cells.
    GeneMatchError, CountsError
        As in `embed`.
    OutputExistsError
        A result of that name exists.

    Examples
    --------
    >>> cellfm.tl.map_to_reference(adata, "atlas-index")  # doctest: +SKIP
    >>> adata.obs[
    ...     ["map_cell_type", "map_cell_type_probability", "map_percentile"]
    ... ]  # doctest: +SKIP
    """
    check_key(key_added)
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        empty=empty,
        max_genes=max_genes,
        min_matched=min_matched,
    )
    reference = read_index(index)
    labels = _labels_of(reference, label)
    names = result_names(key_added, labels, probabilities=probabilities, neighbors=neighbors)
    _refuse_results(adata, names, overwrite=overwrite)
    pretrained = _matching_model(model, device, reference)
    with opened(adata, options) as (rows, _, var):
        options = replace(options, pool=reference.description.pool)
        encoder = make_encoder(pretrained, var, options, rows.n_rows)
        found = _empty_neighbours(rows.n_rows, k)
        for start, states in state_blocks(encoder, rows, progress):
            real = start + np.flatnonzero(np.isfinite(states).all(1))
            found.row[real], found.distance[real] = reference.neighbours(
                states[real - start], k, effort=effort
            )
    mean = found.distance.mean(1)
    adata.obs[f"{key_added}_distance"] = mean
    adata.obs[f"{key_added}_percentile"] = reference.percentile(mean, k)
    for name in labels:
        chosen, share, shares = _label_columns(reference, found, name)
        adata.obs[f"{key_added}_{name}"] = chosen
        adata.obs[f"{key_added}_{name}_probability"] = share
        if probabilities:
            shares.index = adata.obs_names
            adata.obsm[f"{key_added}_{name}_probabilities"] = shares
    if neighbors:
        adata.obsm[f"{key_added}_neighbors"], adata.obsm[f"{key_added}_distances"] = found
    notes = provenance(encoder, version=__version__) | {"index": str(reference.folder), "k": k}
    notes["labels"] = np.array(labels, dtype=str)
    adata.uns["cellfm"] = {**adata.uns.get("cellfm", {}), key_added: notes}


def _empty_neighbours(n_cells: int, k: int) -> Neighbours:
    """Return neighbours of cells without any gene: none, at no distance."""
    return Neighbours(np.full((n_cells, k), -1), np.full((n_cells, k), np.nan, np.float32))


def search(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData | Path | str | None",
    index: Path | str,
    model: Pretrained | str | Path | None = None,
    *,
    cells: str | Sequence[str],
    n_results: int = 10,
    effort: int | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    device: str | None = None,
    min_matched: float = 0.3,
) -> "pd.DataFrame":
    """Find the reference cells that are most like some cells.

    Parameters
    ----------
    adata
        Where the cells are: an AnnData, an h5ad file, or None for cells of the index itself (which then needs no model).
    index
        Folder from `build_reference`.
    model
        The weights the index was made with.
    cells
        Names of the cells to start from.
    n_results
        How many to find for each.
    effort
        As in `map_to_reference`.
    layer, use_raw, gene_names, scale, device, min_matched
        As in `embed`.

    Returns
    -------
    A row for each cell found, nearest first: ``query``, ``rank`` (from 1), ``cell``, ``distance``, ``percentile`` (of that distance among
    nearest-neighbour distances of reference cells), and the columns of the index.

    Raises
    ------
    DataError
        There is no such cell, or no such index.
    WeightsError
        The index was made with other weights.

    Examples
    --------
    >>> cellfm.tl.search(None, "atlas-index", cells="AAACATACAACCAC-1")  # doctest: +SKIP
    """
    reference = read_index(index)
    names = (cells,) if isinstance(cells, str) else tuple(cells)
    if adata is None:
        rows = _rows_of(reference.obs.index, names, str(index))
        found = reference.neighbours_of_members(rows, n_results, effort=effort)
        return _results(reference, names, found)
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        pool=reference.description.pool,
        min_matched=min_matched,
    )
    pretrained = _matching_model(model, device, reference)
    with opened(adata, options) as (source, obs, var):
        rows = _rows_of(obs.index, names, "the query")
        encoder = make_encoder(pretrained, var, options, len(rows))
        states = np.concatenate([encoder.encode(source.read(i, i + 1), i) for i in rows.tolist()])
    found = reference.neighbours(states, n_results, effort=effort)
    return _results(reference, names, found)


def _label_columns(
    reference: ReferenceIndex, neighbours: Neighbours, label: str
) -> "tuple[pd.Categorical[str], NDArray[np.float32], pd.DataFrame]":
    """Return the label, its share and all shares of each cell."""
    import pandas as pd

    code, names = codes(reference.obs, label)
    shares = vote_shares(neighbours, code, len(names)).astype(np.float32)
    best, highest = shares.argmax(1), shares.max(1)
    best[highest == 0] = -1
    chosen = pd.Categorical.from_codes(best, categories=pd.Index(names))
    return (
        chosen,
        np.where(highest == 0, np.nan, highest).astype(np.float32),
        pd.DataFrame(shares, columns=names),
    )


def _results(
    reference: ReferenceIndex, names: Sequence[str], neighbours: Neighbours
) -> "pd.DataFrame":
    import pandas as pd

    found, distance = neighbours
    n_queries, n_found = found.shape
    there = found.ravel() >= 0
    table = pd.DataFrame(
        {
            "query": np.repeat(np.array(names, object), n_found),
            "rank": np.tile(np.arange(1, n_found + 1), n_queries),
            "distance": distance.ravel(),
            "percentile": reference.percentile(distance.ravel(), 1),
        }
    )[there]
    cells = reference.obs.iloc[found.ravel()[there]]
    table.insert(2, "cell", cells.index.to_numpy())
    return pd.concat([table.reset_index(drop=True), cells.reset_index(drop=True)], axis=1)


def _labels_of(reference: ReferenceIndex, label: str | Sequence[str] | None) -> tuple[str, ...]:
    there = reference.description.labels
    asked = there if label is None else columns(label)
    missing = [name for name in asked if name not in there]
    if missing:
        msg = f"The index {reference.folder} has no label {', '.join(map(repr, missing))}; it has {', '.join(there)}. Name one of these, or build it with label=…."
        raise DataError(msg)
    return asked


def _matching_model(
    model: Pretrained | str | Path | None, device: str | None, reference: ReferenceIndex
) -> Pretrained:
    """Return the model, if it is the one the index was made with."""
    pretrained, about = as_model(model, device), reference.description
    if pretrained.hash != about.weights_hash or pretrained.vocabulary.hash != about.vocabulary_hash:
        msg = (
            f"The index {reference.folder} was made with other weights: those of {about.weights} (SHA-256 {about.weights_hash[:12]}…), but the model "
            f"{'that comes with the package' if model is None else 'given'} has {pretrained.hash[:12]}…. States of two models cannot be compared: "
            "give the model of the index by model=… (--model), or build the index anew."
        )
        raise WeightsError(msg)
    _check_whitening(pretrained, reference)
    return pretrained


def _check_whitening(model: Pretrained, reference: ReferenceIndex) -> None:
    """Refuse a whitening other than the index's: it may have been fitted anew for the same weights."""
    expected = reference.description.whitening_hash
    found = None if model.whitening is None else model.whitening.hash
    if expected is None or found == expected:
        return
    msg = (
        f"The index {reference.folder} holds states whitened by the map with SHA-256 {expected[:12]}…, but the model {model.path or 'in memory'} has "
        f"{'no whitening' if found is None else f'another, {found[:12]}…'}. Put the whitening of then beside the weights again, or build the index anew."
    )
    raise WeightsError(msg)


def _rows_of(index: "pd.Index", names: Sequence[str], where: str) -> "NDArray[np.int64]":
    if not names:
        msg = "No cell was named; give at least one name by cells=… (--cell)."
        raise DataError(msg)
    missing = [name for name in names if name not in index]
    if missing:
        msg = f"{where} has no cell named {', '.join(map(repr, missing[:5]))}; its {len(index):,} cells have names such as {', '.join(map(repr, index[:3]))}. Give a name that is among them."
        raise DataError(msg)
    if not index.is_unique:
        msg = f"Names of cells in {where} are not unique. Call adata.obs_names_make_unique() first."
        raise DataError(msg)
    return np.array([index.get_loc(name) for name in names], np.int64)


def result_names(
    key: str, labels: Sequence[str], *, probabilities: bool, neighbors: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of obs and the keys of obsm that are written."""
    columns = [f"{key}_distance", f"{key}_percentile"]
    for label in labels:
        columns += [f"{key}_{label}", f"{key}_{label}_probability"]
    keys = [f"{key}_{label}_probabilities" for label in labels] if probabilities else []
    keys += [f"{key}_neighbors", f"{key}_distances"] if neighbors else []
    return tuple(columns), tuple(keys)


def _refuse_results(
    adata: "AnnData", names: tuple[tuple[str, ...], tuple[str, ...]], *, overwrite: bool
) -> None:
    columns, keys = names
    taken = [f"obs[{name!r}]" for name in columns if name in adata.obs]
    taken += [f"obsm[{name!r}]" for name in keys if name in adata.obsm]
    if taken and not overwrite:
        msg = f"adata has {', '.join(taken)} already. Choose another key_added=…, or say overwrite=True."
        raise OutputExistsError(msg)
