r"""Responses: how the mean expression of perturbed cells differs from that of controls.

.. math::
    \ell_{cg} = \log(1 + 10^4 x_{cg} / \textstyle\sum_g x_{cg}), \qquad
    \delta_{pg} = \sum_s \frac{n_{ps}}{n_p} \big(\bar\ell_{psg} - \bar\ell_{0sg}\big)

over strata *s* of context and batch that have cells of *p* and controls. With :math:`v_g` the variance of :math:`\ell` within strata, the
sampling variance of the response is :math:`v_g \tau_p`, :math:`\tau_p = \sum_s (n_{ps}/n_p)^2 (1/n_{ps} + 1/n_{0s})`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.conditions import Condition
from cellfm.errors import DataError
from cellfm.tl._perturb.data import PerturbData
from cellfm.tl._response.log_counts import column_means, log_values
from cellfm.tl._response.transfer import sensitivity

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_SPREAD = 1e-6
"""Variance of a gene that no cell expresses: it keeps divisions finite."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Responses:
    r"""Pseudobulk responses of conditions.

    Attributes
    ----------
    genes, symbol
        Names of the input, and vocabulary symbols, of the genes.
    conditions
        Without the control.
    control
        Mean log expression of the controls, shape (gene,).
    sensitivity
        What a log-fold change of the rate does to it in the controls (:mod:`cellfm.tl._response.transfer`), shape (gene,).
    spread
        Variance of log expression within strata, shape (gene,).
    delta
        Response, shape (condition, gene).
    tau
        Its sampling variance in units of `spread`, shape (condition,).
    n_cells
        Of each condition.
    n_control
        Control cells.
    """

    genes: tuple[str, ...]
    symbol: tuple[str, ...]
    conditions: tuple[Condition, ...]
    control: "NDArray[np.float64]"
    sensitivity: "NDArray[np.float64]"
    spread: "NDArray[np.float64]"
    delta: "NDArray[np.float64]"
    tau: "NDArray[np.float64]"
    n_cells: "NDArray[np.int64]"
    n_control: int

    @property
    def variance(self) -> "NDArray[np.float64]":
        """Sampling variance of the responses, shape (condition, gene)."""
        return self.tau[:, None] * self.spread

    @property
    def own_variance(self) -> "NDArray[np.float64]":
        """The part of the sampling variance that comes from the condition's own cells, shape (condition, gene)."""
        return np.asarray(self.spread / self.n_cells[:, None])

    @property
    def mean(self) -> "NDArray[np.float64]":
        """Mean response over conditions, each counted once, shape (gene,)."""
        return self.delta.mean(axis=0)

    def take(self, which: "NDArray[np.integer] | NDArray[np.bool_]") -> "Responses":
        """Return some of the conditions.

        Parameters
        ----------
        which
            Numbers or flags.
        """
        index = np.flatnonzero(which) if which.dtype == bool else which
        return replace(
            self,
            conditions=tuple(self.conditions[i] for i in index),
            delta=self.delta[index],
            tau=self.tau[index],
            n_cells=self.n_cells[index],
        )

    @classmethod
    def of(
        cls,
        data: PerturbData,
        *,
        rows: "NDArray[np.integer] | NDArray[np.bool_] | None" = None,
        context: str | None = None,
    ) -> "Responses":
        """Average cells.

        Parameters
        ----------
        data
            Cells.
        rows
            Which of them; None for all.
        context
            Name of the one context to look at; None for all of them together.

        Returns
        -------
        Responses of the conditions that have cells in a stratum with controls.

        Raises
        ------
        DataError
            There are no controls, or no condition shares a stratum with them.
        """
        if rows is not None:
            data = data.take(rows)
        if context is not None:
            data = data.take(data.context == data.contexts.index(context))
        if not len(data.controls):
            msg = f"No control cells are left{'' if context is None else f' in the context {context!r}'}; responses cannot be measured without them. Choose conditions with control cells, or lower the least number of cells."
            raise DataError(msg)
        means = _Strata.of(data)
        shares = means.shares()
        there = np.flatnonzero(shares.sum(axis=1) > 0)
        there = there[there > 0]
        if not len(there):
            msg = "No condition has cells in a context and batch that has control cells too; their differences would be those of batches. Leave out the batch or context column, or give controls for each."
            raise DataError(msg)
        difference = means.mean - means.mean[:1]
        with np.errstate(divide="ignore"):
            noise = 1.0 / means.n + 1.0 / means.n[:1]
        used = shares[there]
        conditions = tuple(data.conditions[i] for i in there)
        values = log_values(data.counts[data.controls])
        return cls(
            genes=data.genes,
            symbol=data.symbol,
            conditions=conditions,
            control=column_means(values),
            sensitivity=sensitivity(data.counts[data.controls]),
            spread=np.maximum(means.spread, LEAST_SPREAD),
            delta=np.einsum("ps,psg->pg", used, np.where(used[..., None] > 0, difference[there], 0.0)),
            tau=np.einsum("ps,ps->p", used**2, np.where(used > 0, noise[there], 0.0)),
            n_cells=means.n[there].sum(axis=1).astype(np.int64),
            n_control=len(data.controls),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Strata:
    """Means of each condition in each context and batch."""

    mean: "NDArray[np.float64]"
    """Condition × stratum × gene, 0 where there are no cells."""
    n: "NDArray[np.float64]"
    """Condition × stratum."""
    spread: "NDArray[np.float64]"

    @classmethod
    def of(cls, data: PerturbData) -> "_Strata":
        from scipy import sparse

        _, stratum = np.unique(data.context * len(data.batches) + data.batch, return_inverse=True)
        n_strata = int(stratum.max()) + 1
        shape = (len(data.conditions) * n_strata, len(data.code))
        group = data.code * n_strata + stratum
        member = sparse.csr_matrix((np.ones(shape[1]), (group, np.arange(shape[1]))), shape=shape)
        values = log_values(data.counts)
        n = np.bincount(group, minlength=shape[0]).astype(np.float64)
        total = (member @ values).toarray()
        mean = total / np.maximum(n, 1.0)[:, None]
        square = np.asarray(values.multiply(values).sum(axis=0), np.float64).ravel()
        within = square - (n[:, None] * mean**2).sum(axis=0)
        freedom = max(shape[1] - int((n > 0).sum()), 1)
        by = (len(data.conditions), n_strata)
        return cls(
            mean=mean.reshape(*by, -1), n=n.reshape(by), spread=np.maximum(within, 0.0) / freedom
        )

    def shares(self) -> "NDArray[np.float64]":
        """Weight of each stratum for each condition; strata without controls have none."""
        usable = np.where(self.n[:1] > 0, self.n, 0.0)
        total = usable.sum(axis=1, keepdims=True)
        return np.divide(usable, total, out=np.zeros_like(usable), where=total > 0)
