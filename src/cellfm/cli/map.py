"""The commands ``cellfm map …``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import next_step, say, show_table, wrote

if TYPE_CHECKING:
    import pandas as pd


def build(  # noqa: PLR0913 - the parameters of tl.build_reference
    source: Path,
    out: Path,
    *,
    model: str | None = None,
    label: list[str] | None = None,
    keep: list[str] | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    max_genes: int | None = None,
    pool: Literal["cls", "mean", "both", "whitened"] | None = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    structure: Literal["auto", "flat", "ivf", "ivf8", "hnsw"] = "auto",
    device: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Make a reference index of the cells of an h5ad file.

    Writes the folder OUT with a nearest-neighbour index of the cell states, the cells' names and their labels. Needs the extra 'index' (faiss-cpu).

    Parameters
    ----------
    source
        h5ad file with raw counts, of any size.
    out
        Folder to make.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    label
        Column of obs whose labels queries shall get; may be given several times. Without it cell_type.
    keep
        Another column of obs to show with cells that are found; may be given several times.
    batch_key
        Column of donors or batches: usual distances are then those to cells of other donors.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    max_genes
        Use only so many genes of a cell, the highest expressed.
    pool
        What stands for a cell: the state of its [CLS] token, the mean of its genes' states (slower), both side by side, or the [CLS] state in
        units of technical noise; without it the last, where the weights have a whitening, else the first.
    metric
        Distance of states.
    structure
        Kind of the index; auto is exact (flat) up to 20,000 cells, lists with two bytes a number (ivf) up to 3 million, then with one (ivf8).
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the file's genes that the model must know.
    seed
        Of the cells that usual distances are taken from.
    overwrite
        Replace an existing index.

    Examples
    --------
    cellfm map build atlas.h5ad atlas-index --label cell_type --batch-key donor

    cellfm map build atlas.h5ad atlas-index --model weights/cellfm-80m --label cell_type --label tissue
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar

    with progress_bar("embedding", unit="cells") as progress:
        made = tl.build_reference(
            source,
            out,
            model,
            label=label or "cell_type",
            keep=keep or (),
            batch_key=batch_key,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            max_genes=max_genes,
            pool=pool,
            metric=metric,
            structure=structure,
            device=device,
            min_matched=min_matched,
            seed=seed,
            overwrite=overwrite,
            progress=progress,
        )
    among = f"cells of other {batch_key}" if batch_key else "the other cells"
    for name, score in made.leave_one_out.items():
        say(
            f"{name}: {score['n_cells']:,} reference cells left out get the label of {among} with accuracy {score['accuracy']:.3f}, "
            f"macro-F1 {score['macro_f1']:.3f}"
        )
    about = f"{made.n_cells:,} cells × {made.dim} ({made.pool}), {made.structure}, {made.metric}"
    wrote(out, about=about)
    next_step("map", "query", "QUERY.h5ad", out, "QUERY.mapped.h5ad")


def query(  # noqa: PLR0913 - the parameters of tl.map_file
    source: Path,
    index: Path,
    target: Path,
    *,
    model: str | None = None,
    key_added: str = "map",
    label: list[str] | None = None,
    k: int = 15,
    effort: int | None = None,
    probabilities: bool = False,
    neighbors: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    empty: Literal["error", "nan"] = "error",
    max_genes: int | None = None,
    device: str | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
) -> None:
    """Label the cells of an h5ad file by the cells of a reference index nearest to them.

    Writes a copy of SOURCE with label, share of the neighbours' votes, distance and its percentile among reference cells in obs; SOURCE is never changed.

    Parameters
    ----------
    source
        h5ad file with raw counts, of any size.
    index
        Folder from cellfm map build.
    target
        h5ad file to write.
    model
        Weights the index was made with; without it, the small model that comes with the package.
    key_added
        Start of the names of the results.
    label
        Column of labels to transfer; may be given several times. Without it all of the index.
    k
        Neighbours that vote.
    effort
        Candidates of a graph search (efSearch), or lists looked at (nprobe): higher is more exact and slower.
    probabilities
        Also write the share of every label, in obsm.
    neighbors
        Also write the neighbours and their distances, in obsm.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    empty
        What to do about cells without a count on any gene of the model.
    max_genes
        Use only so many genes of a cell, the highest expressed.
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the file's genes that the model must know.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm map query query.h5ad atlas-index query_mapped.h5ad

    cellfm map query query.h5ad atlas-index query_mapped.h5ad --label cell_type --k 30 --probabilities
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar

    with progress_bar("mapping", unit="cells") as progress:
        summary = tl.map_file(
            source,
            index,
            target,
            model=model,
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
    _show(summary.obs, key=key_added)
    wrote(summary.target, about=f"{len(summary.obs):,} cells")
    next_step("view", summary.target)


def search(  # noqa: PLR0913 - the parameters of tl.search
    index: Path,
    source: Path | None = None,
    *,
    cell: list[str],
    n_results: int = 10,
    model: str | None = None,
    effort: int | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    device: str | None = None,
    min_matched: float = 0.3,
) -> None:
    """Find the cells of a reference index that are most like a cell.

    Parameters
    ----------
    index
        Folder from cellfm map build.
    source
        h5ad file that the cell is in; without it, the cell is one of the index.
    cell
        Name of the cell; may be given several times.
    n_results
        How many to find for each.
    model
        Weights the index was made with; without it, the small model that comes with the package.
    effort
        Candidates of a graph search (efSearch), or lists looked at (nprobe).
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are.
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the file's genes that the model must know.

    Examples
    --------
    cellfm map search atlas-index --cell AAACATACAACCAC-1

    cellfm map search atlas-index query.h5ad --cell AAACATTGAGCTAC-1 --n-results 25
    """
    from cellfm import tl

    found = tl.search(
        source,
        index,
        model,
        cells=cell,
        n_results=n_results,
        effort=effort,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        device=device,
        min_matched=min_matched,
    )
    # Not by rich, which makes spaces of tabs.
    sys.stdout.write(found.round(4).to_csv(sep="\t", index=False))


def _show(obs: "pd.DataFrame", *, key: str) -> None:
    """Print how many cells got each label, how sure, and how far from the reference."""
    from rich.table import Table

    names = [str(column) for column in obs.columns]
    for share in [name for name in names if name.endswith("_probability")]:
        name = share.removesuffix("_probability")
        table = Table("label", "cells", "median share", "median percentile", title=name)
        for label, cells in obs.groupby(name, observed=True):
            middle = cells[[share, f"{key}_percentile"]].median()
            table.add_row(
                str(label), f"{len(cells):,}", f"{middle.iloc[0]:.2f}", f"{middle.iloc[1]:.0f}"
            )
        show_table(table)
    far = int((obs[f"{key}_percentile"] >= 100).sum())
    say(
        f"{far:,} of {len(obs):,} cells are farther from the reference than any reference cell looked at is from the others"
    )
