"""The commands ``cellfm annotate`` and ``cellfm annotate train``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from cellfm.cli.console import next_step, print_table, say, wrote

if TYPE_CHECKING:
    import pandas as pd

    from cellfm.tl._annotator_result import AnnotationResult
    from cellfm.train.finetune import TuneConfig

app = App(name="annotate", version_flags=())


@app.default
def annotate(  # noqa: PLR0913 - the parameters of tl.annotate_file
    source: Path,
    target: Path | None = None,
    *,
    model: str | None = None,
    weights: str | None = None,
    reference: Path | None = None,
    label: list[str] | None = None,
    strength: Literal["knn", "linear", "lora", "finetune"] = "linear",
    head: Literal["clusters", "mlp"] = "mlp",
    novelty: Literal["mahalanobis", "knn", "energy"] = "mahalanobis",
    unknown: Annotated[bool, Parameter(negative="--no-unknown")] = True,
    parents: Path | None = None,
    truth: str | None = None,
    multilabel: str | None = None,
    donor_key: str | None = None,
    key_added: str = "cellfm",
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    reference_layer: str | None = None,
    reference_use_raw: bool = False,
    reference_gene_names: str | None = None,
    reference_scale: Literal["counts", "log1p"] = "counts",
    pool: Literal["cls", "mean", "both", "whitened"] | None = None,
    rank: int = 8,
    epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
    min_matched: float = 0.3,
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Label the cells of an h5ad file as a reference does, "unknown" where nothing fits.

    Writes a copy of SOURCE with labels, calibrated probabilities and novelty in obs, and the table of true and given labels
    beside it. Beside CellFM's label stands that of PCA and logistic regression, fitted on the same cells. Needs a labelled
    --reference, or as --model an annotator that `cellfm annotate train` made.

    Parameters
    ----------
    source
        Query: h5ad file with raw counts.
    target
        h5ad file to write; SOURCE with .annotated before its end by default.
    model
        Weights folder, or name of one in the cache folder, to go with --reference; or folder of an annotator. Without it,
        the small model that comes with the package.
    weights
        With an annotator: the weights it was trained with, if they are no longer where they were.
    reference
        h5ad file with labels in obs.
    label
        Column of the reference with the labels, cell_type by default; may be given several times.
    strength
        knn and linear read the states of the network as it is, lora trains adapters in it, finetune all of it.
    head
        Of a tuned network: a small perceptron on the cell state, or the class queries of the CellFM paper.
    novelty
        Score that makes a cell unknown: distance to the nearest class, to the nearest cells, or energy of the scores.
    unknown
        Let cells be unknown; with --no-unknown every cell gets its best label.
    parents
        Coarser labels for uncertain cells: file with child and parent, separated by a tab, or OBO.
    truth
        Column of SOURCE with true labels, to compare with.
    multilabel
        What stands between the labels of an entry, such as ";", when a cell may have several.
    donor_key
        Column of the reference with the donor; the parts are then whole donors, if there are three.
    key_added
        Name of the results in obs and uns["cellfm"].
    layer
        Layer of SOURCE with the counts, instead of X.
    use_raw
        Take the counts of .raw of SOURCE.
    gene_names
        Column of var of SOURCE with symbols or Ensembl ids, instead of the index.
    scale
        What the values of SOURCE are; log1p accepts log-normalised data and loses the read depth.
    reference_layer
        Layer of the reference with the counts, instead of X.
    reference_use_raw
        Take the counts of .raw of the reference.
    reference_gene_names
        Column of var of the reference with symbols or Ensembl ids, instead of the index.
    reference_scale
        What the values of the reference are.
    pool
        What stands for a cell at strength knn and linear: the state of its [CLS] token, the mean of its genes' states, both, or the
        whitened state, which is the default for weights that carry a whitening.
    rank
        Of the adapters of lora.
    epochs
        Passes over the training cells at most, at strength lora and finetune; 6 by default.
    seed
        Of split, folds, heads and order of the cells.
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the genes of either file that the model must know.
    report
        HTML page to write, with a picture of the cells and all tables.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm annotate pbmc.h5ad --reference atlas.h5ad --label cell_type

    cellfm annotate pbmc.h5ad labelled.h5ad --reference atlas.h5ad --donor-key donor --strength lora --report pbmc.html

    cellfm annotate pbmc.h5ad --model atlas-annotator --truth cell_type
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.errors import ConfigError
    from cellfm.optional import require
    from cellfm.tl._annotator import is_annotator
    from cellfm.tl._annotator_file import annotated_path

    trained = model is not None and is_annotator(model)
    if trained == (reference is not None) or (weights is not None and not trained):
        msg = (
            f"--model {model} is {'an annotator' if trained else 'no annotator'} and --reference {'was' if reference else 'was not'} given. "
            "Give a labelled reference, with CellFM weights as --model or none; or an annotator as --model (and --weights if its weights "
            "have moved), without a reference."
        )
        raise ConfigError(msg)
    if report is not None:  # said before minutes of work, not after
        require("matplotlib", "umap")
        require("jinja2", extra="report")
    with progress_bar("annotating", unit="cells") as progress:
        result = tl.annotate_file(
            source,
            target,
            weights if trained else model,
            reference=reference,
            annotator=model if trained else None,
            label=label or ["cell_type"],
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
            tune=_tune(epochs),
            rank=rank,
            seed=seed,
            device=device,
            min_matched=min_matched,
            overwrite=overwrite,
            progress=progress,
        )
    _finish(result, annotated_path(source, target), report)


def _finish(result: "AnnotationResult", target: Path, report: Path | None) -> None:
    """Print the tables, write the report, and name what was written."""
    from cellfm.tl._annotator_file import confusion_path

    _show(result)
    written = [target] + [
        confusion_path(target, column, only=len(result.columns) == 1) for column in result.columns
    ]
    if report is not None:
        from cellfm import pl

        written.append(pl.annotation_report(result, report))
    wrote(*written)
    next_step("view", target)


@app.command
def train(  # noqa: PLR0913 - the parameters of tl.train_annotator_file
    source: Path | None = None,
    out: Path | None = None,
    *,
    plan: str | None = None,
    model: str | None = None,
    label: list[str] | None = None,
    strength: Literal["knn", "linear", "lora", "finetune"] = "linear",
    head: Literal["clusters", "mlp"] = "mlp",
    novelty: Literal["mahalanobis", "knn", "energy"] = "mahalanobis",
    multilabel: str | None = None,
    donor_key: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    pool: Literal["cls", "mean", "both", "whitened"] | None = None,
    rank: int = 8,
    epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
) -> None:
    """Train an annotator on the labelled cells of an h5ad file.

    Writes the folder OUT for `cellfm annotate QUERY --model OUT`: heads, adapters and thresholds, and the hash of the weights
    they belong to. 70 % of the cells are fitted on, 15 % set the thresholds, 15 % are measured on.

    Parameters
    ----------
    source
        Reference: h5ad file with raw counts and labels in obs.
    out
        Folder to make; SOURCE with .annotator as its end by default.
    plan
        Train nothing and read no file: print what tuning a packaged recipe (mini, 80m, 800m, …) takes in memory, with adapters of
        RANK and in full, and which settings make it fit 16 GiB.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    label
        Column with the labels, cell_type by default; may be given several times.
    strength
        knn and linear read the states of the network as it is, lora trains adapters in it, finetune all of it.
    head
        Of a tuned network: a small perceptron on the cell state, or the class queries of the CellFM paper.
    novelty
        Score that makes a cell unknown: distance to the nearest class, to the nearest cells, or energy of the scores.
    multilabel
        What stands between the labels of an entry, such as ";", when a cell may have several.
    donor_key
        Column with the donor; the parts are then whole donors, if there are three.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    pool
        What stands for a cell at strength knn and linear: the state of its [CLS] token, the mean of its genes' states, both, or the
        whitened state, which is the default for weights that carry a whitening.
    rank
        Of the adapters of lora.
    epochs
        Passes over the training cells at most, at strength lora and finetune; 6 by default.
    seed
        Of split, folds, heads and order of the cells.
    device
        Device to compute on, such as cpu or cuda.
    min_matched
        Least fraction of the file's genes that the model must know.
    overwrite
        Replace an annotator in OUT.

    Examples
    --------
    cellfm annotate train atlas.h5ad atlas-annotator --label cell_type --donor-key donor

    cellfm annotate train atlas.h5ad atlas-annotator --strength finetune --head clusters

    cellfm annotate train --plan 800m --strength lora
    """
    if plan is not None:
        from cellfm.cli.tune_plan import show_tune_plan

        show_tune_plan(plan, strength=strength, rank=rank)
        return
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.errors import ConfigError

    if source is None:
        msg = "There is no SOURCE: give the h5ad file of the reference, cellfm annotate train SOURCE [OUT]; or --plan RECIPE."
        raise ConfigError(msg)
    out = source.with_suffix(".annotator") if out is None else out
    with progress_bar("training", unit="steps") as progress:
        annotator = tl.train_annotator_file(
            source,
            out,
            model,
            label=label or ["cell_type"],
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
            tune=_tune(epochs),
            rank=rank,
            seed=seed,
            device=device,
            min_matched=min_matched,
            overwrite=overwrite,
            progress=progress,
        )
    for column in annotator.columns:
        _print_metrics(column.labels.name, column.tables["metrics"])
    size = sum(path.stat().st_size for path in out.iterdir())
    wrote(out, about=f"{size / 2**20:.1f} MiB, bound to the weights {annotator.model.hash[:12]}…")
    next_step("annotate", "QUERY.h5ad", "--model", out)


def _tune(epochs: int | None) -> "TuneConfig":
    from cellfm.train.finetune import TuneConfig

    return TuneConfig() if epochs is None else TuneConfig(n_epochs=epochs)


def _show(result: "AnnotationResult") -> None:
    say(result.gene_report)
    for column in result.columns:
        _print_metrics(column.name, column.metrics)
        if column.confusion is not None and column.confusion_pca is not None:
            print_table(f"{column.name}: query cells by truth and label", column.confusion)
            print_table(f"{column.name}: the same by PCA-50 + LR", column.confusion_pca)
        table = column.abstentions.set_index("label")
        table["share_unknown"] = [f"{share:.1%}" for share in table["share_unknown"]]
        print_table(f"{column.name}: query cells by best label, and those left unknown", table)


_SHORT = {
    "n_cells": "cells",
    "macro_f1": "macro-F1",
    "ece_before": "ECE, raw",
    "ece": "ECE",
    "accuracy_kept": "kept right",
    "auroc_unknown": "AUROC",
}
"""Heads of columns that must fit side by side; AUROC is that of the novelty for types the reference lacks."""


def _print_metrics(name: str, metrics: "pd.DataFrame") -> None:
    rows = metrics.drop(columns=["data", "method"]).rename(columns=_SHORT)
    text = rows.map(lambda value: "" if value != value else f"{value:.3f}")  # noqa: PLR0124 - NaN
    text["cells"] = [f"{int(n):,}" for n in rows["cells"]]
    text = text.loc[:, (text != "").any()]  # no AUROC where no type is lacking
    text.index = metrics["data"] + ", " + metrics["method"]
    print_table(f"{name}: labels before abstaining, calibration, unknown cells", text)
