"""The command ``cellfm genes classify``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cellfm.cli.console import print_table, say, wrote

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellfm.tl import GeneFunction
    from cellfm.weights.folder import Pretrained

SCORES, LABELS, PREDICTIONS = "scores.tsv", "labels.tsv", "predictions.tsv"
N_SHOWN = 10


def classify(  # noqa: PLR0913 - the parameters of tl.classify_genes
    labels: Path,
    out: Path,
    *,
    source: Path | None = None,
    model: str | None = None,
    kind: Literal["static", "contextual", "query"] = "static",
    groupby: str | None = None,
    group: str | None = None,
    cells: int = 2000,
    head: Literal["linear", "mlp"] = "linear",
    finetune: bool = False,
    tune_cells: int = 200,
    tune_epochs: int = 4,
    tune_rank: int = 4,
    positive: str | None = None,
    negative: str | None = None,
    sets: list[str] | None = None,
    ontology: Path | None = None,
    task: Literal["binary", "multiclass", "multilabel"] | None = None,
    repeats: int | None = None,
    folds: int = 5,
    permutations: int | None = None,
    random_draws: int = 3,
    min_genes: int = 10,
    max_genes: int | None = None,
    n_labels: int | None = None,
    families: Annotated[bool, Parameter(negative="--no-families")] = True,
    gene_groups: Path | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Learn labels of genes from their embeddings, print how well that goes beside controls, and predict those of other genes.

    Writes the folder OUT with scores.tsv (each method under each protocol), labels.tsv (AUROC of each label by each method) and predictions.tsv
    (unlabelled genes, the most probable first, with the labelled genes nearest to them). Give --source: only with cells are there expression statistics,
    PCA loadings and co-expression as controls.

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
    kind
        static: the embedding table of the model; query: what its cell-wise decoder asks a cell for each gene by; contextual: the mean states of the genes in
        cells of SOURCE, which are computed for the model and for each of the random ones.
    groupby
        Column of obs with groups of cells, for contextual embeddings.
    group
        Entry of it whose cells are averaged over.
    cells
        Cells that contextual embeddings are averaged over, drawn at random when there are more.
    head
        linear: L2 logistic regression; mlp: a perceptron with one hidden layer, which takes about twenty times as long.
    finetune
        Also fine-tune the model, and one of random weights, anew for each fold: adapters in it, and a linear head on the states of genes in cells of SOURCE. Only genes
        that these cells express are judged then. Costs the time of training: with the packaged model, 200 cells and 4 epochs about 6 minutes of a CPU core
        for each protocol and repeat.
    tune_cells
        Cells to fine-tune in, drawn at random.
    tune_epochs
        Passes over them at most, for each fold.
    tune_rank
        Of the adapters.
    positive
        Label to tell from others.
    negative
        The label to tell it from; without it, all other labelled genes.
    sets
        Label to take; may be given several times. Without it all are taken.
    ontology
        OBO file, such as go-basic.obo: genes of a term count for all that it is or is part of, too. Labels hold the ids of terms, as "protein folding (GO:0006457)".
    task
        binary, multiclass or multilabel; without it chosen from the labels.
    repeats
        How often folds are dealt anew; 5 by default, and 1 where genes have several labels or with --finetune.
    folds
        Of each cross-validation.
    permutations
        Of the labels, for p; 0 leaves it out. 100 by default, and 0 where genes have several labels or with --finetune, which take long.
    random_draws
        Random weights, and random vectors, whose scores are averaged.
    min_genes
        Labels with fewer genes are left out; and, where genes may have several, labels that fewer genes do not have.
    max_genes
        Labels with more genes are left out.
    n_labels
        Labels to draw at random of those that are left, for files with thousands; without it all are taken.
    families
        Also judge with gene families, by the stem of the symbol, kept together.
    gene_groups
        HGNC's complete set, or another table with the columns symbol and gene_group: also judge with gene groups kept together (of several the smallest).
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

    cellfm genes classify go.gmt function --source pbmc3k.h5ad --ontology go-basic.obo --min-genes 20 --max-genes 200 --n-labels 100 --permutations 0

    cellfm genes classify promoters/ function --source pbmc3k.h5ad --positive bivalent --negative lys4_only --finetune --no-families

    cellfm genes classify hallmark.gmt function --source pbmc3k.h5ad --kind contextual --groupby cell_type --group "B cells" --gene-groups hgnc.txt
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.tl._genes.labels import read_labels
    from cellfm.weights.atomic import refuse_existing

    refuse_existing(out, overwrite=overwrite)
    chosen = _choose(read_labels(labels), positive=positive, negative=negative, sets=sets)
    tuning = tl.GeneTuning(n_cells=tune_cells, n_epochs=tune_epochs, rank=tune_rank) if finetune else None  # fmt: skip
    adata = None if source is None else read_h5ad(source, "cells")
    asked = _Vectors(
        model=model,
        kind=kind,
        groupby=groupby,
        group=group,
        cells=cells,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        min_matched=min_matched,
        seed=seed,
    )
    own, twins = asked.make(adata, n_random=random_draws)
    adata = asked.same_cells(adata)
    with progress_bar("cross-validating", unit="rounds") as progress:
        found = tl.classify_genes(
            own,
            chosen,
            task="binary" if positive is not None else task,
            head=head,
            tuning=tuning,
            n_repeats=repeats,
            n_folds=folds,
            n_permutations=permutations,
            families=families,
            gene_groups=gene_groups,
            ontology=ontology,
            min_genes=min_genes,
            max_genes=max_genes,
            n_labels=n_labels,
            n_random=random_draws,
            model=model,
            twin=twins,
            adata=adata,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            min_matched=min_matched,
            seed=seed,
            progress=progress,
        )
    if found.left_out:
        many = f", or more than {max_genes}" if max_genes else ""
        say(
            f"left out {len(found.left_out):,} labels with too few genes (fewer than {min_genes}, or all but that many){many}"
        )
    _write(found, out)


def _write(found: "GeneFunction", out: Path) -> None:
    """Write the tables, and print what they say."""
    from cellfm.weights.atomic import replacing_folder

    with replacing_folder(out, marker=SCORES) as new:
        found.table.to_csv(new / SCORES, sep="\t")
        found.labels.to_csv(new / LABELS, sep="\t")
        found.predictions.to_csv(new / PREDICTIONS, sep="\t", index=False)
    _show(found.table, found.predictions)
    for note in found.notes:
        say(note)
    say(found.verdict)
    wrote(out, about=f"{SCORES}, {LABELS}, {PREDICTIONS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vectors:
    """Which embedding of genes is asked for."""

    model: str | None
    kind: Literal["static", "contextual", "query"]
    groupby: str | None
    group: str | None
    cells: int
    layer: str | None
    use_raw: bool
    gene_names: str | None
    min_matched: float
    seed: int

    def make(
        self, adata: "AnnData | None", *, n_random: int
    ) -> "tuple[AnnData, list[AnnData] | None]":
        """Return it, and where cells are needed the same by random weights, which cannot be made later."""
        from cellfm.tl._states import as_model
        from cellfm.weights.folder import random_twin

        self._check(adata)
        pretrained = as_model(self.model, None if self.kind == "contextual" else "cpu")
        own = self._embed(pretrained, adata, "embedding genes")
        if self.kind != "contextual":
            return own, None
        twins = [
            self._embed(
                random_twin(pretrained, seed=self.seed + number), adata, "by random weights"
            )
            for number in range(n_random)
        ]
        return own, twins

    def same_cells(self, adata: "AnnData | None") -> "AnnData | None":
        """Return the cells that controls are to be of: those that the states of genes are."""
        if adata is None or self.groupby is None:
            return adata
        return adata[(adata.obs[self.groupby].astype(str) == self.group).to_numpy()]

    def _check(self, adata: "AnnData | None") -> None:
        from cellfm.errors import ConfigError

        if self.kind == "contextual" and adata is None:
            msg = "--kind contextual takes the states of genes in cells, and there are none. Give --source."
            raise ConfigError(msg)
        if self.kind != "contextual" and (self.groupby or self.group):
            msg = f"--groupby or --group was given, but {self.kind} embeddings are of no cells. Say --kind contextual, or leave them out."
            raise ConfigError(msg)
        if self.groupby and not self.group:
            msg = f"--groupby {self.groupby} was given without --group. Name the entry whose cells are averaged over."
            raise ConfigError(msg)

    def _embed(self, model: "Pretrained", adata: "AnnData | None", what: str) -> "AnnData":
        from cellfm import tl
        from cellfm.cli.progress import progress_bar

        if self.kind != "contextual":
            return tl.gene_embeddings(model, kind=self.kind)
        with progress_bar(what, unit="cells") as progress:
            return tl.gene_embeddings(
                model,
                adata,
                kind=self.kind,
                groupby=self.groupby,
                group=self.group,
                n_cells=self.cells,
                layer=self.layer,
                use_raw=self.use_raw,
                gene_names=self.gene_names,
                min_matched=self.min_matched,
                seed=self.seed,
                progress=progress,
            )


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

    from cellfm.tl._genes.function_judge import PROTOCOLS

    for protocol in table.index.get_level_values("protocol").unique():
        own = table.loc[protocol]
        shown = pd.DataFrame(index=own.index)
        shown["AUROC"] = _with_interval(own, "auroc")
        for name in ("auprc", "mcc", "fmax"):
            if own[name].notna().any():
                shown[name.upper() if name != "fmax" else "Fmax"] = own[name].map("{:.3f}".format)
        shown["difference"] = _with_interval(own, "difference")
        drawn = own["n_random"] > 1
        if drawn.any():
            shown["draws"] = [
                f"{int(n)} (sd {sd:.3f})" if n > 1 else ""
                for n, sd in own[["n_random", "spread"]].to_numpy()
            ]
        shown["p"] = own["p"].map(lambda p: "" if pd.isna(p) else f"{p:.3g}")
        print_table(f"{PROTOCOLS[protocol]}: {int(own['n'].iloc[0]):,} labelled genes", shown)
    # Of one label its first genes, of several the first gene of each.
    several = predictions["label"].nunique() > 1
    first = predictions[predictions["rank"] == 1] if several else predictions
    shown = first.head(N_SHOWN).set_index("gene")
    shown["probability"] = shown["probability"].map("{:.3f}".format)
    shown["nearest"] = shown["nearest"].str.split("; ").str[0]
    print_table("unlabelled genes" + ": the first of each label" * several, shown)


def _with_interval(table: "pd.DataFrame", name: str) -> "list[str]":
    values = table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
    return [f"{v:.3f} [{low:.3f}, {high:.3f}]" if v == v else "" for v, low, high in values]  # noqa: PLR0124 - NaN
