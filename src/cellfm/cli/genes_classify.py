"""The command ``cellfm genes classify``."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cellfm.cli.console import print_table, say

if TYPE_CHECKING:
    import pandas as pd

SCORES, PREDICTIONS = "scores.tsv", "predictions.tsv"
N_SHOWN = 10


def classify(  # noqa: PLR0913 - the parameters of tl.classify_genes
    labels: Path,
    out: Path,
    *,
    source: Path | None = None,
    model: str | None = None,
    positive: str | None = None,
    negative: str | None = None,
    sets: list[str] | None = None,
    task: Literal["binary", "multiclass", "multilabel"] | None = None,
    repeats: int = 5,
    folds: int = 5,
    permutations: int = 100,
    min_genes: int = 10,
    families: Annotated[bool, Parameter(negative="--no-families")] = True,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Learn labels of genes from their embeddings, print how well that goes beside controls, and predict those of other genes.

    Writes the folder OUT with scores.tsv (each method under each protocol) and predictions.tsv (unlabelled genes, the most probable first, with the
    labelled genes nearest to them). Give --source: only with cells are there expression statistics, PCA loadings and co-expression as controls.

    Parameters
    ----------
    labels
        GMT file; a table with a gene and a label in each line; or a folder of text files, each named as a label, with a gene a line.
    out
        Folder to make.
    source
        h5ad file with raw counts of cells, for the controls.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    positive
        Label to tell from others.
    negative
        The label to tell it from; without it, all other labelled genes.
    sets
        Label to take; may be given several times. Without it all are taken.
    task
        binary, multiclass or multilabel; without it chosen from the labels.
    repeats
        How often folds are dealt anew.
    folds
        Of each cross-validation.
    permutations
        Of the labels, for p; 0 leaves it out.
    min_genes
        Labels with fewer genes are left out.
    families
        Also judge with gene families kept together.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    min_matched
        Least fraction of the file's genes that the model must know.
    seed
        Of folds, permutations and random controls.
    overwrite
        Replace an existing OUT.

    Examples
    --------
    cellfm genes classify labels.tsv function --source pbmc3k.h5ad

    cellfm genes classify hallmark.gmt function --source pbmc3k.h5ad --repeats 1 --permutations 0

    cellfm genes classify promoters/ function --positive bivalent --negative lys4_only
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.tl._genes.labels import read_labels
    from cellfm.weights.atomic import refuse_existing, replacing_folder
    from cellfm.weights.folder import MINI, PACKAGED

    refuse_existing(out, overwrite=overwrite)
    chosen = _choose(read_labels(labels), positive=positive, negative=negative, sets=sets)
    with progress_bar("cross-validating", unit="rounds") as progress:
        found = tl.classify_genes(
            tl.gene_embeddings(PACKAGED / MINI if model is None else model),
            chosen,
            task="binary" if positive is not None else task,
            n_repeats=repeats,
            n_folds=folds,
            n_permutations=permutations,
            families=families,
            min_genes=min_genes,
            model=model,
            adata=None if source is None else read_h5ad(source, "cells"),
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            min_matched=min_matched,
            seed=seed,
            progress=progress,
        )
    with replacing_folder(out, marker=SCORES) as new:
        found.table.to_csv(new / SCORES, sep="\t")
        found.predictions.to_csv(new / PREDICTIONS, sep="\t", index=False)
    _show(found.table, found.predictions)
    if found.left_out:
        say(f"left out {len(found.left_out)} labels with fewer than {min_genes} genes")
    say(found.verdict)
    say(f"wrote {out / SCORES} and {out / PREDICTIONS}")


def _choose(
    labels: Mapping[str, Iterable[str]],
    *,
    positive: str | None,
    negative: str | None,
    sets: list[str] | None,
) -> Mapping[str, Iterable[str]]:
    """Take the labels that were asked for; the positive one first."""
    from cellfm.errors import ConfigError

    if positive is None and negative is not None:
        msg = (
            f"--negative {negative} was given without --positive. Say which label to tell from it."
        )
        raise ConfigError(msg)
    if positive is not None and sets:
        msg = "--sets was given beside --positive. Give one of them."
        raise ConfigError(msg)
    asked = [name for name in (positive, negative, *(sets or ())) if name is not None]
    missing = [name for name in asked if name not in labels]
    if missing:
        msg = f"There is no label {missing[0]!r}; there are {', '.join(list(labels)[:N_SHOWN])}{' …' if len(labels) > N_SHOWN else ''}. Choose among them."
        raise ConfigError(msg)
    if positive is None:
        return {name: labels[name] for name in sets} if sets else labels
    own = set(labels[positive])
    if negative is not None:
        return {positive: labels[positive], negative: labels[negative]}
    others = {gene for name, genes in labels.items() if name != positive for gene in genes}
    return {positive: sorted(own), f"not {positive}": sorted(others - own)}


def _show(table: "pd.DataFrame", predictions: "pd.DataFrame") -> None:
    import pandas as pd

    for protocol in table.index.get_level_values("protocol").unique():
        own = table.loc[protocol]
        shown = pd.DataFrame(index=own.index)
        shown["AUROC"] = _with_interval(own, "auroc")
        for name in ("auprc", "mcc", "fmax"):
            if own[name].notna().any():
                shown[name.upper() if name != "fmax" else "Fmax"] = own[name].map("{:.3f}".format)
        shown["difference"] = _with_interval(own, "difference")
        shown["p"] = own["p"].map(lambda p: "" if pd.isna(p) else f"{p:.3g}")
        how = "families kept together" if protocol == "families" else "genes dealt at random"
        print_table(f"{how}: {int(own['n'].iloc[0]):,} labelled genes", shown)
    first = predictions.head(N_SHOWN).set_index("gene")
    first["probability"] = first["probability"].map("{:.3f}".format)
    print_table("unlabelled genes", first)


def _with_interval(table: "pd.DataFrame", name: str) -> "list[str]":
    values = table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
    return [f"{v:.3f} [{low:.3f}, {high:.3f}]" if v == v else "" for v, low, high in values]  # noqa: PLR0124 - NaN
