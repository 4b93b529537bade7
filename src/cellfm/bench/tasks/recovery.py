"""Masked recovery: a fifth of the expressed genes of each cell is hidden, and their values are asked for.

Every method is told which genes are hidden, and the cell's depth with them, as CellFM's objective has it (Zeng et al. 2025); masks are
the same for all. Values are log1p(CP10k).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.datasets import Dataset
from cellfm.bench.methods import imputers
from cellfm.bench.metrics.recovery import gene_r2, grouped_pearson
from cellfm.bench.resample import N_DRAWS
from cellfm.bench.task import Answer, Case, Context, Method, Metric, Outcome, Role, Score, Setting
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.mask import mask_cells
from cellfm.corpus.ragged import cell_totals, log_values
from cellfm.corpus.split import TEST, split_cells
from cellfm.errors import DataError
from cellfm.weights.folder import random_twin

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cellfm.batch import CellBatch
    from cellfm.weights.folder import Pretrained

    Values = NDArray[np.float64]

HIDDEN = 0.2
"""Share of a cell's expressed genes that is hidden."""
LEAST = 5
"""Hidden values a gene needs to be judged."""
MOST_CELLS = 2000
TOKENS = 6144
_ORACLE = "oracle"
METRICS = (
    Metric(name="gene_r2", summary="median over genes of 1 - MSE / MSE(gene mean)", chance=0.0),
    Metric(name="gene_pearson", summary="median over genes of the correlation across cells", chance=0.0),
    Metric(name="share_above_mean", summary="share of genes predicted better than by their mean", chance=0.0),
    Metric(name="cell_pearson", summary="median over cells of the correlation across genes: gene means alone score high"),
    Metric(name="mse", summary="squared error of the hidden values", higher=False, best=0.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecoveryCase(Case):
    """Counts without the hidden ones in `adata`, and what is asked for.

    Attributes
    ----------
    row, gene
        Cell and column of each hidden entry, cells ascending; all of them in test cells.
    total
        Depth of each cell with its hidden counts.
    truth
        Value of each hidden entry; NaN in what methods see.
    """

    row: "NDArray[np.int64]"
    gene: "NDArray[np.int64]"
    total: "NDArray[np.float64]"
    truth: "NDArray[np.float32]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """The task."""

    name: str = "recovery"
    summary: str = "values of hidden genes of cells"
    metrics: tuple[Metric, ...] = METRICS
    methods: tuple[Method, ...] = ()
    negative: str = "gene-mean"
    positive: str | None = None
    required: frozenset[Role] = frozenset({"random_weights", "pca", "classical", "negative"})

    def refuses(self, dataset: Dataset) -> str | None:
        """Say why a dataset cannot be used."""
        if dataset.scale != "counts":
            return "hidden genes need their counts and the depth, so raw counts"
        return None

    def cases(self, dataset: Dataset, *, seed: int) -> Iterator[Case]:
        """Yield one case: half of the donors, or of the cells, is masked; the rest is for the baselines."""
        yield masked_case(dataset, seed=seed)

    def views(self, case: Case) -> Sequence[Case]:
        """Return one view, without the truth."""
        assert isinstance(case, RecoveryCase)
        blind = case.dataset.blind()
        blind.__dict__["hash"] = hashlib.sha256(f"{case.dataset.hash} {case.split_hash}".encode()).hexdigest()  # fmt: skip
        return [replace(case, truth=np.full_like(case.truth, np.nan), dataset=blind)]

    def score(self, case: Case, answers: Sequence[Answer]) -> Outcome:
        """Judge ``value``, one for each hidden entry; genes are the unit."""
        assert isinstance(case, RecoveryCase)
        (answer,) = answers
        value = np.asarray(answer.arrays["value"], np.float64)
        if value.shape != case.truth.shape or not np.isfinite(value).all():
            msg = f"An answer must be {len(case.truth):,} finite values; found shape {value.shape}. Correct the method."
            raise DataError(msg)
        return _judged(case, value, answer.notes)


def masked_case(dataset: Dataset, *, seed: int) -> RecoveryCase:
    """Hide genes of half of the cells.

    Parameters
    ----------
    dataset
        With raw counts.
    seed
        Of split and masks.
    """
    from anndata import AnnData

    full = dataset.cells
    rows = np.arange(full.n_obs)
    if full.n_obs > MOST_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(full.n_obs, MOST_CELLS, replace=False))
    x = full.X[rows].tocsr()
    x.sort_indices()
    donor = full.obs[dataset.donor].to_numpy(str)[rows] if dataset.donor else None
    part = split_cells(_labels(full.obs, dataset, rows), donor, validation=0.0, test=0.5, seed=seed)
    offsets, row = x.indptr.astype(np.int64), np.repeat(np.arange(len(rows)), np.diff(x.indptr))
    hidden = mask_cells(x.indices + 1, offsets, rows, seed=seed, epoch=0, scored_fraction=HIDDEN, hidden_fraction=1.0).hidden  # fmt: skip
    hidden &= part[row] == TEST
    total = cell_totals(x.data, offsets)
    truth = log_values(x.data, total, np.diff(offsets))[hidden]
    shown = x.copy()
    shown.data = np.where(hidden, 0, x.data).astype(np.float32)
    shown.eliminate_zeros()
    digest = hashlib.sha256(f"masked {HIDDEN} {seed} {MOST_CELLS} {dataset.hash}".encode())
    return RecoveryCase(
        dataset=dataset,
        adata=AnnData(shown, obs=full.obs.iloc[rows].copy(), var=full.var.copy()),
        rows=rows,
        split=f"masked-{HIDDEN:g}",
        split_hash=digest.hexdigest(),
        part=part,
        seed=seed,
        notes=(f"{int(hidden.sum()):,} values hidden in {int((part == TEST).sum()):,} cells",),
        row=row[hidden],
        gene=x.indices[hidden].astype(np.int64),
        total=total,
        truth=truth,
    )


def _labels(obs: object, dataset: Dataset, rows: "NDArray[np.int64]") -> "NDArray[np.str_]":
    if dataset.label is None:
        return np.full(len(rows), "cell")
    return np.asarray(obs[dataset.label].to_numpy(str)[rows])  # type: ignore[index]


def _judged(case: RecoveryCase, value: "Values", notes: tuple[str, ...]) -> Outcome:
    n = case.adata.n_vars
    truth, mean = case.truth.astype(np.float64), gene_means(case)[case.gene].astype(np.float64)
    enough = np.bincount(case.gene, minlength=n) >= LEAST
    r2 = gene_r2(case.gene, truth, value, mean, n_genes=n)[enough]
    r = grouped_pearson(case.gene, truth, value, n_groups=n)[enough]
    good = np.isfinite(r2) & np.isfinite(r)
    r2, r = r2[good], r[good]
    cells = grouped_pearson(case.row, truth, value, n_groups=len(case.part))
    cells = cells[np.isfinite(cells)]
    error = np.bincount(case.gene, weights=np.square(truth - value), minlength=n)
    number = np.bincount(case.gene, minlength=n)
    seen = number > 0
    rng = np.random.default_rng(case.seed)
    drawn = rng.integers(0, len(r2), (N_DRAWS, len(r2)))
    of_all = rng.integers(0, int(seen.sum()), (N_DRAWS, int(seen.sum())))
    squared = error[seen][of_all].sum(axis=1) / number[seen][of_all].sum(axis=1)

    def of_genes(x: np.floating, draws: "Values") -> Score:
        return Score(value=float(x), draws=draws, n_units=len(r2), unit="gene")

    scores = {
        "gene_r2": of_genes(np.median(r2), np.median(r2[drawn], axis=1)),
        "gene_pearson": of_genes(np.median(r), np.median(r[drawn], axis=1)),
        "share_above_mean": of_genes((r2 > 0).mean(), (r2[drawn] > 0).mean(axis=1)),
        "cell_pearson": Score(value=float(np.median(cells)), n_units=len(cells), unit="cell"),
        "mse": Score(value=float(error.sum() / number.sum()), draws=squared, n_units=int(seen.sum()), unit="gene"),
    }  # fmt: skip
    return Outcome(scores=scores, notes=(*case.notes, *notes))


def training_values(case: RecoveryCase) -> "csr_matrix":
    """Return the log-normalised values of the training cells, all genes shown.

    Parameters
    ----------
    case
        A case or a view.
    """
    x = case.adata.X[np.flatnonzero(case.part != TEST)].tocsr().astype(np.float32)
    x.data = log_values(x.data, cell_totals(x.data, x.indptr.astype(np.int64)), np.diff(x.indptr))
    return x


def gene_means(case: RecoveryCase) -> "NDArray[np.float32]":
    """Return the mean value of each gene over the training cells that express it; the overall mean if none does.

    Parameters
    ----------
    case
        A case or a view.
    """
    x = training_values(case)
    number = np.bincount(x.indices, minlength=x.shape[1])
    total = np.bincount(x.indices, weights=x.data, minlength=x.shape[1])
    overall = total.sum() / max(number.sum(), 1)
    return np.divide(total, number, out=np.full(x.shape[1], overall), where=number > 0).astype(np.float32)  # fmt: skip


def _view(case: Case) -> RecoveryCase:
    assert isinstance(case, RecoveryCase)
    return case


def _gene_mean(case: Case, context: Context) -> Answer:
    view = _view(case)
    return Answer(arrays={"value": gene_means(view)[view.gene]})


def _mean_and_depth(case: Case, context: Context) -> Answer:
    """Gene mean and a slope on the log depth that all genes share."""
    view = _view(case)
    x, means = training_values(view), gene_means(view)
    depth = np.log1p(view.total)
    train = depth[view.part != TEST]
    d = np.repeat(train, np.diff(x.indptr)) - train.mean()
    slope = float(d @ (x.data - means[x.indices]) / max(float(d @ d), 1e-12))
    return Answer(arrays={"value": means[view.gene] + slope * (depth[view.row] - train.mean())})


def _shown_values(view: RecoveryCase) -> "tuple[NDArray[np.float32], NDArray[np.bool_]]":
    """Dense values of all cells at their true depth, hidden ones 0, and which are hidden."""
    x = view.adata.X.toarray().astype(np.float32)
    values = np.log1p(x / np.maximum(view.total, 1)[:, None].astype(np.float32) * 1e4)
    hidden = np.zeros(values.shape, np.bool_)
    hidden[view.row, view.gene] = True
    return values, hidden


def _knn(case: Case, context: Context) -> Answer:
    """Mean over the 50 nearest training cells that express the gene, shrunk by five cells to the gene's mean."""
    from sklearn.neighbors import NearestNeighbors

    view = _view(case)
    values, hidden = _shown_values(view)
    train, means = view.part != TEST, gene_means(view)
    mean, _, components = imputers.principal_scores(values[train], seed=context.seed)
    scores = (np.where(hidden, mean, values) - mean) @ components.T
    found = NearestNeighbors(n_neighbors=min(imputers.N_NEIGHBOURS, int(train.sum()))).fit(
        scores[train]
    )
    near, fitted = found.kneighbors(scores, return_distance=False), values[train]
    result = np.empty(len(view.row), np.float32)
    for start in range(0, len(result), 1 << 14):
        part = slice(start, start + (1 << 14))
        of = fitted[near[view.row[part]], view.gene[part][:, None]]
        result[part] = (of.sum(axis=1) + 5 * means[view.gene[part]]) / ((of > 0).sum(axis=1) + 5)
    return Answer(arrays={"value": result})


def _baselines(name: str) -> Callable[[Case, Context], Answer]:
    """PCA-50 or ridge of :class:`cellfm.corpus.baselines.Baselines`, fitted on the training cells of the dataset."""

    def run(case: Case, context: Context) -> Answer:
        from cellfm.corpus.baselines import Baselines

        view = _view(case)
        x = view.adata.X[np.flatnonzero(view.part != TEST)].tocsr()
        cells = InMemoryCells(
            gene=(x.indices + 1).astype(np.int32),
            count=x.data.astype(np.float32),
            offsets=x.indptr.astype(np.int64),
            cell=view.rows[view.part != TEST],
        )
        fitted = Baselines.fit(cells, x.shape[1], seed=context.seed, scored_fraction=HIDDEN)
        token = np.arange(1, x.shape[1] + 1, dtype=np.int64)
        predicted = [fitted.predict(batch)[name].numpy() for batch in batches(view, token)]
        return Answer(arrays={"value": np.concatenate(predicted)})

    return run


def batches(view: RecoveryCase, token: "NDArray[np.int64]") -> "Iterator[CellBatch]":  # fmt: skip
    """Yield batches of the test cells with their hidden genes, which are the scored ones.

    Parameters
    ----------
    view
        What is shown, and which genes are hidden.
    token
        Token of each column, 0 for none: such genes are left out.

    Yields
    ------
    Batches whose scored genes, one batch after the other, are the hidden entries of the view in their order (without those of
    no token).
    """
    import torch
    from scipy import sparse

    from cellfm.batch import CellBatch
    from cellfm.corpus.ragged import boundaries, cut
    from cellfm.corpus.tokens import depth_features

    x = view.adata.X.tocsr()
    mark = sparse.csr_matrix((np.ones(len(view.row), np.float32), (view.row, view.gene)), shape=x.shape)  # fmt: skip
    # hidden entries are stored with a mark below 0, which no count is
    both = (x.astype(np.float32) - mark).tocsr()
    both.sort_indices()
    both = both[np.flatnonzero(view.part == TEST)]
    total = view.total[view.part == TEST]
    kept = token[both.indices] > 0
    row = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))[kept]
    gene, data = token[both.indices[kept]], both.data[kept]
    offsets = boundaries(np.bincount(row, minlength=both.shape[0]))
    hidden = data < 0
    value = log_values(np.where(hidden, 0, data), total, np.diff(offsets))
    whole = CellBatch(
        gene=torch.from_numpy(gene.astype(np.int64)),
        value=torch.from_numpy(value),
        offsets=torch.from_numpy(offsets),
        depth=depth_features(total, total),
        hidden=torch.from_numpy(hidden),
        scored=torch.from_numpy(hidden),
    )
    edges = cut(offsets, TOKENS).tolist()
    for start, stop in pairwise(edges):
        yield whole.cells(start, stop)


def network_values(view: RecoveryCase, model: "Pretrained", decoder: str) -> Answer:
    """Predict by a network; genes it does not know get their mean.

    Parameters
    ----------
    view
        What is shown.
    model
        Weights.
    decoder
        ``"gene"`` or ``"cell"``.
    """
    import torch

    from cellfm.genes import resolve
    from cellfm.nn.loss import predict_scored

    names = list(view.adata.var_names)
    token = resolve(names, model.vocabulary, min_matched=0.0).token.astype(np.int64)
    # two columns of one gene: the second would be a token twice in a cell
    _, first = np.unique(token, return_index=True)
    token[np.setdiff1d(np.arange(len(token)), first)] = 0
    device = model.network.cls.device
    parts = []
    with torch.inference_mode():
        for batch in batches(view, token):
            predicted = predict_scored(model.network, batch.to(device))
            parts.append(getattr(predicted, decoder).float().cpu().numpy())
    value, known = gene_means(view)[view.gene], token[view.gene] > 0
    value[known] = np.concatenate(parts)
    return Answer(arrays={"value": value, "known": known}, notes=(f"{known.mean():.0%} of the hidden values are of genes of the model; the others get their mean",))  # fmt: skip


def _network(decoder: str, *, random: bool = False) -> Callable[[Case, Context], Answer]:
    def run(case: Case, context: Context) -> Answer:
        model = random_twin(context.model, seed=case.seed) if random else context.model
        return network_values(_view(case), model, decoder)

    return run


def _calibrated(case: Case, context: Context) -> Answer:
    """Gene-wise decoder with slope and mean of each gene fitted on masked training cells."""
    view = _view(case)
    inner = _masked_training(view)
    answer = network_values(view, context.model, "gene")
    ours, known = answer.arrays["value"], answer.arrays["known"]
    train = network_values(inner, context.model, "gene").arrays["value"]
    n, means = view.adata.n_vars, gene_means(view)
    number = np.bincount(inner.gene, minlength=n)
    centre = np.bincount(inner.gene, weights=train, minlength=n) / np.maximum(number, 1)
    target = np.bincount(inner.gene, weights=inner.truth, minlength=n) / np.maximum(number, 1)
    a, b = train - centre[inner.gene], inner.truth - target[inner.gene]
    top = np.bincount(inner.gene, weights=a * b, minlength=n)
    bottom = np.bincount(inner.gene, weights=a * a, minlength=n)
    common = top.sum() / max(bottom.sum(), 1e-12)
    # a prior of ten values' variance on the slope all genes share, and of ten values on the shift
    spread = 10 * bottom.sum() / max(number.sum(), 1)
    slope = (top + common * spread) / (bottom + spread)
    weight = number / (number + 10)
    gene = view.gene
    middle = np.where(number > 0, centre, means)[gene]
    shift = (weight * (target - centre))[gene]
    value = np.where(known, middle + shift + slope[gene] * (ours - middle), ours)
    return Answer(arrays={"value": value}, notes=answer.notes)


def _masked_training(view: RecoveryCase) -> RecoveryCase:
    """Mask the training cells of a view as its test cells are."""
    keep = np.flatnonzero(view.part != TEST)
    x = view.adata.X[keep].tocsr()
    x.sort_indices()
    offsets = x.indptr.astype(np.int64)
    hidden = mask_cells(x.indices + 1, offsets, view.rows[keep], seed=view.seed, epoch=0, scored_fraction=HIDDEN, hidden_fraction=1.0).hidden  # fmt: skip
    row, total = np.repeat(np.arange(len(keep)), np.diff(offsets)), cell_totals(x.data, offsets)
    truth = log_values(x.data, total, np.diff(offsets))[hidden]
    shown = view.adata[keep].copy()
    shown.X = x.copy()
    shown.X.data = np.where(hidden, 0, x.data).astype(np.float32)
    shown.X.eliminate_zeros()
    return replace(view, adata=shown, rows=view.rows[keep], part=np.full(len(keep), TEST, np.int8), row=row[hidden], gene=x.indices[hidden].astype(np.int64), total=total, truth=truth)  # fmt: skip


def _methods() -> tuple[Method, ...]:
    def make(name: str, summary: str, run: Callable[[Case, Context], Answer], *roles: Role, setting: Setting = "fitted") -> Method:  # fmt: skip
        ours = "candidate" in roles
        against = ("random-weights", "pca-50", "ridge", "knn-50") if ours else ()
        needs = ("sklearn",) if name == "knn-50" else ()
        return Method(name=name, summary=summary, setting=setting, roles=frozenset(roles), run=run, needs=needs, against=against)  # fmt: skip

    return (
        make("gene-mean", "mean of the gene where it is expressed", _gene_mean, "negative"),
        make("gene-mean-depth", "gene mean and a common slope on the depth", _mean_and_depth, "classical"),
        make("knn-50", "50 nearest training cells that express the gene", _knn, "classical"),
        make("pca-50", "reconstruction from PCA-50", _baselines("pca"), "pca"),
        make("ridge", "ridge regression on PCA-50 and depth", _baselines("ridge"), "classical"),
        make("cellfm", "gene-wise decoder", _network("gene"), "candidate", setting="zero_shot"),
        make("cellfm-cell", "cell-wise decoder", _network("cell"), "candidate", setting="zero_shot"),
        make("cellfm-calibrated", "gene-wise decoder, slope and mean of each gene fitted", _calibrated, "candidate"),
        make("random-weights", "gene-wise decoder, random weights", _network("gene", random=True), "random_weights", setting="zero_shot"),
    )  # fmt: skip


TASK = replace(Recovery(), methods=_methods())
