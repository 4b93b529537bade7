"""Query file in, copy with labels out."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import h5ad_source
from cellfm.errors import OutputExistsError
from cellfm.tl._embed import Progress
from cellfm.tl._map import map_to_reference, result_names
from cellfm.tl._reference_build import N_NEIGHBOURS
from cellfm.tl._states import Empty
from cellfm.weights.atomic import replacing
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapSummary:
    """What `map_file` did."""

    target: Path
    obs: "pd.DataFrame"
    """The columns that were added."""


def map_file(  # noqa: PLR0913 - the arguments of a user's question
    source: Path | str,
    index: Path | str,
    target: Path | str,
    *,
    model: Pretrained | str | Path | None = None,
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
) -> MapSummary:
    """Map the cells of an h5ad file to a reference index; counts are read block by block.

    Parameters
    ----------
    source
        Query.
    index
        Folder from `build_reference`.
    target
        File to write: a copy of the query with the results added.
    model, key_added, label, k, effort, probabilities, neighbors, layer, use_raw, gene_names, scale, empty, max_genes, device, min_matched
        As in `map_to_reference`.
    overwrite
        Replace an existing target, and existing results of that name.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    The columns of obs that were added.

    Raises
    ------
    OutputExistsError
        The target exists, or is the query.
    DataError, WeightsError, GeneMatchError, CountsError
        As in `map_to_reference`.

    Examples
    --------
    >>> cellfm.tl.map_file("query.h5ad", "atlas-index", "query.mapped.h5ad")  # doctest: +SKIP
    """
    source, target = Path(source), Path(target)
    _refuse_target(source, target, overwrite=overwrite)
    with h5ad_source(source, layer=layer, use_raw=use_raw):  # says what is wrong with a file
        pass
    from anndata import read_h5ad

    adata = read_h5ad(source, backed="r")
    try:
        map_to_reference(
            adata,
            index,
            model,
            key_added=key_added,
            label=label,
            k=k,
            effort=effort,
            probabilities=probabilities,
            neighbors=neighbors,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            empty=empty,
            max_genes=max_genes,
            device=device,
            min_matched=min_matched,
            overwrite=overwrite,
            progress=progress,
        )
    finally:
        adata.file.close()
    labels = adata.uns["cellfm"][key_added]["labels"]
    names = result_names(key_added, labels, probabilities=probabilities, neighbors=neighbors)
    with replacing(target) as copy:
        shutil.copyfile(source, copy)
        _add(copy, adata, key=key_added, tables=names[1])
    return MapSummary(target=target, obs=adata.obs[list(names[0])])


def _add(path: Path, adata: "AnnData", *, key: str, tables: Sequence[str]) -> None:
    """Put the results into a copy of the query."""
    import h5py
    from anndata.io import write_elem

    with h5py.File(path, "r+") as file:
        del file["obs"]
        write_elem(file, "obs", adata.obs)
        for name in tables:
            _replace(_mapping(file, "obsm"), name, adata.obsm[name])
        _replace(_mapping(_mapping(file, "uns"), "cellfm"), key, adata.uns["cellfm"][key])


def _mapping(parent: "h5py.Group", name: str) -> "h5py.Group":
    """Return a group that AnnData reads as a dict, made if it is missing."""
    from anndata.io import write_elem

    if name not in parent:
        write_elem(parent, name, {})
    return parent[name]


def _replace(group: "h5py.Group", name: str, value: object) -> None:
    from anndata.io import write_elem

    if name in group:
        del group[name]
    write_elem(group, name, value)


def _refuse_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if target.resolve() == source.resolve():
        msg = f"Query and target are the same file, {source}; the query is never changed. Give the target another name."
        raise OutputExistsError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already. Choose another name, or say overwrite (--overwrite)."
        raise OutputExistsError(msg)
    target.parent.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of work
