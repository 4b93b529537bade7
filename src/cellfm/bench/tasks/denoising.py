"""Molecular cross-validation: a tenth of the molecules of each cell is predicted from the others (Batson et al. 2019)."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods import imputers
from cellfm.bench.metrics.recovery import UNIT, cell_log_errors, cell_poisson_losses
from cellfm.bench.resample import resample
from cellfm.bench.task import Answer, Case, Context, Method, Metric, Outcome, Role, Score
from cellfm.errors import DataError
from cellfm.weights.folder import random_twin

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cellfm.tl._denoise_fit import Output
    from cellfm.weights.folder import Pretrained

    Matrix = NDArray[np.float32]

TRAIN = 0.9
"""Share of the molecules that methods see (Open Problems)."""
MOST_CELLS = 2000
"""Of more cells, these are drawn."""
ORACLE = "oracle"
"""Array of the positive control's answer; the task puts the test molecules in its place."""
METRICS = (
    Metric(name="mse", summary="squared error of log1p(CP10k) of test molecules (Open Problems)", higher=False, best=0.0),
    Metric(name="poisson", summary="Poisson loss of the test molecules (Open Problems)", higher=False, best=0.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenoisingCase(Case):
    """Training molecules in `adata`, the others here."""

    test: "csr_matrix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoising:
    """The task."""

    name: str = "denoising"
    summary: str = "a tenth of each cell's molecules from the others"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "no-denoising"
    positive: str | None = "test-molecules"
    required: frozenset[Role] = frozenset(
        {"random_weights", "pca", "classical", "negative", "positive"}
    )

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        if dataset.scale != "counts":
            return "molecules are divided between training and test, which needs raw counts"
        return None

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield one case: molecules divided by binomial thinning."""
        yield thinned_case(dataset, seed=seed)

    def views(self, case: Case) -> Sequence[Case]:
        """Return one view with the training molecules."""
        plain = {name: getattr(case, name) for name in Case.__dataclass_fields__}
        # other counts than the dataset's: frozen states must not be taken for theirs
        blind = case.dataset.blind()
        blind.__dict__["hash"] = hashlib.sha256(f"{case.dataset.hash} {case.split_hash}".encode()).hexdigest()  # fmt: skip
        return [Case(**{**plain, "dataset": blind})]

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge ``counts``, expected counts at the depth of the training molecules, shape (cell, gene)."""
        assert isinstance(case, DenoisingCase)
        test, (answer,) = case.test.toarray().astype(np.float32), answers
        ratio = float(case.test.sum() / case.adata.X.sum())
        if ORACLE in answer.arrays:
            counts = test / np.float32(ratio)
        else:
            counts = np.asarray(answer.arrays["counts"], np.float32)
        if counts.shape != test.shape or not np.isfinite(counts).all() or (counts < 0).any():
            msg = f"An answer must be finite counts of at least 0 in shape {test.shape}; found shape {counts.shape}. Correct the method."
            raise DataError(msg)
        drawn = resample(np.zeros(len(test), np.int64), case.group, seed=case.seed)
        losses = {
            "mse": cell_log_errors(test, counts),
            "poisson": cell_poisson_losses(test, counts, ratio=ratio),
        }
        norm = drawn.weights.sum(axis=1)
        scores = {
            name: Score(value=float(x[0]), draws=x[1:], n_units=drawn.n_units, unit=drawn.unit)
            for name, loss in losses.items()
            for x in [drawn.weights @ loss / norm]
        }
        return Outcome(scores=scores, notes=(*case.notes, *answer.notes))


def thinned_case(dataset: Dataset, *, seed: int) -> DenoisingCase:
    """Divide the molecules of a dataset.

    Parameters
    ----------
    dataset
        With raw counts.
    seed
        Of the choice of cells and of the thinning.
    """
    from anndata import AnnData

    full, rng = dataset.cells, np.random.default_rng(seed)
    rows = np.arange(full.n_obs)
    if full.n_obs > MOST_CELLS:
        rows = np.sort(rng.choice(full.n_obs, MOST_CELLS, replace=False))
    whole = full.X[rows].tocsr().astype(np.int64)
    train = whole.copy()
    train.data = rng.binomial(whole.data, TRAIN)
    test = (whole - train).tocsr()
    train.eliminate_zeros()
    # as in Open Problems, genes without a training molecule are left out
    genes = np.flatnonzero(np.asarray(train.sum(axis=0)).ravel() > 0)
    some = np.asarray(train.sum(axis=1)).ravel() > 0
    rows, train, test = rows[some], train[some][:, genes], test[some][:, genes]
    adata = AnnData(train.astype(np.float32), obs=full.obs.iloc[rows].copy(), var=full.var.iloc[genes].copy())  # fmt: skip
    donor = full.obs[dataset.donor].to_numpy(str)[rows] if dataset.donor else None
    grouped = donor is not None and len(np.unique(donor)) > 1
    notes = (f"{len(rows):,} cells × {len(genes):,} genes, {TRAIN:.0%} of the molecules seen",)
    digest = hashlib.sha256(f"thinned {TRAIN} {seed} {MOST_CELLS} {dataset.hash}".encode())
    return DenoisingCase(
        dataset=dataset,
        adata=adata,
        rows=rows,
        split=f"molecules-{TRAIN:g}",
        split_hash=digest.hexdigest(),
        part=np.zeros(len(rows), np.int8),
        seed=seed,
        group=donor if grouped else None,
        notes=notes,
        test=test,
    )


def _dense(case: Case) -> "Matrix":
    return np.asarray(case.adata.X.toarray(), np.float32)


def _classical(impute: "Callable[[Matrix], Matrix]") -> Callable[[Case, Context], Answer]:
    def run(case: Case, context: Context) -> Answer:
        return Answer(arrays={"counts": impute(_dense(case))})

    return run


def _seeded(impute: "Callable[..., Matrix]") -> Callable[[Case, Context], Answer]:
    def run(case: Case, context: Context) -> Answer:
        return Answer(arrays={"counts": impute(_dense(case), seed=context.seed)})

    return run


def _oracle(case: Case, context: Context) -> Answer:
    return Answer(arrays={ORACLE: np.ones(1)})


def _shuffled(case: Case, context: Context) -> Answer:
    """Another cell's training molecules, scaled to the depth of the cell."""
    counts = _dense(case)
    other = counts[np.random.default_rng(context.seed).permutation(len(counts))]
    depth = counts.sum(axis=1, keepdims=True) / np.maximum(other.sum(axis=1, keepdims=True), 1)
    return Answer(arrays={"counts": other * depth})


def denoised(adata: "AnnData", model: "Pretrained", *, output: "Output", own: bool, seed: int) -> Answer:  # fmt: skip
    """Denoise all genes; genes that the model does not know get their share of the depth.

    Parameters
    ----------
    adata
        Training molecules.
    model
        Weights.
    output
        ``"counts"``, or ``"mean_log1p_cp10k"``, which is taken back to counts by expm1.
    own
        Blend with the cell's own counts.
    seed
        Of the fit.
    """
    from anndata import AnnData

    from cellfm.tl._denoise import denoise

    work = AnnData(adata.X.copy(), var=adata.var.copy())
    denoise(work, model, output=output, own_counts=own, empty="nan", seed=seed, min_matched=0.0)
    counts, seen = imputers.gene_share(adata.X.toarray()), work.layers["cellfm_denoised"]
    total = np.asarray(adata.X.sum(axis=1), np.float32)
    if output == "mean_log1p_cp10k":
        # genes outside of the vocabulary on the same scale: the mean of their logarithms
        counts = imputers.gene_mean(adata.X.toarray())
        seen = np.expm1(seen) * total / np.float32(UNIT)
    known = np.isfinite(seen)
    shape = work.uns["cellfm"]["cellfm_denoised"]["own_counts_shape"]
    note = f"fitted on the training molecules; {np.mean(known.any(axis=0)):.0%} of the genes are the model's; shape of the prior {shape:g}"
    return Answer(arrays={"counts": np.where(known, seen, counts)}, notes=(note,))


def _cellfm(output: "Output", *, own: bool, random: bool = False) -> Callable[[Case, Context], Answer]:  # fmt: skip
    def run(case: Case, context: Context) -> Answer:
        model = random_twin(context.model, seed=case.seed) if random else context.model
        return denoised(case.adata, model, output=output, own=own, seed=context.seed)

    return run


def _methods() -> tuple[Method, ...]:
    make = partial(Method, setting="fitted")
    against = ("random-weights", "knn-50", "magic", "pca-50")
    none = frozenset[Role]()
    return (
        make(name="no-denoising", summary="the training molecules", roles=frozenset({"negative"}), run=_classical(lambda counts: counts)),
        make(name="test-molecules", summary="the answer", roles=frozenset({"positive"}), run=_oracle),
        make(name="shuffled", summary="another cell's molecules", roles=none, run=_shuffled),
        make(name="gene-share", summary="share of the gene × depth", roles=frozenset({"classical"}), run=_classical(imputers.gene_share)),
        make(name="gene-mean", summary="mean log value of the gene", roles=frozenset({"classical"}), run=_classical(imputers.gene_mean)),
        make(name="knn-50", summary="mean log value of 50 neighbours in PCA-50", roles=frozenset({"classical"}), run=_seeded(imputers.knn), needs=("sklearn",)),
        make(name="knn-50-rates", summary="mean share of 50 neighbours in PCA-50", roles=frozenset({"classical"}), run=_seeded(partial(imputers.knn, logarithmic=False)), needs=("sklearn",)),
        make(name="pca-50", summary="reconstruction from PCA-50", roles=frozenset({"pca"}), run=_seeded(imputers.pca), needs=("sklearn",)),
        make(name="ridge", summary="ridge regression on PCA-50 and depth", roles=frozenset({"classical"}), run=_seeded(imputers.ridge), needs=("sklearn",)),
        make(name="magic", summary="MAGIC, square roots", roles=none, run=_seeded(imputers.magic), needs=("magic",)),
        make(name="cellfm", summary="CellFM, expected counts, blended with the cell's own", roles=frozenset({"candidate"}), run=_cellfm("counts", own=True), against=against),
        make(name="cellfm-log", summary="CellFM, expected log value at the cell's depth, blended", roles=frozenset({"candidate"}), run=_cellfm("mean_log1p_cp10k", own=True), against=(*against, "random-weights-log")),
        make(name="cellfm-states", summary="CellFM, expected counts, from the state alone", roles=frozenset({"candidate"}), run=_cellfm("counts", own=False), against=against),
        make(name="random-weights", summary="random weights, expected counts, blended", roles=frozenset({"random_weights"}), run=_cellfm("counts", own=True, random=True)),
        make(name="random-weights-log", summary="random weights, expected log value, blended", roles=frozenset({"random_weights"}), run=_cellfm("mean_log1p_cp10k", own=True, random=True)),
    )  # fmt: skip


TASK = replace(Denoising(), methods=_methods())
