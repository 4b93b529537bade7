"""The classical methods everything is compared with: variable genes, PCA, logistic regression, nearest neighbours.

All are fitted on the cells they are given, the training cells, and are plain arrays afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from cellfm.corpus.adata import anndata_source, gene_names_of
from cellfm.corpus.counts import Scale, check_counts
from cellfm.corpus.ragged import TARGET_TOTAL
from cellfm.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse strengths of the penalty among which cross-validation chooses."""
N_FOLDS = 5
NEIGHBOURS = (15, 5)
"""Numbers of neighbours to choose among; the first where there are too few cells to choose by."""
TOLERANCE, LASSO_TOLERANCE = 1e-3, 1e-2
SPARSE = 0.5
"""Share of zeros from which features are treated as sparse."""
NEVER = -1e4
"""Logit of a class without a training cell."""

Penalty = Literal["l2", "l1"]
Scaling = Literal["feature", "common"]
SCALINGS: tuple[Scaling, ...] = ("feature", "common")
Guess = Callable[["NDArray[np.intp]", "NDArray[np.intp]"], "NDArray[np.integer]"]
"""Called with the rows to fit on and those to ask about; returns the classes of the latter."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profiles:
    """Variable genes and principal components of some training cells."""

    genes: tuple[str, ...]
    """The variable genes."""
    mean: "NDArray[np.float32]"
    """Mean log value of each gene."""
    components: "NDArray[np.float32]"
    """Principal directions, shape (gene, component)."""

    @classmethod
    def fit(
        cls,
        adata: "AnnData",
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        scale: Scale = "counts",
        n_genes: int = 2000,
        n_components: int = 50,
        seed: int = 0,
    ) -> "Profiles":
        """Choose variable genes and fit a PCA on these cells.

        Genes are chosen by the dispersion of Satija et al. (2015), scanpy's ``flavor="seurat"``, on log values.

        Parameters
        ----------
        adata
            Training cells × genes.
        layer, use_raw, gene_names, scale
            As in :func:`cellfm.tl.embed`.
        n_genes
            Variable genes; all expressed ones where there are fewer.
        n_components
            Principal components; fewer where cells or genes do not give so many.
        seed
            Of the start of the iteration that finds them.

        Raises
        ------
        DataError
            There are fewer than three cells or expressed genes.
        """
        from sklearn.decomposition import PCA

        x, names = log_matrix(
            adata, layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale
        )
        expressed = np.flatnonzero(np.bincount(x.indices[x.data > 0], minlength=x.shape[1]))
        if min(x.shape[0], len(expressed)) < 3:
            msg = f"A PCA needs at least 3 cells and 3 expressed genes; there are {x.shape[0]} and {len(expressed)}. Give more cells."
            raise DataError(msg)
        x = x[:, expressed]
        chosen = _variable(x, min(n_genes, x.shape[1]))
        dense = x[:, chosen].toarray()
        n = min(n_components, min(dense.shape) - 1)
        pca = PCA(n, svd_solver="arpack", random_state=seed).fit(dense.astype(np.float64))
        return cls(
            genes=tuple(names[expressed[chosen]].tolist()),
            mean=pca.mean_.astype(np.float32),
            components=np.ascontiguousarray(pca.components_.T, np.float32),
        )

    def log_values(
        self,
        adata: "AnnData",
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        scale: Scale = "counts",
    ) -> "NDArray[np.float32]":
        """Log values of the variable genes, shape (cell, gene); 0 for genes that `adata` does not have.

        Parameters
        ----------
        adata
            Cells × genes; genes are found by name.
        layer, use_raw, gene_names, scale
            As in :func:`cellfm.tl.embed`.
        """
        x, names = log_matrix(
            adata, layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale
        )
        column = {name: i for i, name in reversed(list(enumerate(names.tolist())))}
        at = np.array([column.get(gene, -1) for gene in self.genes])
        values = np.zeros((x.shape[0], len(self.genes)), np.float32)
        values[:, at >= 0] = x[:, at[at >= 0]].toarray()
        return values

    def scores(
        self,
        adata: "AnnData",
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_names: str | None = None,
        scale: Scale = "counts",
    ) -> "NDArray[np.float32]":
        """Principal scores, shape (cell, component).

        Parameters
        ----------
        adata
            Cells × genes; genes are found by name, absent ones count as 0.
        layer, use_raw, gene_names, scale
            As in :func:`cellfm.tl.embed`.
        """
        values = self.log_values(
            adata, layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale
        )
        return self.project(values)

    def project(self, values: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """Principal scores of log values of the variable genes, shape (cell, component)."""
        scores = (values - self.mean) @ self.components
        return scores.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Linear:
    """Multinomial logistic regression on standardised features."""

    mean: "NDArray[np.float32]"
    scale: "NDArray[np.float32]"
    weight: "NDArray[np.float32]"
    """Shape (class, dim)."""
    bias: "NDArray[np.float32]"
    strength: float
    """The inverse strength that was chosen."""

    @property
    def scaling(self) -> Scaling:
        """The scaling that was chosen."""
        return "common" if np.ptp(self.scale) == 0 else "feature"

    def logits(self, x: "NDArray[np.floating]") -> "NDArray[np.float32]":
        """Logits, shape (cell, class)."""
        standard = (x - self.mean) / self.scale
        return (standard @ self.weight.T + self.bias).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbours:
    """Training cells among which neighbours are looked for."""

    mean: "NDArray[np.float32]"
    scale: "NDArray[np.float32]"
    points: "NDArray[np.float32]"
    """Training cells, centred and scaled, shape (cell, dim)."""
    code: "NDArray[np.int64]"
    n_classes: int
    k: int
    standardised: bool

    def search(self, x: "NDArray[np.floating]") -> "tuple[NDArray[np.float32], NDArray[np.int64]]":
        """Euclidean distances to the nearest training cells, ascending, and their rows; both (cell, k)."""
        from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(n_neighbors=self.k, algorithm="brute").fit(self.points)
        distance, row = index.kneighbors(((x - self.mean) / self.scale).astype(np.float32))
        return distance.astype(np.float32), row.astype(np.int64)

    def probabilities(self, x: "NDArray[np.floating]") -> "NDArray[np.float32]":
        """Share of each class among the nearest training cells, shape (cell, class)."""
        _, row = self.search(x)
        return np.eye(self.n_classes, dtype=np.float32)[self.code[row]].mean(axis=1)

    def distance(self, x: "NDArray[np.floating]") -> "NDArray[np.float32]":
        """Mean distance to the nearest training cells."""
        return self.search(x)[0].mean(axis=1)


def fit_linear(  # noqa: PLR0913 - one keyword for each choice of a fit
    x: "NDArray[np.floating]",
    code: "NDArray[np.integer]",
    *,
    n_classes: int,
    seed: int,
    penalty: Penalty = "l2",
    balanced: bool = True,
    group: "NDArray[Any] | None" = None,
    strengths: tuple[float, ...] = STRENGTHS,
    scalings: tuple[Scaling, ...] = SCALINGS,
) -> Linear:
    """Fit logistic regression; scaling and strength of its penalty are chosen by 5-fold cross-validation on macro-F1.

    Parameters
    ----------
    x
        Training cells × features.
    code
        Class of each, from 0.
    n_classes
        Number of classes; those without a training cell get a logit that never wins.
    seed
        Of the folds.
    penalty
        ``"l2"`` (multinomial), or ``"l1"`` (one class against the rest).
    balanced
        Weigh cells so that all classes count the same.
    group
        Donor of each cell: folds are then whole donors where there are three or more.
    strengths
        Inverse strengths to choose from; the last is taken where there are too few cells to choose by.
    scalings
        ``"feature"`` gives every feature variance 1; ``"common"`` divides all by one number, so that what varies more weighs more, as
        principal components should. To choose from; the first where there are too few cells.

    Raises
    ------
    DataError
        There are fewer than two classes, or features that are not finite.
    """
    _check(x, code)
    options = list(product(scalings, strengths))
    scaled = {scaling: _scaled(x, scaling, penalty) for scaling in scalings}
    chosen = scalings[0], strengths[-1]
    if len(options) > 1 and _can_validate(code, fold := folds(code, group, seed=seed)):
        scores = []
        for scaling, strength in options:
            model = _regression(strength, penalty, balanced=balanced)
            guess = partial(_guess_linear, scaled[scaling].x, code, model)
            scores.append(_validated(fold, code, guess))
        chosen = options[int(np.argmax(scores))]
    scaling, strength = chosen
    mean, scale, standard = scaled[scaling]
    model = _regression(strength, penalty, balanced=balanced).fit(standard, code)
    weight = np.zeros((n_classes, x.shape[1]), np.float32)
    bias = np.full(n_classes, NEVER, np.float32)
    there, (coef, intercept) = model.classes_, _coefficients(model)
    weight[there], bias[there] = coef, intercept
    return Linear(mean=mean, scale=scale, weight=weight, bias=bias, strength=strength)


def fit_knn(
    x: "NDArray[np.floating]",
    code: "NDArray[np.integer]",
    *,
    n_classes: int,
    k: int | None = None,
    standardise: bool | None = None,
    group: "NDArray[Any] | None" = None,
    seed: int = 0,
) -> Neighbours:
    """Keep training cells for a nearest-neighbour vote.

    Parameters
    ----------
    x
        Training cells × features.
    code
        Class of each, from 0.
    n_classes
        Number of classes.
    k
        Neighbours; all training cells where there are fewer. None chooses among :data:`NEIGHBOURS` by 5-fold cross-validation on
        macro-F1: a type with fewer cells than half of the neighbours can never win a vote.
    standardise
        Whether every feature gets mean 0 and variance 1; None chooses likewise.
    group
        Donor of each cell: folds are then whole donors where there are three or more.
    seed
        Of the folds.

    Raises
    ------
    DataError
        There are fewer than two classes, or features that are not finite.
    """
    _check(x, code)
    options = [
        (number, standard)
        for number in (NEIGHBOURS if k is None else (k,))
        for standard in ((False, True) if standardise is None else (standardise,))
    ]
    if len(options) > 1 and _can_validate(code, fold := folds(code, group, seed=seed)):
        scores = [_validated(fold, code, partial(_guess_knn, x, code, each)) for each in options]
        options = [options[int(np.argmax(scores))]]
    number, standard = options[0]
    return _neighbours(x, code, n_classes=n_classes, k=number, standardised=standard)


def folds(
    code: "NDArray[np.integer]", group: "NDArray[Any] | None" = None, *, seed: int
) -> "NDArray[np.intp]":
    """Fold of each cell, 0 to 4.

    Whole groups are dealt in turn where there are at least three; otherwise the cells of each class, and classes with fewer
    cells than folds are fine.

    Parameters
    ----------
    code
        Class of each cell.
    group
        Donor of each cell.
    seed
        Of the order.
    """
    rng = np.random.default_rng(seed)
    if group is not None:
        of_group = np.unique(group, return_inverse=True)[1]
        n_groups = int(of_group.max()) + 1
        if n_groups >= 3:
            return (rng.permutation(n_groups) % N_FOLDS)[of_group]
    order = rng.permutation(len(code))
    order = order[np.argsort(code[order], kind="stable")]
    fold = np.empty(len(code), np.intp)
    fold[order] = np.arange(len(code)) % N_FOLDS
    return fold


def log_matrix(
    adata: "AnnData",
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
) -> "tuple[csr_matrix, NDArray[np.object_]]":
    """Return log1p of counts per 10,000 over all genes of the data (float32), and the genes' names.

    Parameters
    ----------
    adata
        Cells × genes.
    layer, use_raw, gene_names, scale
        As in :func:`cellfm.tl.embed`; with ``"log1p"`` the values are taken as they are.
    """
    source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
    x = source.read(0, source.n_rows)
    check_counts(x, scale=scale)
    x = x.astype(np.float32)  # a copy: the caller's values stay
    if scale == "counts":
        total = np.asarray(x.sum(axis=1), np.float64).ravel()
        factor = np.divide(TARGET_TOTAL, total, out=np.zeros_like(total), where=total > 0)
        x.data = np.log1p(x.data * np.repeat(factor, np.diff(x.indptr))).astype(np.float32)
    names = np.array([str(name) for name in gene_names_of(var, gene_names)], dtype=object)
    return x, names


def _variable(x: "csr_matrix", n_genes: int) -> "NDArray[np.intp]":
    import scanpy
    from anndata import AnnData

    if n_genes == x.shape[1]:
        return np.arange(n_genes)
    table = scanpy.pp.highly_variable_genes(
        AnnData(x), n_top_genes=n_genes, flavor="seurat", inplace=False
    )
    return np.flatnonzero(table["highly_variable"].to_numpy())


def _moments(x: "NDArray[np.floating]") -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
    scale = x.std(axis=0, dtype=np.float64)
    scale[scale < 1e-8] = 1.0  # a feature that never varies says nothing
    return x.mean(axis=0, dtype=np.float64).astype(np.float32), scale.astype(np.float32)


class _Scaled(NamedTuple):
    mean: "NDArray[np.float32]"
    scale: "NDArray[np.float32]"
    x: "NDArray[np.float32] | csr_matrix"


def _scaled(x: "NDArray[np.floating]", scaling: Scaling, penalty: Penalty) -> _Scaled:
    mean, scale = _moments(x)
    if scaling == "common":
        scale = np.full_like(scale, np.sqrt(np.mean(np.square(x - mean, dtype=np.float64))) or 1.0)
    sparse = penalty == "l1" and (x == 0).mean() > SPARSE
    if sparse:  # the solver is then many times as fast; without centring only the bias changes
        mean = np.zeros_like(mean)
    standard = ((x - mean) / scale).astype(np.float32)
    if sparse:
        from scipy.sparse import csr_matrix

        standard = csr_matrix(standard)
    return _Scaled(mean, scale, standard)


def _neighbours(
    x: "NDArray[np.floating]",
    code: "NDArray[np.integer]",
    *,
    n_classes: int,
    k: int,
    standardised: bool,
) -> Neighbours:
    mean, scale = np.zeros(x.shape[1], np.float32), np.ones(x.shape[1], np.float32)
    if standardised:
        mean, scale = _moments(x)
    return Neighbours(
        mean=mean,
        scale=scale,
        points=((x - mean) / scale).astype(np.float32),
        code=code.astype(np.int64),
        n_classes=n_classes,
        k=min(k, len(x)),
        standardised=standardised,
    )


def _guess_linear(
    x: "NDArray[np.floating]",
    code: "NDArray[np.integer]",
    model: Any,  # noqa: ANN401 - sklearn has no types
    *rows: "NDArray[np.intp]",
) -> "NDArray[np.integer]":
    fit, ask = rows
    guess: NDArray[np.integer] = model.fit(x[fit], code[fit]).predict(x[ask])
    return guess


def _guess_knn(
    x: "NDArray[np.floating]",
    code: "NDArray[np.integer]",
    options: tuple[int, bool],
    *rows: "NDArray[np.intp]",
) -> "NDArray[np.integer]":
    (k, standardised), (fit, ask) = options, rows
    n_classes = int(code.max()) + 1
    known = _neighbours(x[fit], code[fit], n_classes=n_classes, k=k, standardised=standardised)
    return known.probabilities(x[ask]).argmax(axis=1)


def _can_validate(code: "NDArray[np.integer]", fold: "NDArray[np.intp]") -> bool:
    """Whether every fold leaves two classes to fit on, and at least half of the classes can be recognised in theirs."""
    if len(code) < 2 * N_FOLDS or np.median(np.unique(code, return_counts=True)[1]) < 2:
        return False
    return all(len(np.unique(code[fold != held])) > 1 for held in np.unique(fold))


def _validated(fold: "NDArray[np.intp]", code: "NDArray[np.integer]", guess_of: Guess) -> float:
    """Macro-F1 of predictions of each fold from the others, over all cells at once."""
    from sklearn.metrics import f1_score

    guess = np.empty(len(code), np.int64)
    for held in np.unique(fold):
        inside, outside = np.flatnonzero(fold == held), np.flatnonzero(fold != held)
        guess[inside] = guess_of(outside, inside)
    kinds = np.unique(code)
    return float(f1_score(code, guess, labels=kinds, average="macro", zero_division=0))


def _regression(strength: float, penalty: Penalty, *, balanced: bool) -> Any:  # noqa: ANN401 - sklearn has no types
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    weight = "balanced" if balanced else None
    if penalty == "l2":
        return LogisticRegression(C=strength, tol=TOLERANCE, max_iter=2000, class_weight=weight)
    # scikit-learn 1.8 renamed the argument.
    renamed = LogisticRegression().get_params()["penalty"] == "deprecated"
    lasso = {"l1_ratio": 1.0} if renamed else {"penalty": "l1"}
    one = LogisticRegression(
        C=strength,
        solver="liblinear",
        tol=LASSO_TOLERANCE,
        class_weight=weight,
        random_state=0,
        intercept_scaling=10,
        **lasso,
    )
    return OneVsRestClassifier(one)


def _coefficients(model: Any) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":  # noqa: ANN401
    """Weights and biases with a row for each class that was fitted."""
    parts = getattr(model, "estimators_", None) or [model]
    weight = np.concatenate([part.coef_ for part in parts])
    bias = np.concatenate([part.intercept_ for part in parts])
    if (
        len(weight) == 1
    ):  # of two classes only one row is kept: half of it each way gives the same probabilities
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _check(x: "NDArray[np.floating]", code: "NDArray[np.integer]") -> None:
    if len(np.unique(code)) < 2:
        msg = f"A classifier needs training cells of at least 2 classes; there are {len(np.unique(code))} among {len(code)} cells. Give cells of another class too."
        raise DataError(msg)
    bad = int((~np.isfinite(x).all(axis=1)).sum())
    if bad:
        msg = f"{bad} of {len(x)} training cells have features that are NaN or infinite. Leave these cells out."
        raise DataError(msg)
