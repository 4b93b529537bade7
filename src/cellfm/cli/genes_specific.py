"""The command ``cellfm genes specific``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from cellfm.cli.console import print_table, say, wrote

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from cellfm.tl import SpecificGenes

N_SHOWN = 5
"""Genes of a type that are printed."""


def specific(  # noqa: PLR0913 - the parameters of tl.specific_genes
    source: Path,
    annotator: Path,
    *,
    model: str | None = None,
    label: str | None = None,
    groupby: str | None = None,
    biotype: str | None = None,
    rank_by: Literal["specific", "attention"] = "specific",
    n_genes: int = 20,
    n_cells: int = 200,
    min_cells: int = 10,
    n_listed: int = 100,
    n_permutations: int = 200,
    attribution: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    device: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    target: Path | None = None,
    picture: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Rank the genes of each cell type, such as lncRNAs, by the attention of the annotator's class queries.

    Genes are ranked by the attention in the type less that in the other types. How many of the longer list are differentially expressed is printed beside what
    shuffled labels, untrained queries and mean expression give.

    Parameters
    ----------
    source
        h5ad file with raw counts, better not that the annotator was trained on.
    annotator
        Folder from cellfm annotate train --strength lora --head clusters.
    model
        Weights the annotator was trained with; without it, where they were then.
    label
        Label column of the annotator; without it the first.
    groupby
        Column of obs with the types of the cells; without it the annotator's own calls.
    biotype
        List these alone: lncRNA, or a locus group of HGNC such as "protein-coding gene".
    rank_by
        Attention less that in the other types, or attention alone.
    n_genes
        Genes of a type in the table.
    n_cells
        Cells of a type that are scored.
    min_cells
        Genes that fewer scored cells of the type express are left out, and types with fewer cells.
    n_listed
        Genes of the longer list that is compared with differential expression.
    n_permutations
        Shuffled labellings.
    attribution
        Also compute attributions, as cellfm markers does, which takes longer.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the file's genes that the model must know.
    seed
        Of the choice of cells, of shuffled labels, and of untrained queries.
    target
        Also write the table, tab-separated.
    picture
        Also draw the enrichment against shuffled labels: png, pdf or svg.
    overwrite
        Replace an existing TARGET or PICTURE.

    Examples
    --------
    cellfm genes specific pbmc.h5ad annotator --groupby cell_type --biotype lncRNA --target lncrna.tsv

    cellfm genes specific pbmc.h5ad annotator --attribution --picture enrichment.png
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.weights.atomic import refuse_existing, replacing

    for path in (target, picture):
        if path is not None:
            refuse_existing(path, overwrite=overwrite)
    _check_picture(picture)
    adata = read_h5ad(source, "cells", backed=True)
    try:
        with progress_bar("scoring", unit="cells") as progress:
            found = tl.specific_genes(
                adata,
                annotator,
                model,
                label=label,
                groupby=groupby,
                locus_group=biotype,
                rank_by=rank_by,
                n_genes=n_genes,
                n_cells=n_cells,
                min_cells=min_cells,
                n_listed=n_listed,
                n_permutations=n_permutations,
                attribution=attribution,
                layer=layer,
                use_raw=use_raw,
                gene_names=gene_names,
                scale=scale,
                device=device,
                min_matched=min_matched,
                seed=seed,
                progress=progress,
            )
    finally:
        adata.file.close()
    _print(found, biotype)
    if target is not None:
        with replacing(target) as new:
            found.table.to_csv(new, sep="\t", index=False, float_format="%.6g")
        wrote(target, about=f"{len(found.table):,} rows")
    if picture is not None:
        _draw(found, picture)


def _print(found: "SpecificGenes", biotype: str | None) -> None:
    print_table("genes of each type", _shown(found.table))
    print_table("differentially expressed genes among those listed", _text(found.enrichment))
    if found.group_enrichment is not None:
        print_table(f"the same, of {biotype} alone", _text(found.group_enrichment))
    print_table("ways to rank genes, means over types", _text(found.comparison))
    for note in found.notes:
        say(note)
    say(found.verdict)


def _draw(found: "SpecificGenes", picture: Path) -> None:
    from cellfm import pl
    from cellfm.weights.atomic import replacing

    figure = cast("Figure", pl.specific_genes(found).figure)
    with replacing(picture) as new:
        figure.savefig(new, dpi=150, format=picture.suffix.lstrip("."), bbox_inches="tight")
    wrote(picture)


def _check_picture(picture: Path | None) -> None:
    """Refuse before minutes of work, not after."""
    from cellfm.cli.genes import PICTURES
    from cellfm.errors import ConfigError
    from cellfm.optional import require

    if picture is None:
        return
    if picture.suffix not in PICTURES:
        msg = f"{picture} ends in {picture.suffix!r}; a picture ends in {', '.join(PICTURES)}. Name it so."
        raise ConfigError(msg)
    require("matplotlib")


def _shown(table: "pd.DataFrame") -> "pd.DataFrame":
    first = table[table["rank"] <= N_SHOWN].set_index("type")
    columns = ["gene", "locus_type", "attention", "specific", "tau", "n_cells", "log2_fold_change", "q"]  # fmt: skip
    return _text(first[columns])


def _text(table: "pd.DataFrame") -> "pd.DataFrame":
    return table.map(lambda entry: f"{entry:.3g}" if isinstance(entry, float) else str(entry))
