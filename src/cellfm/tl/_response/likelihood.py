r"""The marginal likelihood of scores under a mixture of kernels, and its gradient.

.. math::
    -\log p(z_r) = \tfrac12 z_r^\top C_r^{-1} z_r + \tfrac12 \log |C_r| + c, \qquad C_r = s_r \sum_k w_{rk} K_k + \mathrm{diag}(\tau), \qquad
    \frac{\partial}{\partial \theta} = \tfrac12 \mathrm{tr}\big((C_r^{-1} - \alpha_r \alpha_r^\top) \partial C_r / \partial \theta\big), \quad
    \alpha_r = C_r^{-1} z_r

(Rasmussen & Williams 2006, eq. 5.8 and 5.9), with :math:`s_r = e^{a_r}` and :math:`w_{r\cdot} = \mathrm{softmax}(b + c_r)`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SHRINK = 0.1
"""How much the weights of single axes are drawn to those of all: precision of a normal prior on their log ratios, halved."""
BOUND = 0.005
"""The same for scales and common weights: so little that it only keeps them finite."""
N_STEPS = 60


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """Scores, their noise, and kernels.

    Attributes
    ----------
    kernels
        Shape (kernel, condition, condition).
    scores
        z, shape (rank, condition).
    tau
        Noise variance of each condition.
    """

    kernels: "NDArray[np.float64]"
    scores: "NDArray[np.float64]"
    tau: "NDArray[np.float64]"

    @property
    def start(self) -> "NDArray[np.float64]":
        """a, b and c to begin with: the scales that the scores suggest, and even weights."""
        excess = (self.scores**2).mean(axis=1) - self.tau.mean()
        n, k = len(self.scores), len(self.kernels)
        scale = np.maximum(excess, 0.1 * self.tau.mean())
        return np.concatenate([np.log(scale), np.zeros(k + n * k)])

    def parts(
        self, free: "NDArray[np.float64]"
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return s, shape (rank,), and w, shape (rank, kernel).

        Parameters
        ----------
        free
            a, b and c in a row.
        """
        n, k = len(self.scores), len(self.kernels)
        logit = free[n : n + k] + free[n + k :].reshape(n, k)
        raw = np.exp(logit - logit.max(axis=1, keepdims=True))
        return np.exp(free[:n]), raw / raw.sum(axis=1, keepdims=True)

    def loss(self, free: "NDArray[np.float64]") -> "tuple[float, NDArray[np.float64]]":
        """Return the negative log likelihood with the priors, less its constant, and the gradient.

        Parameters
        ----------
        free
            a, b and c in a row.
        """
        n, k = len(self.scores), len(self.kernels)
        s, w = self.parts(free)
        mixed = np.einsum("rk,kpq->rpq", w, self.kernels)
        inner = s[:, None, None] * mixed + np.diag(self.tau)
        inverse = np.linalg.inv(inner)
        alpha = np.einsum("rpq,rq->rp", inverse, self.scores)
        value = 0.5 * float((alpha * self.scores).sum() + np.linalg.slogdet(inner)[1].sum())
        pull = 0.5 * (inverse - alpha[:, :, None] * alpha[:, None, :])
        by_kernel = np.einsum("rpq,kpq->rk", pull, self.kernels) * s[:, None]
        mean = (w * by_kernel).sum(axis=1)
        by_logit = w * (by_kernel - mean[:, None])
        gradient = np.concatenate([mean, by_logit.sum(axis=0), by_logit.ravel()])
        away, own = free[: n + k] - self.start[: n + k], free[n + k :]
        gradient[: n + k] += 2 * BOUND * away
        gradient[n + k :] += 2 * SHRINK * own
        return value + BOUND * float(away @ away) + SHRINK * float(own @ own), gradient


def maximise(
    kernels: "Mapping[str, NDArray[np.float64]]",
    scores: "NDArray[np.float64]",
    tau: "NDArray[np.float64]",
) -> "tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]":
    """Return the scale of each score, and the weights of the kernels by name, each of shape (rank,).

    Parameters
    ----------
    kernels
        By name, shape (condition, condition).
    scores
        Shape (condition, rank).
    tau
        Noise variance of each condition.
    """
    from scipy.optimize import minimize

    evidence = Evidence(kernels=np.stack(list(kernels.values())), scores=scores.T.copy(), tau=tau)
    start, n = evidence.start, scores.shape[1]
    bounds = [(x - 12, x + 8) for x in start[:n]] + [(-8.0, 8.0)] * (len(start) - n)
    options = {"maxiter": N_STEPS}
    found = minimize(evidence.loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)  # fmt: skip
    scale, weight = evidence.parts(found.x)
    return scale, dict(zip(kernels, weight.T, strict=True))
