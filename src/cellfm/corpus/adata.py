"""AnnData as input: h5ad files, which matrix holds the counts, and what its genes are called."""

from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.missing import H5AD, refuse_no_file
from cellfm.corpus.rows import RowSource, row_source
from cellfm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def read_h5ad(path: Path, what: str, *, backed: bool = False) -> "AnnData":
    """Read an h5ad file.

    Parameters
    ----------
    path
        Of the file.
    what
        Whose cells these are, for messages.
    backed
        Leave the counts in the file.

    Raises
    ------
    DataError
        It is missing or no h5ad file.
    """
    import anndata

    refuse_no_file(path, f"the {what}, {H5AD}")
    try:
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except (OSError, KeyError, ValueError) as error:
        msg = f"The {what} {path} cannot be read as an h5ad file ({error}). Give a file written by anndata, or write it again; counts of other formats become one by 'cellfm convert'."
        raise DataError(msg) from error


def anndata_source(
    adata: "AnnData", *, layer: str | None = None, use_raw: bool = False
) -> tuple[RowSource, "pd.DataFrame"]:
    """Return the matrix that was asked for and the table of its genes.

    Parameters
    ----------
    adata
        In memory or backed.
    layer
        Layer instead of ``X``.
    use_raw
        Take ``adata.raw``.

    Raises
    ------
    DataError
        There is no such layer or raw, or both were asked for.
    """
    if layer is not None and use_raw:
        msg = f"Both layer={layer!r} and use_raw=True were given; choose one of the two."
        raise DataError(msg)
    if use_raw:
        if adata.raw is None:
            msg = (
                "use_raw=True was given, but adata.raw is empty. Leave it out, or give layer=NAME."
            )
            raise DataError(msg)
        return row_source(adata.raw.X), adata.raw.var
    if layer is None:
        return row_source(adata.X), adata.var
    if layer not in adata.layers:
        msg = (
            f"There is no layer {layer!r}; adata has {', '.join(adata.layers) or 'no layers'}. "
            "Give one of these, or none for X."
        )
        raise DataError(msg)
    return row_source(adata.layers[layer]), adata.var


def gene_names_of(var: "pd.DataFrame", column: str | None) -> list[object]:
    """Return the names in the index, or in a column.

    Raises
    ------
    DataError
        There is no such column.
    """
    if column is None:
        return list(var.index)
    if column not in var.columns:
        msg = (
            f"There is no column {column!r} in var; it has {', '.join(map(str, var.columns)) or 'no columns'}. "
            "Name one of these by gene_names=…, or none for the index."
        )
        raise DataError(msg)
    return list(var[column])
