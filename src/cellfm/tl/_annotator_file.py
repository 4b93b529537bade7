"""Annotation of h5ad files: the query is copied with its labels, the reference becomes an annotator in a folder."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.adata import read_h5ad
from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, OutputExistsError
from cellfm.nn.classifier import HeadKind
from cellfm.tl._annotate import annotate, train_annotator
from cellfm.tl._annotator import Annotator
from cellfm.tl._annotator_heads import Progress, Strength
from cellfm.tl._annotator_result import AnnotatedColumn, AnnotationResult
from cellfm.tl._confidence import Novelty
from cellfm.tl._states import Pool
from cellfm.train.finetune import TuneConfig
from cellfm.weights.artifact import DESCRIPTION
from cellfm.weights.atomic import is_free, replacing
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData


def annotate_file(  # noqa: PLR0913 - the arguments of a user's question
    source: Path | str,
    target: Path | str | None = None,
    model: Pretrained | str | Path | None = None,
    *,
    reference: Path | str | None = None,
    annotator: Annotator | str | Path | None = None,
    label: str | Sequence[str] = "cell_type",
    strength: Strength = "linear",
    head: HeadKind = "mlp",
    novelty: Novelty = "mahalanobis",
    unknown: bool = True,
    parents: str | Path | None = None,
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
    """Annotate an h5ad file; the target is a copy of it with the labels added, complete or not there at all.

    Parameters
    ----------
    source, target
        h5ad files; the target's default is the source's name with ``.annotated`` before its end.
    reference
        h5ad file with labels in ``obs``.
    model, annotator, label, strength, head, novelty, unknown, parents, truth, multilabel, donor_key, key_added, layer, use_raw, gene_names, scale, reference_layer, reference_use_raw, reference_gene_names, reference_scale, pool, tune, rank, seed, device, min_matched
        As in `annotate`.
    overwrite
        Replace an existing target, and results of that name.
    progress
        Called with (done, in all) of each stage.

    Returns
    -------
    What `annotate` returns; the cells' counts stay in the file. A table of true and given labels is written beside the target,
    ``*.confusion.tsv``: of the query where `truth` is given, otherwise of the test part of the reference.

    Raises
    ------
    DataError
        A file is missing or no h5ad file; and what `annotate` raises.
    OutputExistsError
        The target exists and `overwrite` is false.

    Examples
    --------
    >>> cellfm.tl.annotate_file("query.h5ad", reference="atlas.h5ad")  # doctest: +SKIP
    """
    source, target = Path(source), annotated_path(source, target)
    _refuse_target(source, target, overwrite=overwrite)
    query = read_h5ad(source, "query", backed=True)
    try:
        had_states = f"X_{key_added}" in query.obsm
        result = annotate(
            query,
            model,
            reference=None if reference is None else read_h5ad(Path(reference), "reference"),
            annotator=annotator,
            label=label,
            strength=strength,
            head=head,
            novelty=novelty,
            unknown=unknown,
            parents=parents,
            truth=truth,
            multilabel=multilabel,
            donor_key=donor_key,
            key_added=key_added,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            scale=scale,
            reference_layer=reference_layer,
            reference_use_raw=reference_use_raw,
            reference_gene_names=reference_gene_names,
            reference_scale=reference_scale,
            pool=pool,
            tune=tune,
            rank=rank,
            seed=seed,
            device=device,
            min_matched=min_matched,
            overwrite=overwrite,
            progress=progress,
        )
        light = _without_counts(query)
    finally:
        query.file.close()
    _write(source, target, light, key=key_added, states=not had_states)
    for column in result.columns:
        _write_confusion(target, column, only=len(result.columns) == 1)
    return replace(result, adata=light)


def train_annotator_file(  # noqa: PLR0913 - the arguments of a user's question
    source: Path | str,
    out: Path | str,
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
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Annotator:
    """Train an annotator on a labelled h5ad file and save it as a folder.

    Parameters
    ----------
    source
        h5ad file with labels in ``obs``.
    out
        Folder to make.
    model, label, strength, head, novelty, multilabel, donor_key, layer, use_raw, gene_names, scale, pool, tune, rank, seed, device, min_matched
        As in `train_annotator`.
    overwrite
        Replace an annotator that is there.
    progress
        Called with (done, in all) of each stage.

    Raises
    ------
    DataError
        The file is missing or no h5ad file; and what `train_annotator` raises.
    OutputExistsError
        The folder exists, and `overwrite` is false or it is no annotator.

    Examples
    --------
    >>> cellfm.tl.train_annotator_file("atlas.h5ad", "atlas-annotator")  # doctest: +SKIP
    """
    out = Path(out)
    if not is_free(out) and not (overwrite and (out / DESCRIPTION).is_file()):
        msg = f"{out} exists already{'' if overwrite else '; choose another name or say overwrite'}. Only an annotator is ever replaced. Choose another path, or move the file away."
        raise OutputExistsError(msg)
    annotator = train_annotator(
        read_h5ad(Path(source), "reference"),
        model,
        label=label,
        strength=strength,
        head=head,
        novelty=novelty,
        multilabel=multilabel,
        donor_key=donor_key,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        pool=pool,
        tune=tune,
        rank=rank,
        seed=seed,
        device=device,
        min_matched=min_matched,
        progress=progress,
    )
    annotator.save(out, overwrite=overwrite)
    return annotator


def annotated_path(source: Path | str, target: Path | str | None) -> Path:
    """Return where an annotated copy goes.

    Parameters
    ----------
    source
        The query.
    target
        What was asked for; None for the default.
    """
    source = Path(source)
    return source.with_name(f"{source.stem}.annotated.h5ad") if target is None else Path(target)


def _without_counts(query: "AnnData") -> "AnnData":
    """Return the cells' tables in memory, without counts and genes."""
    from anndata import AnnData

    return AnnData(obs=query.obs, obsm=dict(query.obsm), uns=dict(query.uns))


def _refuse_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if target.resolve() == source.resolve():
        msg = f"Query and target are the same file, {source}; the query is never changed. Give the target another name."
        raise ConfigError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already. Choose another name, or say overwrite."
        raise OutputExistsError(msg)
    target.parent.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of work


def _write(source: Path, target: Path, query: "AnnData", *, key: str, states: bool) -> None:
    """Copy the source and add the results."""
    import h5py
    from anndata.io import write_elem

    with replacing(target) as copy:
        shutil.copyfile(source, copy)
        with h5py.File(copy, "r+") as file:
            del file["obs"]
            write_elem(file, "obs", query.obs)
            for name in ("obsm", "uns"):
                if name not in file:
                    write_elem(file, name, {})
            if "cellfm" not in file["uns"]:
                write_elem(file["uns"], "cellfm", {})
            notes = file["uns"]["cellfm"]
            if key in notes:
                del notes[key]
            write_elem(notes, key, query.uns["cellfm"][key])
            if states:
                write_elem(file["obsm"], f"X_{key}", query.obsm[f"X_{key}"])


def confusion_path(target: Path, column: AnnotatedColumn, *, only: bool) -> Path:
    """Return where the table of true and given labels goes.

    Parameters
    ----------
    target
        The annotated file.
    column
        Which label column.
    only
        Whether it is the only one.
    """
    middle = "" if only else f".{column.name}"
    return target.with_name(f"{target.stem}{middle}.confusion.tsv")


def _write_confusion(target: Path, column: AnnotatedColumn, *, only: bool) -> None:
    of_query = column.confusion is not None
    table = column.confusion if column.confusion is not None else column.reference_confusion
    head = f"truth ({'query' if of_query else 'reference test'})"
    with replacing(confusion_path(target, column, only=only)) as path:
        table.to_csv(path, sep="\t", index_label=head)
