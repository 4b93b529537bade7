"""What a simulation takes from a real count matrix."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source
from cellfm.corpus.counts import check_counts
from cellfm.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

N_QUANTILES = 101
"""Of the depth of each type."""
PRIOR_COUNT = 0.5
"""Count that a type's profile is given of the overall one, spread over the genes, for each of its cells."""
N_DEPTHS, N_BISECTIONS = 8, 16
"""Depths of a type at which zeros are expected, and halvings of the range of log φ."""
LEAST_DISPERSION, MOST_DISPERSION = 0.01, 20.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """Statistics of a count matrix.

    Attributes
    ----------
    symbols
        Names of its genes.
    types
        Its cell types.
    weight
        Share of the cells of each type.
    profile
        Share of each gene in the counts of a type, types × genes.
    dispersion
        φ of each gene within types: variance beyond Poisson over the squared mean.
    depths
        Log of the total count at evenly spaced quantiles, types × quantiles.
    """

    symbols: tuple[str, ...]
    types: tuple[str, ...]
    weight: "NDArray[np.float64]"
    profile: "NDArray[np.float64]"
    dispersion: "NDArray[np.float64]"
    depths: "NDArray[np.float64]"

    @staticmethod
    def of(
        adata: "AnnData",
        *,
        cell_type_key: str | None = None,
        layer: str | None = None,
        use_raw: bool = False,
    ) -> "Reference":
        """Estimate the statistics of counts; cells without any count are left out.

        With ``λ_cg`` the total of the cell times the profile of its type, φ of a gene is between two estimates, nearer to the
        second one the more zeros the gene has::

            Σ_c [(x_cg − λ_cg)² − λ_cg] / Σ_c λ_cg²        and the root of    Σ_c (1 + φ λ_cg)^(−1/φ) = its zeros

        Both are shrunk towards the well measured genes by their own sampling variance.

        Parameters
        ----------
        adata
            Cells with raw counts.
        cell_type_key
            Column of ``obs`` with the types; without it all cells are of one. Cells without a type are left out.
        layer
            Layer with the counts, instead of ``X``.
        use_raw
            Take the counts of ``raw``.

        Raises
        ------
        DataError
            There is no such column, or fewer than two cells have a count and a type.
        CountsError
            The values are no counts.
        """
        source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
        counts = source.read(0, source.n_rows).astype(np.float64)
        check_counts(counts)
        types, code = _types(adata, cell_type_key)
        kept = np.flatnonzero((np.asarray(counts.sum(axis=1)).ravel() > 0) & (code >= 0))
        if len(kept) < 2:
            msg = f"Only {len(kept)} of {adata.n_obs:,} cells have counts and a type; a reference needs at least two. Give more labelled cells."
            raise DataError(msg)
        present, code = np.unique(code[kept], return_inverse=True)
        counts = counts[kept]
        profile = _profiles(counts, code)
        total = np.asarray(counts.sum(axis=1)).ravel()
        quantiles = np.linspace(0, 1, N_QUANTILES)
        return Reference(
            symbols=tuple(map(str, var.index)),
            types=tuple(types[i] for i in present),
            weight=np.bincount(code) / len(code),
            profile=profile,
            dispersion=_dispersion(counts, code, profile),
            depths=np.stack(
                [np.log(np.quantile(total[code == t], quantiles)) for t in range(len(present))]
            ),
        )


def _types(adata: "AnnData", key: str | None) -> tuple[list[str], "NDArray[np.int64]"]:
    """Names of the types and the type of each cell, −1 for none."""
    if key is None:
        return ["cell"], np.zeros(adata.n_obs, dtype=np.int64)
    if key not in adata.obs:
        msg = f"There is no column {key!r} in obs; it has {', '.join(map(str, adata.obs)) or 'no columns'}. Name one of these, or none."
        raise DataError(msg)
    column = adata.obs[key].astype("category").cat
    return list(map(str, column.categories)), column.codes.to_numpy(np.int64)


def _profiles(counts: "csr_matrix", code: "NDArray[np.int64]") -> "NDArray[np.float64]":
    """Share of each gene in the counts of each type, with a little of the overall profile."""
    n_types = code.max() + 1
    sums = np.stack([np.asarray(counts[code == t].sum(axis=0)).ravel() for t in range(n_types)])
    overall = sums.sum(axis=0) / sums.sum()
    sums += PRIOR_COUNT * np.bincount(code)[:, None] * overall
    return sums / sums.sum(axis=1, keepdims=True)


def _dispersion(
    counts: "csr_matrix", code: "NDArray[np.int64]", profile: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """φ of each gene: from its zeros where it has many, from its variance where it has few.

    A few odd cells make the variance of a sparse gene, but hardly change its zeros; an abundant gene has none.
    """
    by_moments = _moment_dispersion(counts, code, profile)
    by_zeros = _zero_dispersion(counts, code, profile, centre=float(np.median(by_moments)))
    detected = np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1])
    weight = 1.0 - detected / counts.shape[0]
    return np.exp(weight * np.log(by_zeros) + (1 - weight) * np.log(by_moments))


def _moment_dispersion(
    counts: "csr_matrix", code: "NDArray[np.int64]", profile: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """φ by the second moment over all types, shrunk."""
    excess, squares, poisson = np.zeros((3, counts.shape[1]))
    for t, share in enumerate(profile):
        own = counts[code == t]
        total = np.asarray(own.sum(axis=1)).ravel()
        expected, expected_squared = share * total.sum(), share**2 * np.square(total).sum()
        observed_squared = np.asarray(own.power(2).sum(axis=0)).ravel()
        crossed = share * (own.T @ total)
        excess += observed_squared - 2 * crossed + expected_squared - expected
        squares += expected_squared
        poisson += expected
    # Var[(x − λ)² − λ] = λ + 2 λ² for Poisson counts.
    return _shrunk(excess, squares, poisson + 2 * squares)


def _zero_dispersion(
    counts: "csr_matrix",
    code: "NDArray[np.int64]",
    profile: "NDArray[np.float64]",
    *,
    centre: float,
) -> "NDArray[np.float64]":
    """φ at which ``Σ_c (1 + φ λ_cg)^(−1/φ)`` is the number of zeros of the gene, shrunk; found by bisection."""
    n_cells, n_genes = counts.shape
    zeros = n_cells - np.bincount(counts.indices[counts.data > 0], minlength=n_genes)
    total = np.asarray(counts.sum(axis=1)).ravel()
    middles = (np.arange(N_DEPTHS) + 0.5) / N_DEPTHS
    own = [total[code == t] for t in range(len(profile))]
    rate = np.concatenate(
        [
            np.quantile(depth, middles)[:, None] * share
            for depth, share in zip(own, profile, strict=True)
        ]
    )
    weight = np.repeat([len(depth) / N_DEPTHS for depth in own], N_DEPTHS)
    low, high = np.full((2, n_genes), np.log([[LEAST_DISPERSION], [MOST_DISPERSION]]))
    for _ in range(N_BISECTIONS):
        middle = 0.5 * (low + high)
        phi = np.exp(middle)
        too_many = weight @ np.exp(-np.log1p(phi * rate) / phi) > zeros
        low, high = np.where(too_many, low, middle), np.where(too_many, middle, high)
    phi = np.exp(0.5 * (low + high))
    # dP(0)/dφ ≈ P(0) λ² / 2 and Var[zeros] = Σ P(0) (1 − P(0)), both of Poisson counts.
    empty = np.exp(-rate)
    slope = weight @ (empty * rate**2) / 2
    return _shrunk(phi * slope, slope, weight @ (empty * (1 - empty)), centre=centre)


def _shrunk(
    excess: "NDArray[np.float64]",
    information: "NDArray[np.float64]",
    variance: "NDArray[np.float64]",
    *,
    centre: float | None = None,
) -> "NDArray[np.float64]":
    """``excess / information``, shrunk by its sampling variance ``variance / information²`` to the centre.

    The centre is the median of the tenth of the genes with the smallest sampling variance, unless it is given; genes
    are taken to spread around it by as much as it is.
    """
    known = information > 0
    raw = np.divide(excess, information, out=np.zeros_like(excess), where=known)
    error = np.divide(variance, information**2, out=np.full_like(excess, np.inf), where=known)
    if centre is None:
        best = error <= np.quantile(error[known], 0.1)
        centre = float(np.clip(np.median(raw[best]), LEAST_DISPERSION, MOST_DISPERSION))
    believed = centre**2 / (centre**2 + error)
    return np.clip(believed * raw + (1 - believed) * centre, LEAST_DISPERSION, MOST_DISPERSION)
