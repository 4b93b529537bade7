"""Gene function: what sets a gene is in, learnt of other genes from vectors of genes.

A method gives a vector for each gene and is not told what genes do. Logistic regression, in folds, learns the sets of some genes and is asked for those of
the others; once with genes dealt at random, once with families (stems of symbols) in one fold each. Gene sets are resampled.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.gene_cells import GeneDataset
from cellfm.bench.methods.genes import GeneView, filled, gene_methods, genes_of, refuses_genes
from cellfm.bench.resample import resample
from cellfm.bench.task import Answer, Case, Method, Metric, Outcome, Role, Score
from cellfm.genes.families import family
from cellfm.tl._genes.function_folds import cross_validate
from cellfm.tl._genes.function_scores import auprc, fmax, fold_auroc

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_FOLDS = 5
LEAST_SET = 10
"""Genes of a set: fewer are not in every fold."""
MOST_SETS = 50
"""More are drawn from."""
LEAST_SETS = 2
METRICS = (
    Metric(name="auroc", summary="AUROC within folds, mean over gene sets", chance=0.5),
    Metric(name="auprc", summary="average precision, mean over gene sets"),
    Metric(name="fmax", summary="CAFA's Fmax, one threshold for all sets"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionCase(GeneView):
    """Genes and what they do.

    Attributes
    ----------
    flags
        Whether a gene is in a set, shape (labelled gene, set).
    labelled
        Places of the labelled genes among all.
    fold_of
        Fold of each labelled gene.
    """

    flags: "NDArray[np.bool_]"
    labelled: "NDArray[np.int64]"
    fold_of: "NDArray[np.int64]"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneFunction:
    """The task."""

    name: str = "gene_function"
    summary: str = "what sets a gene is in, learnt of other genes from vectors of genes"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "random-vectors"
    positive: str | None = None
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "negative", "shuffled_labels"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        if why := refuses_genes(dataset):
            return why
        assert isinstance(dataset, GeneDataset)
        genes, _, sets = genes_of(dataset)
        there = set(genes)
        n = sum(len(there & set(members)) >= LEAST_SET for members in sets.values())
        if n < LEAST_SETS:
            return f"{n} of its gene sets have {LEAST_SET} expressed genes; {LEAST_SETS} are needed"
        return None

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield genes dealt at random, and families kept together."""
        assert isinstance(dataset, GeneDataset)
        genes, columns, sets = genes_of(dataset)
        place = {name: i for i, name in enumerate(genes)}
        rows = [sorted({place[g] for g in members if g in place}) for members in sets.values()]
        kept = [i for i, own in enumerate(rows) if len(own) >= LEAST_SET]
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.permutation(kept)[:MOST_SETS])
        table = np.zeros((len(genes), len(chosen)), bool)
        for column, number in enumerate(chosen):
            table[rows[number], column] = True
        labelled = np.flatnonzero(table.any(axis=1))
        names = [list(sets)[number] for number in chosen]
        for split in ("genes", "families"):
            fold = _folds([genes[i] for i in labelled], families=split == "families", seed=seed)
            text = f"{split} {seed} {genes} {names} {fold.tolist()}"
            yield FunctionCase(
                dataset=dataset,
                adata=dataset.cells,
                rows=np.arange(dataset.cells.n_obs),
                split=split,
                split_hash=hashlib.sha256(text.encode()).hexdigest(),
                part=np.zeros(dataset.cells.n_obs, np.int8),
                seed=seed,
                notes=(f"{len(chosen)} of {len(sets):,} gene sets, {len(labelled):,} labelled genes of {len(genes):,}",),
                genes=genes,
                columns=columns,
                flags=table[labelled],
                labelled=labelled,
                fold_of=fold,
            )  # fmt: skip

    def views(self, case: Case) -> Sequence[Case]:
        """Return the cells and the names of the genes."""
        return [gene_view(case)]

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Learn the sets of some genes from the vectors, and judge those of the others."""
        assert isinstance(case, FunctionCase)
        vectors, n_gaps = filled(answers[0].arrays["vectors"], len(case.genes))
        own = vectors[case.labelled]
        p = cross_validate(own, case.flags, case.fold_of, seed=case.seed)
        columns = range(case.flags.shape[1])
        each = {
            "auroc": [
                float(fold_auroc(case.flags[:, c], p[:, c], case.fold_of)[0]) for c in columns
            ],
            "auprc": [auprc(case.flags[:, c], p[:, c]) for c in columns],
        }
        n = case.flags.shape[1]
        drawn = resample(np.zeros(n, np.int64), seed=case.seed)
        scores = {name: set_score(np.array(x), drawn.weights) for name, x in each.items()}
        scores["fmax"] = Score(value=float(fmax(case.flags, p)[0]), n_units=n, unit="gene set")
        notes = (f"{n_gaps} genes without a vector have the mean of the others",) if n_gaps else ()
        return Outcome(scores=scores, notes=(*answers[0].notes, *notes))


def set_score(values: "NDArray[np.float64]", weights: "NDArray[np.float64]") -> Score:
    """Return the mean over gene sets, with draws.

    Parameters
    ----------
    values
        Of each set.
    weights
        From :func:`~cellfm.bench.resample.resample`.
    """
    x = weights @ values / weights.sum(axis=1)
    return Score(value=float(x[0]), draws=x[1:], n_units=len(values), unit="gene set")


def gene_view(case: Case) -> GeneView:
    """Return what a method may see of a case: no sets, no labels of cells.

    Parameters
    ----------
    case
        Of a task on genes.
    """
    from anndata import AnnData

    assert isinstance(case, GeneView)
    shown = AnnData(case.adata.X)
    shown.var_names = case.adata.var_names
    return GeneView(
        dataset=case.dataset.blind(),
        adata=shown,
        rows=case.rows,
        split=case.split,
        split_hash=case.split_hash,
        part=case.part,
        seed=case.seed,
        genes=case.genes,
        columns=case.columns,
    )


def _folds(genes: list[str], *, families: bool, seed: int) -> "NDArray[np.int64]":
    from sklearn.model_selection import GroupKFold, KFold

    kind = GroupKFold if families else KFold
    group = (
        np.unique([family(name) for name in genes], return_inverse=True)[1] if families else None
    )
    fold = np.empty(len(genes), np.int64)
    dealer = kind(n_splits=N_FOLDS, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(dealer.split(fold[:, None], groups=group)):
        fold[test] = number
    return fold


TASK = replace(GeneFunction(), methods=gene_methods("frozen_probe"))
