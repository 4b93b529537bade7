"""The commands ``cellfm genes …``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellfm.genes.sets import GeneSets
    from cellfm.pp import FileCheck


Kind = Literal["static", "contextual", "query"]
PICTURES = (".png", ".pdf", ".svg")
N_LEGEND = 12
"""Sets a legend is readable with."""


def embed(  # noqa: PLR0913 - the parameters of tl.gene_embeddings
    model: str,
    target: Path,
    *,
    source: Path | None = None,
    kind: Kind | None = None,
    groupby: str | None = None,
    group: list[str] | None = None,
    n_cells: int = 2000,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write the embeddings of the genes of a model as an h5ad file.

    Genes are the observations, with symbol, HGNC id, Ensembl id, locus group and locus type (HGNC's biotypes) in obs; the embeddings are X: those of the embedding table (static), the
    mean states of the genes in cells of SOURCE (contextual), or what the cell-wise decoder asks a cell for each gene by (query).

    Parameters
    ----------
    model
        Weights folder, or name of one in the cache folder.
    target
        h5ad file to write.
    source
        h5ad file with raw counts, for contextual embeddings.
    kind
        Which embeddings; without it contextual if there is a source, else static.
    groupby
        Column of obs with groups of cells; each is averaged over by itself.
    group
        Entry of it; may be repeated. Every entry without.
    n_cells
        Cells of a group, drawn at random when there are more.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of the choice of cells.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm genes embed weights/cellfm-80m genes.h5ad

    cellfm genes embed mini genes.h5ad --source pbmc.h5ad --groupby cell_type --group "B cells"
    """
    from cellfm.cli.console import wrote
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(target, overwrite=overwrite)
    asked = _Asked(
        model=model,
        source=source,
        kind=kind,
        groupby=groupby,
        group=group,
        n_cells=n_cells,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        min_matched=min_matched,
        device=device,
        seed=seed,
    )
    genes = asked.embeddings()
    with replacing(target) as partial:
        genes.write_h5ad(partial)
    wrote(target, about=f"{genes.n_obs:,} genes × {genes.n_vars}")


def similar(  # noqa: PLR0913 - tl.similar_genes and the choice of cells
    gene: str,
    *,
    n: int = 20,
    model: str = "mini",
    embeddings: Path | None = None,
    source: Path | None = None,
    kind: Kind | None = None,
    groupby: str | None = None,
    group: str | None = None,
    n_cells: int = 2000,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    target: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Print the genes whose embeddings are nearest to that of a gene.

    Nearest by the cosine after the mean of all genes is taken off; the percentile is the share of the other genes that are less near. It shows what the model
    makes of the cells it was trained on, and is no evidence of a common function.

    Parameters
    ----------
    gene
        Symbol, earlier symbol, alias or Ensembl id.
    n
        Near genes to print.
    model
        Weights folder, or name of one in the cache folder.
    embeddings
        h5ad file of cellfm genes embed, instead of computing them.
    source
        h5ad file with raw counts, for contextual embeddings.
    kind
        Which embeddings; without it contextual if there is a source, else static.
    groupby
        Column of obs with groups of cells.
    group
        Entry of it whose cells are averaged over.
    n_cells
        Cells, drawn at random when there are more.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of the choice of cells.
    target
        Also write the table, tab-separated.
    overwrite
        Replace an existing table.

    Examples
    --------
    cellfm genes similar CD3E

    cellfm genes similar CD3E --source pbmc.h5ad --groupby cell_type --group "CD4 T cells" --target near.tsv
    """
    from cellfm import tl
    from cellfm.cli.console import print_table, wrote
    from cellfm.weights.atomic import refuse_existing, replacing

    if target is not None:
        refuse_existing(target, overwrite=overwrite)
    asked = _Asked(
        model=model,
        stored=embeddings,
        source=source,
        kind=kind,
        groupby=groupby,
        group=None if group is None else [group],
        n_cells=n_cells,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        min_matched=min_matched,
        device=device,
        seed=seed,
    )
    table = tl.similar_genes(asked.embeddings(), gene, n=n)
    shown = table.set_index("rank").assign(
        cosine=table["cosine"].map("{:.3f}".format).to_numpy(),
        percentile=table["percentile"].map("{:.2f}".format).to_numpy(),
    )
    said = f"nearest to {table.attrs['gene']} among {table.attrs['n_genes']:,} other genes ({asked.described})"
    print_table(said, shown)
    if target is not None:
        with replacing(target) as new:
            table.to_csv(new, sep="\t", index=False, float_format="%.6g")
        wrote(target, about=f"{len(table):,} rows")


def plot(  # noqa: PLR0913 - pl.genes and the choice of cells
    out: Path,
    *,
    model: str = "mini",
    embeddings: Path | None = None,
    source: Path | None = None,
    kind: Kind | None = None,
    groupby: str | None = None,
    group: str | None = None,
    n_cells: int = 2000,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    color: Literal["locus_group", "locus_type", "family"] = "locus_group",
    gene_groups: Path | None = None,
    gene_sets: Path | None = None,
    highlight: list[str] | None = None,
    n_neighbors: int = 15,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Draw a map of genes (UMAP), coloured by kind, by family or by gene sets.

    Parameters
    ----------
    out
        Picture to write: png, pdf or svg.
    model
        Weights folder, or name of one in the cache folder.
    embeddings
        h5ad file of cellfm genes embed, instead of computing them.
    source
        h5ad file with raw counts, for contextual embeddings.
    kind
        Which embeddings; without it contextual if there is a source, else static.
    groupby
        Column of obs with groups of cells.
    group
        Entry of it whose cells are averaged over.
    n_cells
        Cells, drawn at random when there are more.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    color
        What colours show: HGNC's locus group or type, or the family of a gene.
    gene_groups
        HGNC's complete set, for families by its gene groups; without it they are the stems of symbols (HLA-DRB1: HLA-DRB).
    gene_sets
        GMT file, or table of genes and sets, to colour instead.
    highlight
        Name of a set, or of a family, to colour; may be repeated. A gene of several gets the colour of the last. Without it, all sets or the largest families.
    n_neighbors
        Neighbours of a gene in the graph that is laid out.
    seed
        Of the layout and of the choice of cells.
    overwrite
        Replace an existing picture.

    Examples
    --------
    cellfm genes plot genes.png

    cellfm genes plot genes.png --color family --highlight RPL --highlight HLA-DRB

    cellfm genes plot genes.png --source pbmc.h5ad --gene-sets h.all.gmt --highlight HALLMARK_OXIDATIVE_PHOSPHORYLATION
    """
    from cellfm import pl
    from cellfm.cli.console import wrote
    from cellfm.genes.families import read_gene_groups
    from cellfm.optional import require
    from cellfm.tl._genes.similar import families_of, lay_out
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(out, overwrite=overwrite)
    if out.suffix not in PICTURES:  # said before a minute's work, not after
        msg = f"{out} ends in {out.suffix!r}; a picture ends in {', '.join(PICTURES)}. Name it so."
        raise ConfigError(msg)
    require("matplotlib", "umap")
    _check_colours(color, gene_groups=gene_groups, gene_sets=gene_sets)
    groups = None if gene_groups is None else read_gene_groups(gene_groups)
    sets = None if color == "family" else _highlighted(gene_sets, highlight or [])
    asked = _Asked(
        model=model,
        stored=embeddings,
        source=source,
        kind=kind,
        groupby=groupby,
        group=None if group is None else [group],
        n_cells=n_cells,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        min_matched=min_matched,
        device=device,
        seed=seed,
    )
    genes = asked.embeddings()
    if color == "family":
        sets = families_of(genes, highlight or [], gene_groups=groups)
    genes = lay_out(genes, n_neighbors=n_neighbors, seed=seed)
    axes = pl.genes(genes, gene_sets=sets, color=color)
    axes.set_title(f"{genes.n_obs:,} genes ({asked.described})")
    with replacing(out) as new:
        cast("Figure", axes.figure).savefig(new, dpi=150, format=out.suffix.lstrip("."))
    wrote(out, about=f"{genes.n_obs:,} genes")


def _check_colours(color: str, *, gene_groups: Path | None, gene_sets: Path | None) -> None:
    if color == "family" and gene_sets is not None:
        msg = f"Colours show families (--color family), or the sets of {gene_sets} (--gene-sets), not both. Leave one out."
        raise ConfigError(msg)
    if color != "family" and gene_groups is not None:
        msg = f"{gene_groups} says which genes are of a family, and colours show {color}. Say --color family, or leave it out."
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Which embeddings of genes a command is about."""

    model: str
    stored: Path | None = None
    source: Path | None = None
    kind: Kind | None = None
    groupby: str | None = None
    group: list[str] | None = None
    n_cells: int = 2000
    layer: str | None = None
    use_raw: bool = False
    gene_names: str | None = None
    scale: Literal["counts", "log1p"] = "counts"
    min_matched: float = 0.3
    device: str | None = None
    seed: int = 0

    @property
    def described(self) -> str:
        """What they are, in words."""
        if self.stored is not None:
            return str(self.stored)
        cells = f" in {', '.join(self.group)}" if self.group else ""
        return f"{self._kind}{cells}"

    @property
    def _kind(self) -> Kind:
        return self.kind or ("static" if self.source is None else "contextual")

    def embeddings(self) -> "AnnData":
        """Read or compute them."""
        from cellfm import tl
        from cellfm.cli.progress import progress_bar
        from cellfm.corpus.adata import read_h5ad

        if self.stored is not None:
            if self.kind or self.source or self.groupby or self.group:
                msg = f"Embeddings come from the file {self.stored}, but --kind, --source, --groupby or --group say how to compute others. Leave one of the two out."
                raise ConfigError(msg)
            return read_h5ad(self.stored, "embeddings of genes")
        source = self.source
        adata = None if source is None else read_h5ad(source, "cells", backed=True)
        try:
            with progress_bar("embedding", unit="cells") as progress:
                return tl.gene_embeddings(
                    self.model,
                    adata,
                    kind=self._kind,
                    groupby=self.groupby,
                    group=self.group,
                    n_cells=self.n_cells,
                    layer=self.layer,
                    use_raw=self.use_raw,
                    gene_names=self.gene_names,
                    scale=self.scale,
                    min_matched=self.min_matched,
                    device=self.device,
                    seed=self.seed,
                    progress=progress,
                )
        finally:
            if adata is not None:
                adata.file.close()


def _highlighted(path: Path | None, names: list[str]) -> "GeneSets | None":
    """Return the sets of a file that are to be coloured: those named, or all of a few."""
    from difflib import get_close_matches

    from cellfm.genes.sets import read_gene_sets

    if path is None:
        if names:
            msg = f"--highlight {names[0]} names a gene set, and there are none. Give a GMT file by --gene-sets."
            raise ConfigError(msg)
        return None
    sets = read_gene_sets(path)
    for name in names:
        if name not in sets:
            near = get_close_matches(name.upper(), list(sets), n=3)
            hint = f"; near names: {', '.join(near)}" if near else ""
            msg = f"{path} has no set {name!r} among its {len(sets):,}{hint}. Correct --highlight."
            raise DataError(msg)
    if not names and len(sets) > N_LEGEND:
        some = ", ".join(list(sets)[:3])
        msg = f"{path} has {len(sets):,} sets, such as {some}; at most {N_LEGEND} can be told apart. Name some by --highlight."
        raise ConfigError(msg)
    return {name: sets[name] for name in names or sets}


def check(
    source: Path,
    *,
    model: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    min_matched: float = 0.3,
) -> None:
    """Report whether a file's genes and counts fit a model.

    Parameters
    ----------
    source
        h5ad file; only read.
    model
        Weights folder, or name of one in the cache folder; without it, the genes of models trained from scratch are taken.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are said to be.
    min_matched
        Least fraction of the file's genes that the model must know.

    Examples
    --------
    cellfm genes check pbmc.h5ad --model weights/cellfm-80m

    cellfm genes check pbmc.h5ad --layer counts
    """
    from cellfm import pp
    from cellfm.cli.progress import progress_bar

    with progress_bar("reading", unit="cells") as progress:
        found = pp.check_file(
            source,
            model,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            min_matched=min_matched,
            progress=progress,
        )
    _show(found, scale=scale)
    if found.problem is not None:
        raise found.problem


def _show(found: "FileCheck", *, scale: str) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(found.report.to_text())
    if found.problem is None:
        console.print(
            f"values: {found.n_cells:,} cells × {found.report.n_input:,} genes are on the scale {scale!r}"
        )
        console.print(
            f"totals of the cells on matched genes: median {found.median_total:,.0f}, {found.n_empty:,} cells without any"
        )
