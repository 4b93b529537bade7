"""Expected expression of chosen genes, on AnnData and on files."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.missing import refuse_no_file
from cellfm.corpus.rows import h5ad_source
from cellfm.errors import DataError, OutputExistsError
from cellfm.genes import GeneReport
from cellfm.tl._denoise_fit import (
    DenoiseOptions,
    Denoiser,
    Output,
    genes_wanted,
    make_denoiser,
    record,
)
from cellfm.tl._embed import match_genes
from cellfm.tl._states import BLOCK, EmbedOptions, Empty, as_model, check_key, provenance
from cellfm.weights.atomic import replacing
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import h5py
    from anndata import AnnData
    from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
MOST_VALUES = 1 << 28
"""Values that `denoise` makes without being asked for by genes: 1 GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseSummary:
    """What `denoise_file` did."""

    target: Path
    n_cells: int
    n_genes: int
    where: str
    """``"layers"`` or ``"obsm"``."""
    shape: float
    """α of the blend with the cell's own counts; infinite without one."""
    seconds: float
    report: GeneReport


def denoise(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    genes: Sequence[str] | None = None,
    key_added: str = "cellfm_denoised",
    output: Output = "counts",
    calibrate: bool = True,
    own_counts: bool = True,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    empty: Empty = "error",
    seed: int = 0,
    device: str | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    r"""Estimate the expected expression of genes in every cell, whether or not the cell shows them.

    The expected count is the cell's depth, times the probability that the gene is detected, times its value where it is, both
    read off the cell's state by the cell-wise decoders of Zeng et al. (2025); level and frequency of each gene are fitted on these
    cells, and the cell's own counts enter as in a gamma-Poisson posterior whose one parameter is chosen by molecular
    cross-validation (Batson et al. 2019). The formulas are in :mod:`cellfm.tl._denoise_rates`. Denoised values are smooth: they
    correlate more than the truth does, so do not test for correlation or differential expression on them.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, in memory or backed.
    model
        From `cellfm.load`, or a weights folder or name; None takes the small one that comes with the package.
    genes
        Genes to estimate, by symbol or Ensembl id; None for all genes of `adata` that the model knows.
    key_added
        Name of the result.
    output
        ``"counts"``: expected counts at the depth of the cell. ``"log1p_cp10k"``: log1p of the expected counts per 10,000 (of
        the vocabulary's genes): the logarithm of an expectation. ``"mean_log1p_cp10k"``: the expected log-normalised value
        at the depth of the cell, that is of noisy data; the one with the least squared error to such data.
    calibrate
        Fit level and frequency of each gene on at most 2,000 of the cells. Without it the decoder's own numbers are returned, p · value:
        p then means "rather than a gene drawn by how often genes are expressed", and is too high for rare genes.
    own_counts
        Blend with the cell's own counts.
    layer, use_raw, gene_names, empty, device, min_matched
        As in `embed`.
    seed
        Of the choice of cells and of the thinning.
    overwrite
        Replace an existing result of that name.
    progress
        Called with (stage, done, in all): ``"fitting"`` and ``"denoising"``, in cells.

    Returns
    -------
    Nothing; writes

    ``layers[key_added]``
        With ``genes=None``: float32 (cells, genes); NaN in columns that are no gene of the model. Columns that are one gene
        to the model hold its sum, each.
    ``obsm[key_added]``
        With `genes`: float32 (cells, genes asked for), their names in ``uns["cellfm"][key_added]["gene_names"]``. Without a
        detection head the frequency is left out of the formula: the value where expressed, times its factor.
    ``uns["cellfm"][key_added]``
        Weights hash, versions, options, what was fitted, gene report.

    Raises
    ------
    GeneMatchError
        A gene is not in the vocabulary or, if it is to be calibrated, not in the data; or too few genes of the data match.
    CountsError
        The values are no raw counts.
    OutputExistsError
        The key exists and `overwrite` is false.
    DataError
        A layer or column is missing, there are too few cells, or too many values for one layer.

    Examples
    --------
    >>> cellfm.tl.denoise(adata, genes=["CD3E", "MS4A1"])  # doctest: +SKIP
    >>> adata.obsm["cellfm_denoised"]  # doctest: +SKIP
    """
    check_key(key_added)
    options = DenoiseOptions(
        output=output,
        calibrate=calibrate,
        own_counts=own_counts,
        seed=seed,
        embed=EmbedOptions(
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            empty=empty,
            min_matched=min_matched,
        ),
    )
    where = "layers" if genes is None else "obsm"
    if key_added in getattr(adata, where) and not overwrite:
        msg = f"adata has {where}[{key_added!r}] already. Choose another key_added=…, or say overwrite=True."
        raise OutputExistsError(msg)
    source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
    if genes is None:
        _refuse_large(source.n_rows, len(var))
        if list(var.index) != list(adata.var_names):
            msg = "The genes of adata.raw are not those of adata, so that no layer can hold them. Name genes=…, or denoise adata.raw.to_adata()."
            raise DataError(msg)
    pretrained = as_model(model, device)
    match = match_genes(var, pretrained.vocabulary, options.embed)
    token = genes_wanted(genes, match, pretrained.vocabulary, measured=calibrate)
    made = make_denoiser(source, match, pretrained, token=token, options=options, progress=_stage(progress, "fitting"))  # fmt: skip
    column = _columns(made, genes)
    values = np.empty((source.n_rows, len(column)), np.float32)
    for start in range(0, source.n_rows, BLOCK):
        stop = min(start + BLOCK, source.n_rows)
        values[start:stop] = _placed(made.denoise(source.read(start, stop), start), column)
        if progress is not None:
            progress("denoising", stop, source.n_rows)
    getattr(adata, where)[key_added] = values
    adata.uns["cellfm"] = {**adata.uns.get("cellfm", {}), key_added: _notes(made, genes)}


def denoise_file(  # noqa: PLR0913 - the arguments of a user's question
    source: Path | str,
    target: Path | str,
    model: Pretrained | str | Path | None = None,
    *,
    genes: Sequence[str] | None = None,
    key_added: str = "cellfm_denoised",
    output: Output = "counts",
    calibrate: bool = True,
    own_counts: bool = True,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    empty: Empty = "error",
    seed: int = 0,
    device: str | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DenoiseSummary:
    """Denoise an h5ad file of any size in constant memory; the target appears whole or not at all.

    Parameters
    ----------
    source, target
        h5ad files; the source is never changed.
    model, genes, key_added, output, calibrate, own_counts, layer, use_raw, gene_names, empty, seed, device, min_matched, progress
        As in `denoise`; a layer of any size is written.
    overwrite
        Replace an existing target, and an existing result of that name in it.

    Returns
    -------
    What was done. The target is a copy of the source with what `denoise` writes.

    Raises
    ------
    OutputExistsError
        The target, or the key in the source, exists.
    DataError
        The source is no file or the target; also as in `denoise`.
    GeneMatchError, CountsError
        As in `denoise`.

    Examples
    --------
    >>> cellfm.tl.denoise_file("pbmc.h5ad", "denoised.h5ad", genes=["CD3E"])  # doctest: +SKIP
    """
    source, target, started = Path(source), Path(target), time.perf_counter()
    check_key(key_added)
    options = DenoiseOptions(
        output=output,
        calibrate=calibrate,
        own_counts=own_counts,
        seed=seed,
        embed=EmbedOptions(
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            empty=empty,
            min_matched=min_matched,
        ),
    )
    where = "layers" if genes is None else "obsm"
    _refuse_files(source, target, overwrite=overwrite)
    _refuse_stored(source, where, key_added, overwrite=overwrite, raw=use_raw and genes is None)
    pretrained = as_model(model, device)
    with h5ad_source(source, layer=layer, use_raw=use_raw) as (rows, _, var):
        match = match_genes(var, pretrained.vocabulary, options.embed)
        token = genes_wanted(genes, match, pretrained.vocabulary, measured=calibrate)
        made = make_denoiser(rows, match, pretrained, token=token, options=options, progress=_stage(progress, "fitting"))  # fmt: skip
        column = _columns(made, genes)

        def block(start: int, stop: int) -> "NDArray[np.float32]":
            return _placed(made.denoise(rows.read(start, stop), start), column)

        with replacing(target) as partial:
            _write(source, partial, (rows.n_rows, len(column)), block, keys=(where, key_added), notes=lambda: _notes(made, genes), progress=progress)  # fmt: skip
        return DenoiseSummary(
            target=target,
            n_cells=rows.n_rows,
            n_genes=len(made.token),
            where=where,
            shape=float(made.fitted.shape),
            seconds=time.perf_counter() - started,
            report=made.encoder.report,
        )


def _write(
    source: Path,
    partial: Path,
    shape: tuple[int, int],
    block: "Callable[[int, int], NDArray[np.float32]]",
    *,
    keys: tuple[str, str],
    notes: Callable[[], dict[str, object]],
    progress: Progress | None,
) -> None:
    """Copy the source and add the values to the copy, some rows at a time."""
    import shutil

    import h5py
    from anndata.io import write_elem

    shutil.copyfile(source, partial)
    where, key = keys
    with h5py.File(partial, "r+") as file:
        group = _mapping(file, where)
        if key in group:
            del group[key]
        stored = group.create_dataset(key, shape=shape, dtype=np.float32)
        stored.attrs["encoding-type"], stored.attrs["encoding-version"] = "array", "0.2.0"
        for start in range(0, shape[0], BLOCK):
            stop = min(start + BLOCK, shape[0])
            stored[start:stop] = block(start, stop)
            if progress is not None:
                progress("denoising", stop, shape[0])
        told = _mapping(_mapping(file, "uns"), "cellfm")
        if key in told:
            del told[key]
        write_elem(told, key, notes())


def _mapping(parent: "h5py.Group", name: str) -> "h5py.Group":
    """Return a group that AnnData reads as a dict, made if it is missing."""
    from anndata.io import write_elem

    if name not in parent:
        write_elem(parent, name, {})
    return parent[name]


def _columns(made: Denoiser, genes: Sequence[str] | None) -> "NDArray[np.int64]":
    """Column of the denoiser's result for each column of what is written; -1 for NaN."""
    if genes is not None:
        return np.arange(len(made.token))
    place = np.full(int(made.match.token.max()) + 1, -1, np.int64)
    place[made.token] = np.arange(len(made.token))
    return np.where(made.match.token > 0, place[made.match.token], -1)


def _placed(values: "NDArray[np.float32]", column: "NDArray[np.int64]") -> "NDArray[np.float32]":
    placed = values[:, column]
    placed[:, column < 0] = np.nan
    return placed


def _notes(made: Denoiser, genes: Sequence[str] | None) -> dict[str, object]:
    notes = provenance(made.encoder, version=__version__) | record(made)
    if genes is not None:
        notes["gene_names"] = np.array([str(name) for name in genes], dtype=str)
    return notes


def _stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)


def _refuse_large(n_cells: int, n_genes: int) -> None:
    if n_cells * n_genes > MOST_VALUES:
        msg = (
            f"{n_cells:,} cells × {n_genes:,} genes are {n_cells * n_genes * 4 / 2**30:.1f} GiB of dense values, above 1 GiB. Name "
            "genes=…, or use denoise_file (cellfm denoise), which writes block by block."
        )
        raise DataError(msg)


def _refuse_files(source: Path, target: Path, *, overwrite: bool) -> None:
    refuse_no_file(source)
    if target.resolve() == source.resolve():
        msg = f"Input and output are the same file, {source}; the input is never changed. Give the output another name."
        raise OutputExistsError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already. Choose another name, or say overwrite."
        raise OutputExistsError(msg)
    target.parent.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of work


def _refuse_stored(source: Path, where: str, key: str, *, overwrite: bool, raw: bool) -> None:
    import h5py

    if raw:
        msg = "The genes of .raw do not fit a layer: with use_raw, name the genes to denoise (genes=…, --genes)."
        raise DataError(msg)
    if not h5py.is_hdf5(source):
        return  # the reader says what is wrong with it
    with h5py.File(source, "r") as file:
        if not overwrite and key in file.get(where, {}):
            msg = f"{source} has {where}[{key!r}] already. Choose another key_added, or say overwrite."
            raise OutputExistsError(msg)
