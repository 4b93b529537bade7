"""Genes that the class queries of an annotator attend to in one type and not in the others, such as lncRNAs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError
from cellfm.nn.annotation import AnnotationHead
from cellfm.nn.encoder import CellFM
from cellfm.tl._annotator import Annotator
from cellfm.tl._annotator_heads import TunedScorer
from cellfm.tl._annotator_job import as_annotator
from cellfm.tl._genes.specific_cells import Chosen, Kinds, Passes, Progress, attend, attributions
from cellfm.tl._genes.specific_judge import expression_of_types
from cellfm.tl._genes.specific_study import RankBy, SpecificGenes, Study
from cellfm.tl._markers import _column, _Genes, _types_of
from cellfm.tl._states import EmbedOptions
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["SpecificGenes", "specific_genes"]


def specific_genes(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    annotator: Annotator | str | Path,
    model: Pretrained | str | Path | None = None,
    *,
    label: str | None = None,
    groupby: str | None = None,
    locus_group: str | None = None,
    rank_by: RankBy = "specific",
    n_genes: int | None = 20,
    n_cells: int = 200,
    min_cells: int = 10,
    n_listed: int = 100,
    n_permutations: int = 200,
    attribution: bool = True,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    device: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    progress: Progress | None = None,
) -> SpecificGenes:
    r"""Rank the genes of each type by the attention of its class query, and say how far that goes beyond expression and chance.

    In each cell of a type the query of the type scores the genes the cell expresses, each by the rank of :math:`\phi(q) \cdot \phi(k)` over the number of
    genes of that cell, averaged over heads (:class:`cellfm.nn.kernels.cluster_scores.ClusterScores`; Zeng et al. 2025), then over the cells of the type that
    express the gene. What all queries attend to tells no type from another: genes are ranked by the attention less its mean in the other types. A high
    rank is no evidence that a gene does anything in the type.

    Parameters
    ----------
    adata
        Cells × genes, better not those that the annotator was trained on.
    annotator
        From `train_annotator` with ``strength="lora"`` or ``"finetune"`` and ``head="clusters"``, or the folder of one.
    model
        The weights it was trained with; None looks where they were then.
    label
        Label column of the annotator; None for the first.
    groupby
        Column of ``obs`` with the types of the cells; None takes the annotator's own calls.
    locus_group
        List these alone: ``"lncRNA"`` (HGNC locus type *RNA, long non-coding*), or a locus group of HGNC; None lists all.
    rank_by
        ``"specific"``, or ``"attention"`` as it was published, whose lists are much alike in all types.
    n_genes
        Genes of a type in the table; None for all candidates.
    n_cells
        Cells of a type that are scored, drawn at random when there are more.
    min_cells
        A gene is a candidate in a type where at least so many scored cells express it; types with fewer cells are left out.
    n_listed
        Genes of the longer list that is compared with differential expression.
    n_permutations
        Shuffled labellings.
    attribution
        Also compute the attribution of each gene, as `marker_genes` does; takes longer than all else.
    layer, use_raw, gene_names, scale, device, min_matched
        As in `embed`.
    seed
        Of the choice of cells, of shuffled labels, and of untrained queries.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    `SpecificGenes`. Its table has ``type``, ``rank`` (from 1), ``gene`` (name in the input), ``symbol``, ``locus_group``, ``locus_type``; ``attention`` in
    the type, ``attention_rest`` (mean of the others) and ``specific`` (type less rest), both after each type's mean was drawn towards ½, the mean of all genes, as if 20 more
    cells had said so: the mean of few cells goes far by chance;
    ``n_cells`` scored that express it; ``tau`` of attention and ``tau_expression`` of mean expression across types (0 the same in all, 1 in one alone; Yanai et al. 2005);
    ``attribution``; then of all cells of the types ``mean_in``, ``mean_out`` (log1p of counts per 10⁴), ``log2_fold_change``, ``detected_in``,
    ``detected_out``, ``auroc``, ``p`` and ``q`` of the Wilcoxon rank-sum test against the other cells (Benjamini–Hochberg over the genes of the type).

    Differentially expressed means q ≤ 0.05 and at least twice the mean. Shuffled labels: what each cell's own query
    attends to is averaged over the cells of shuffled types, and the same candidates are ranked. Above them is what differs between types at all; whether it takes the
    cells of the type or its query alone is told by the row *the same queries in cells of all types* of the comparison. Nothing is written.

    Raises
    ------
    ConfigError
        The annotator has no class queries, its labels do not exclude each other, or a number or name makes no sense.
    DataError
        There is no such column, fewer than two types with enough cells, or no candidate of that locus group.
    WeightsError
        The weights are others than those it was trained with.
    GeneMatchError, CountsError
        As in `embed`.

    References
    ----------
    Zeng Y et al. (2025) CellFM, Nat. Commun. 16, 4679.

    Yanai I et al. (2005) Genome-wide midrange transcription profiles reveal expression level relationships in human tissue specification,
    Bioinformatics 21, 650.

    Examples
    --------
    >>> found = cellfm.tl.specific_genes(
    ...     cells, "annotator", groupby="cell_type", locus_group="lncRNA"
    ... )  # doctest: +SKIP
    >>> found.table.groupby("type").head(5), found.verdict  # doctest: +SKIP
    """
    least = {
        "n_genes": n_genes,
        "n_cells": n_cells,
        "min_cells": min_cells,
        "n_listed": n_listed,
        "n_permutations": n_permutations,
    }
    _check(rank_by, least)
    trained = as_annotator(annotator, model, device=device)
    column = _column(trained, label)
    network, head = _queries_of(trained, column)
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        min_matched=min_matched,
    )
    kinds = Kinds.of(trained.model.vocabulary)
    wanted = kinds.are(locus_group)
    code = _types_of(adata, trained, column, groupby=groupby, options=options)
    genes = _Genes.read(adata, trained.model, options)
    names = trained.columns[column].labels.classes
    chosen = Chosen.draw(code, names, n_cells=n_cells, min_cells=min_cells, seed=seed)
    report = Passes(progress, (1 + attribution) * len(chosen.rows))
    found, mixed, untrained = attend(network, head, genes, chosen, n_permutations=n_permutations, seed=seed, progress=report)  # fmt: skip
    attributed = (
        attributions(trained, column, genes, chosen, progress=report) if attribution else None
    )
    study = Study(
        genes=genes,
        kinds=kinds,
        chosen=chosen,
        attention=found.labelled(0),
        shuffled=found.labelled(slice(1, None)),
        mixed=mixed,
        untrained=untrained.labelled(0),
        attribution=attributed,
        expression=expression_of_types(
            genes.value[chosen.known], chosen.kind[chosen.known], n_types=len(chosen.types)
        ),
        min_cells=min_cells,
    )
    return study.result(wanted, locus_group, rank_by, n_genes=n_genes, n_listed=n_listed, seed=seed)


def _check(rank_by: str, least: Mapping[str, int | None]) -> None:
    if rank_by not in ("specific", "attention"):
        msg = f"rank_by is {rank_by!r}; it must be 'specific' or 'attention'. Choose one of these."
        raise ConfigError(msg)
    for name, number in least.items():
        if number is not None and number < 1:
            msg = f"{name} is {number}; it must be at least 1. Give a number in that range."
            raise ConfigError(msg)


def _queries_of(trained: Annotator, column: int) -> tuple[CellFM, AnnotationHead]:
    """Return the network and the class queries of one label column."""
    scorer = trained.scorer
    head = scorer.tuned.module.heads[column] if isinstance(scorer, TunedScorer) else None
    if isinstance(scorer, TunedScorer) and isinstance(head, AnnotationHead):
        return scorer.tuned.merged(), head
    kind = f" and head {scorer.tuned.shape.head!r}" if isinstance(scorer, TunedScorer) else ""
    msg = (
        f"The annotator has strength {trained.strength!r}{kind}, and so no class queries whose attention could be looked at. Train one that has: "
        'train_annotator(reference, strength="lora", head="clusters") (cellfm annotate train REFERENCE OUT --strength lora --head clusters); '
        "what this one goes by is told by marker_genes (cellfm markers)."
    )
    raise ConfigError(msg)
