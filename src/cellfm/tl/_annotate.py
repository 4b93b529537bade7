"""Labels of a reference for the cells of a query."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError
from cellfm.nn.classifier import HeadKind
from cellfm.tl._annotator import Annotator
from cellfm.tl._annotator_fit import AnnotatorOptions, fit_annotator
from cellfm.tl._annotator_heads import Progress, Strength
from cellfm.tl._annotator_job import Job, as_annotator, as_parents, refuse_empty_query, run_job
from cellfm.tl._annotator_result import AnnotatedColumn, AnnotationResult
from cellfm.tl._confidence import Novelty
from cellfm.tl._labels import Parents
from cellfm.tl._states import EmbedOptions, Pool, as_model, check_key
from cellfm.train.finetune import TuneConfig
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["AnnotatedColumn", "AnnotationResult", "annotate", "train_annotator"]


def annotate(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    reference: "AnnData | None" = None,
    annotator: Annotator | str | Path | None = None,
    label: str | Sequence[str] = "cell_type",
    strength: Strength = "linear",
    head: HeadKind = "mlp",
    novelty: Novelty = "mahalanobis",
    unknown: bool = True,
    parents: Parents | Mapping[str, str] | str | Path | None = None,
    truth: str | None = None,
    multilabel: str | None = None,
    donor_key: str | None = None,
    key_added: str = "cellfm",
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    reference_layer: str | None = None,
    reference_use_raw: bool = False,
    reference_gene_names: str | None = None,
    reference_scale: Scale = "counts",
    pool: Pool | None = None,
    tune: TuneConfig | None = None,
    rank: int = 8,
    seed: int = 0,
    device: str | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> AnnotationResult:
    """Give the cells of a query the labels of a reference, with calibrated probabilities, and "unknown" where none fits.

    Either a labelled `reference` is given, and an annotator is trained on it first (see `train_annotator`), or an `annotator`
    that was trained before. Every query cell gets its label by CellFM and, beside it, that of PCA + logistic regression.
    Query genes that the reference lacks are not read, so that the read depths of the two are about the same genes.

    Parameters
    ----------
    adata
        Query, cells × genes; in memory or backed.
    model
        From `cellfm.load`, or a weights folder or name; None takes the small one that comes with the package, or with an
        annotator the weights it was trained with.
    reference
        Cells × genes with labels in ``obs``.
    annotator
        From `train_annotator`, or the folder of one, instead of a reference.
    label
        Column of the reference with the labels, or several columns.
    strength, head, novelty, multilabel, donor_key, pool, tune, rank, seed
        As in `train_annotator`; with `annotator` they are not looked at.
    unknown
        Whether cells may get no label: "unknown" where the novelty is above its threshold or the probability below its own.
    parents
        Coarser labels: child → parent, or a file with such pairs (two columns separated by a tab, or OBO with is_a).
    truth
        Column of the query with true labels, to compare with; of the first label column. Cells whose true label the
        reference lacks count as novel.
    key_added
        Name of the results; with several label columns its prefix.
    layer, use_raw, gene_names, scale
        How to read the query, as in `embed`.
    reference_layer, reference_use_raw, reference_gene_names, reference_scale
        The same for the reference.
    device
        ``"cpu"``, ``"cuda"``, …; default: where the model is, or a GPU if there is one.
    min_matched
        Least fraction of the genes of query and reference that must be in the vocabulary.
    overwrite
        Replace existing results of that name.
    progress
        Called with (done, in all) of each stage.

    Returns
    -------
    Tables of metrics, confusion and abstentions; and in `adata`, where *key* is `key_added`, or with several label columns
    ``f"{key_added}_{column}"``,

    ``obs[key]``
        Label, or "unknown".
    ``obs[key + "_probability"]``
        Probability of the best label, calibrated on validation cells of the reference; float32 in [0, 1].
    ``obs[key + "_novelty"]``
        How unlike the reference the cell is, without unit, higher for stranger ones; float32.
    ``obs[key + "_best"]``
        Label before abstaining.
    ``obs[key + "_pca"]``
        Label by PCA with 50 components and logistic regression, fitted on the same cells.
    ``obs[key + "_coarse"]``
        With `parents`: the finest label that is certain.
    ``obsm["X_" + key_added]``
        CellFM states, float32 (cells, dim), unless there is such a key already.
    ``uns["cellfm"][key_added]``
        Weights hash, versions, options, gene report, metrics.

    Raises
    ------
    ConfigError
        Neither or both of `reference` and `annotator` were given, or a choice does not exist.
    DataError
        A label column is missing, has one class or no labels, or query or reference have no cells.
    GeneMatchError
        Query or reference share too few genes with the vocabulary, or they are a mouse's.
    WeightsError
        The annotator was trained with other weights.
    OutputExistsError
        A key exists and `overwrite` is false.

    References
    ----------
    Calibration: Guo et al. 2017. Novelty: Lee et al. 2018 (Mahalanobis), Sun et al. 2022 (nearest neighbours), Liu et al. 2020 (energy).

    Examples
    --------
    >>> result = cellfm.tl.annotate(query, reference=atlas, label="cell_type")  # doctest: +SKIP
    >>> query.obs["cellfm"], result.metrics  # doctest: +SKIP
    """
    check_key(key_added)
    if (reference is None) == (annotator is None):
        msg = "Give either a reference with labels (reference=…) or a trained annotator (annotator=…); one of the two, not both."
        raise ConfigError(msg)
    refuse_empty_query(adata)
    names = [label] if isinstance(label, str) else list(label)
    fitted: Annotator | None = None
    if annotator is not None:
        fitted = as_annotator(annotator, model, device=device)
        names = list(fitted.labels)
    above = as_parents(parents)
    job = Job(key_added=key_added, names=tuple(names), unknown=unknown, parents=above, truth=truth)
    job.check(adata, overwrite=overwrite)
    if fitted is None:
        assert reference is not None
        fitted = train_annotator(
            reference,
            model,
            label=names,
            strength=strength,
            head=head,
            novelty=novelty,
            multilabel=multilabel,
            donor_key=donor_key,
            layer=reference_layer,
            use_raw=reference_use_raw,
            gene_names=reference_gene_names,
            scale=reference_scale,
            pool=pool,
            tune=tune,
            rank=rank,
            seed=seed,
            device=device,
            min_matched=min_matched,
            progress=progress,
        )
    read = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched
    )
    return run_job(adata, fitted, job, read, progress=progress)


def train_annotator(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    label: str | Sequence[str] = "cell_type",
    strength: Strength = "linear",
    head: HeadKind = "mlp",
    novelty: Novelty = "mahalanobis",
    multilabel: str | None = None,
    donor_key: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    pool: Pool | None = None,
    tune: TuneConfig | None = None,
    rank: int = 8,
    seed: int = 0,
    device: str | None = None,
    min_matched: float = 0.3,
    progress: Progress | None = None,
) -> Annotator:
    """Train an annotator on a labelled reference.

    Of the labelled cells 70 % are fitted on, 15 % calibrate the probabilities, set the thresholds and stop the tuning, and
    15 % are only measured on; by whole donors where `donor_key` has three or more. The same split judges PCA-50 + logistic regression.

    Parameters
    ----------
    adata
        Reference, cells × genes with labels in ``obs``; cells without one (NaN, empty, "unknown") are left out.
    model
        From `cellfm.load`, or a weights folder or name; None takes the small one that comes with the package.
    label
        Column with the labels, or several columns, each of which gets its own head.
    strength
        ``"knn"``: a vote of the nearest training cells by frozen states. ``"linear"``: logistic regression on frozen states.
        ``"lora"``: low-rank adapters and a head. ``"finetune"``: the whole network and a head.
    head
        Of a tuned network: ``"mlp"`` on the cell state, or ``"clusters"``, the class queries of the paper, which read all genes.
    novelty
        Score by which cells are "unknown": ``"mahalanobis"`` distance to the nearest class, ``"knn"`` distance to the
        nearest training cells, or ``"energy"`` of the class scores. The default was chosen on pbmc3k with the packaged weights:
        AUROC of a left-out type, mean over seven types, 0.94, 0.92 and 0.67 with whitened states.
    multilabel
        What stands between the labels of an entry, such as ``";"``, when a cell may have several.
    donor_key
        Column with the donor, or another unit that is independent of the others.
    layer, use_raw, gene_names, scale
        How to read the reference, as in `embed`.
    pool
        States of the frozen strengths, as in `embed`; None takes whitened ones if the weights carry a whitening and ``"cls"`` otherwise.
        Novelty is computed on the same states. Tuned networks always use the state of [CLS].
    tune
        How a tuned network is trained.
    rank
        Of the adapters.
    seed
        Of split, folds, heads and order of the cells.
    device
        ``"cpu"``, ``"cuda"``, …; default: where the model is, or a GPU if there is one.
    min_matched
        Least fraction of the genes that must be in the vocabulary.
    progress
        Called with (done, in all) of each stage.

    Returns
    -------
    The annotator; ``.save(folder)`` writes it, ``Annotator.load(folder)`` reads it again.

    Raises
    ------
    ConfigError
        A choice does not exist or does not go with another.
    DataError
        A column is missing, has one class or no labels, or there are too few labelled cells.
    GeneMatchError
        Too few genes are in the vocabulary, or they are a mouse's.
    MissingDependencyError
        scikit-learn or scanpy is not installed.

    Examples
    --------
    >>> annotator = cellfm.tl.train_annotator(
    ...     atlas, label="cell_type", donor_key="donor"
    ... )  # doctest: +SKIP
    >>> annotator.save("atlas-annotator")  # doctest: +SKIP
    """
    options = AnnotatorOptions(
        labels=(label,) if isinstance(label, str) else tuple(label),
        strength=strength,
        head=head,
        novelty=novelty,
        pool=pool,
        multilabel=multilabel,
        donor_key=donor_key,
        rank=rank,
        tune=TuneConfig() if tune is None else tune,
        seed=seed,
    )
    read = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched
    )
    return fit_annotator(adata, as_model(model, device), options, read, progress=progress)
