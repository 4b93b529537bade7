"""The commands ``cellfm perturb train``, ``predict`` and ``reverse``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cellfm.cli.console import print_table, say, wrote

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellfm.tl import PerturbationModel

SCORES, RESPONSES, INTERACTIONS = "scores.tsv", "responses.tsv", ".interactions.tsv"
"""Tables beside a trained model, and beside predicted cells."""
SHOWN = (
    "pds",
    "centroid_accuracy_trans",
    "centroid_accuracy",
    "pearson_delta_ref",
    "r2_weighted",
    "nmae",
    "l2_top1000",
)
"""Metrics that are printed; all of them are in the table."""
N_SHOWN = 12


def train(  # noqa: PLR0913 - the parameters of tl.train_perturbation
    source: Path,
    out: Path,
    *,
    perturbation: str = "perturbation",
    control: str | None = None,
    context: str | None = None,
    batch_key: str | None = None,
    drop: list[str] | None = None,
    model: str | None = None,
    head: Literal["kernel", "graph"] = "kernel",
    gene_sets: Path | None = None,
    protocol: Literal["singles", "doubles"] = "singles",
    folds: int = 5,
    repeats: int = 1,
    min_cells: int = 10,
    drop_unknown: bool = False,
    missing_singles: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Learn what genetic perturbations do from a screen, and measure how well unseen ones are predicted.

    Writes the folder OUT for `cellfm perturb predict` and `cellfm perturb reverse`, with scores.tsv (each method and condition) and responses.tsv
    (predicted and measured change of each gene). Every condition is predicted by a model that has not seen it, beside simple methods,
    random weights, and one half of the cells as a prediction of the other (the ceiling).

    Parameters
    ----------
    source
        h5ad file with raw counts and perturbations in obs: ctrl, GENE, GENE+ctrl or GENE1+GENE2.
    out
        Folder to make.
    perturbation
        Column with the perturbations.
    control
        What controls are called in it, besides ctrl, control, non-targeting and the like.
    context
        Column with the cell type or line: cells are compared with controls of the same.
    batch_key
        Column with the replicate, likewise.
    drop
        Entry whose cells are left out; may be given several times.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    head
        kernel: Gaussian processes over perturbed genes, which choose what to go by; graph: a graph network in the manner of GEARS.
    gene_sets
        GMT file, or table of genes and sets or of genes that interact: what is known of genes beforehand. Without it little can be said of a gene
        that was not perturbed.
    protocol
        What is held out to measure: perturbed genes, or pairs.
    folds
        Of the cross-validation.
    repeats
        How often the folds are dealt anew; each condition's scores are averaged over them.
    min_cells
        Conditions with fewer cells are left out.
    drop_unknown
        Leave out perturbations of genes that the model does not know, instead of refusing them.
    missing_singles
        Take pairs of which a gene was not perturbed alone.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of folds and random weights.
    report
        HTML page to write, with predicted and measured changes of every condition.
    overwrite
        Replace an existing OUT and report.

    Examples
    --------
    cellfm perturb train screen.h5ad screen-model --perturbation gene --control non-targeting --batch-key replicate

    cellfm perturb train screen.h5ad screen-model --gene-sets GO_Biological_Process.gmt --report screen.html
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.optional import require
    from cellfm.weights.atomic import refuse_existing

    refuse_existing(out, overwrite=overwrite)
    if report is not None:  # said before minutes of work, not after
        require("plotly", "jinja2", extra="report")
        refuse_existing(report, overwrite=overwrite)
    adata = read_h5ad(source, "screen", backed=True)
    try:
        with progress_bar("cross-validating", unit="fits") as progress:
            trained = tl.train_perturbation(
                adata,
                model,
                perturbation=perturbation,
                control=control,
                context=context,
                batch_key=batch_key,
                drop=drop or (),
                head=head,
                gene_sets=gene_sets,
                protocol=protocol,
                n_folds=folds,
                n_repeats=repeats,
                min_cells=min_cells,
                drop_unknown=drop_unknown,
                missing_singles=missing_singles,
                layer=layer,
                use_raw=use_raw,
                gene_names=gene_names,
                min_matched=min_matched,
                device=device,
                seed=seed,
                progress=progress,
            )
    finally:
        adata.file.close()
    trained.save(out, overwrite=overwrite)
    written = [out, *_write_tables(trained, out)]
    _show(trained)
    if report is not None:
        from cellfm import pl

        assert trained.judged is not None  # it was just trained
        written.append(
            pl.perturbation_report(
                trained.judged,
                report,
                transfer=trained.transfer,
                training=trained.training,
                notes=trained.notes,
            )
        )
    wrote(*written)


def predict(  # noqa: PLR0913 - the parameters of PerturbationModel.predict
    model: Path,
    source: Path,
    target: Path,
    perturbations: list[str],
    *,
    cells: int | None = None,
    transfer: Annotated[bool, Parameter(negative="--no-transfer")] = True,
    perturbation: str | None = None,
    control: str | None = None,
    weights: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    device: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Predict counts of cells under perturbations, each from a real control cell.

    TARGET is an h5ad file of the control cells that were used and the predicted ones: integer counts of all genes of SOURCE, the cell each came
    from, predicted changes of each gene with their standard deviations in varm. For pairs, TARGET's name with .interactions.tsv at its end
    has how far they are from the sum of their genes.

    Parameters
    ----------
    model
        Folder from cellfm perturb train.
    source
        h5ad file with raw counts of control cells; where it has the column of perturbations, those that are controls.
    target
        h5ad file to write.
    perturbations
        GENE or GENE1+GENE2, one or more.
    cells
        Cells of each perturbation; without it every control cell begins one.
    transfer
        Move responses to the expression of these cells; without effect on cells like those of the training.
    perturbation
        Column with the perturbations; without it that of the training.
    control
        What controls are called in it; without it as in the training.
    weights
        Weights the model was trained with; without it, where they were then.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of the sampling.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm perturb predict screen-model screen.h5ad predicted.h5ad STAT1 JAK2+STAT1 --cells 200
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(target, overwrite=overwrite)
    trained = tl.PerturbationModel.load(model, weights, device=device)
    with progress_bar("sampling", unit="perturbations") as progress:
        made = trained.predict(
            read_h5ad(source, "control cells"),
            perturbations,
            n_cells=cells,
            perturbation=perturbation,
            control=control,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            transfer=transfer,
            seed=seed,
            progress=progress,
        )
    with replacing(target) as temporary:
        made.write_h5ad(temporary, compression="gzip")
    written = [target]
    print_table("strongest predicted changes of mean log1p(counts per 10,000)", _strongest(made))
    pairs = trained.interactions(perturbations)
    if len(pairs):
        written.append(target.with_name(target.stem + INTERACTIONS))
        _write(pairs, written[-1])
        print_table("pairs against the sum of their genes", pairs.map(lambda value: f"{value:.3f}"))
    for warning in made.uns["cellfm"]["perturbation"]["warnings"].tolist():
        say(f"warning: {warning}")
    wrote(*written)


def reverse(  # noqa: PLR0913 - the parameters of tl.reverse_perturbation
    model: Path,
    source: Path,
    target: Path,
    *,
    groupby: str,
    to: str,
    start: str | None = None,
    genes: list[str] | None = None,
    singles_only: bool = False,
    weights: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Rank perturbations, alone and in pairs, by how far they would move cells towards a state.

    TARGET is tab-separated, a row for each candidate, best first: likeness of the predicted response to the wanted change, and the rank by two
    simple methods that use measured responses alone.

    Parameters
    ----------
    model
        Folder from cellfm perturb train.
    source
        h5ad file with raw counts of cells in the wanted state.
    target
        Table to write.
    groupby
        Column of obs with the states.
    to
        Entry of it: the wanted state.
    start
        Entry of it: the state to come from; without it the controls of the training data.
    genes
        Gene that may be perturbed; may be given several times. Without it all that the training data perturbed.
    singles_only
        Leave pairs out.
    weights
        Weights the model was trained with; without it, where they were then.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    device
        Device to compute on, such as cpu or cuda.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm perturb reverse screen-model screen.h5ad ranked.tsv --groupby perturbation --to STAT1 --start control
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.weights.atomic import refuse_existing

    refuse_existing(target, overwrite=overwrite)
    trained = tl.PerturbationModel.load(model, weights, device=device)
    with progress_bar("ranking", unit="candidates") as progress:
        table = trained.reverse(
            read_h5ad(source, "cells"),
            groupby=groupby,
            target=to,
            start=start,
            genes=genes,
            doubles=not singles_only,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            progress=progress,
        )
    _write(table, target)
    shown = table.head(N_SHOWN).copy()
    for name in ("score", "size"):
        shown[name] = [f"{value:.3f}" for value in shown[name]]
    print_table(f"best {len(shown)} of {len(table):,} candidates", shown.map(_plain))
    wrote(target)


def _show(trained: "PerturbationModel") -> None:
    """Print the scores beside those of the controls."""
    n = int(trained.table["n"].iloc[0])
    _show_scores(f"{n} unseen conditions, 95 % interval over conditions", trained.table)
    say(trained.verdict)
    if trained.transfer is not None:
        n = int(trained.transfer["n"].iloc[0])
        _show_scores(
            f"{n} responses in a context whose perturbed cells were not seen", trained.transfer
        )
    for note in trained.notes:
        say(f"note: {note}")


def _show_scores(title: str, table: "pd.DataFrame") -> None:
    text = table[list(SHOWN)].map(lambda value: "" if value != value else f"{value:.3f}")  # noqa: PLR0124 - NaN
    first = SHOWN[0]
    text[first] = [f"{row[first]:.3f} [{row[f'{first}_low']:.3f}, {row[f'{first}_high']:.3f}]" for _, row in table.iterrows()]  # fmt: skip
    print_table(title, text)


def _write_tables(trained: "PerturbationModel", out: Path) -> list[Path]:
    """Write the scores of each condition, and the responses."""
    judged = trained.judged
    if judged is None:
        return []
    _write(judged.scores, out / SCORES)
    _write(judged.responses(), out / RESPONSES)
    return [out / SCORES, out / RESPONSES]


def _strongest(made: "AnnData") -> "pd.DataFrame":
    """List the genes that change most under each perturbation."""
    import pandas as pd

    delta = made.varm["delta"]
    rows = {}
    for name in delta.columns[:N_SHOWN]:
        order = delta[name].abs().sort_values(ascending=False).index[:8]
        rows[name] = ", ".join(f"{gene} {delta.loc[gene, name]:+.2f}" for gene in order)
    return pd.DataFrame({"genes": pd.Series(rows)})


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _write(table: "pd.DataFrame", path: Path) -> None:
    from cellfm.weights.atomic import replacing

    with replacing(path) as temporary:
        table.to_csv(temporary, sep="\t", float_format="%.6g")
