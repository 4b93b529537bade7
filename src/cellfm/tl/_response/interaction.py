"""What pairs of perturbations do beyond the sum of their genes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_PAIRS = 5
RIDGE = 1.0
"""In units of the mean information of a pair."""
LEAST = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Interaction:
    r"""How far a pair is from the sum of its genes.

    .. math:: \delta_{ab} = (1 + \eta_{ab})(\delta_a + \delta_b), \qquad \eta_{ab} = \beta_0 + \beta_1 \cos(\delta_a, \delta_b)

    fitted by least squares weighted by the known noise, with a ridge that keeps :math:`\eta` at 0 where pairs do not say otherwise.

    Attributes
    ----------
    beta
        β.
    n_pairs
        Pairs it was fitted on.
    gain
        Share of the squared error of the sum, over left-out pairs, that it takes away; β is 0 where that is not positive.
    """

    beta: tuple[float, float] = (0.0, 0.0)
    n_pairs: int = 0
    gain: float = 0.0

    def factor(self, first: "NDArray[np.float64]", second: "NDArray[np.float64]") -> float:
        """1 + η of two responses.

        Parameters
        ----------
        first, second
            Scaled responses, shape (gene,).
        """
        return 1.0 + self.beta[0] + self.beta[1] * cosine(first, second)

    @classmethod
    def fit(
        cls,
        pair: "NDArray[np.float64]",
        first: "NDArray[np.float64]",
        second: "NDArray[np.float64]",
        tau: "NDArray[np.float64]",
    ) -> "Interaction":
        """Fit on pairs.

        Parameters
        ----------
        pair
            Scaled responses of pairs, shape (pair, gene).
        first, second
            Of their genes alone, denoised, same shape.
        tau
            Noise of the pairs.
        """
        n = len(pair)
        if n < LEAST_PAIRS:
            return cls(n_pairs=n)
        total = first + second
        likeness = np.array([cosine(a, b) for a, b in zip(first, second, strict=True)])
        design = np.stack([np.ones(n), likeness], axis=1)
        # Least squares in β: each pair adds |total|² x xᵀ and x·total·(pair − total), divided by its noise.
        gram = (total**2).sum(axis=1) / tau
        pull = ((pair - total) * total).sum(axis=1) / tau
        left = [_solve(design[kept], gram[kept], pull[kept]) for kept in ~np.eye(n, dtype=bool)]
        eta = np.einsum("pi,pi->p", design, np.stack(left))
        before = (((pair - total) ** 2).sum(axis=1) / tau).sum()
        after = (((pair - (1.0 + eta[:, None]) * total) ** 2).sum(axis=1) / tau).sum()
        gain = 1.0 - after / before
        if gain <= 0:
            return cls(n_pairs=n, gain=float(gain))
        beta = _solve(design, gram, pull)
        return cls(beta=(float(beta[0]), float(beta[1])), n_pairs=n, gain=float(gain))


def cosine(first: "NDArray[np.float64]", second: "NDArray[np.float64]") -> float:
    """Return the cosine of two vectors, 0 where one is 0.

    Parameters
    ----------
    first, second
        Of one length.
    """
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / length if length > LEAST else 0.0


def _solve(
    design: "NDArray[np.float64]", gram: "NDArray[np.float64]", pull: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    information = (design.T * gram) @ design
    return np.linalg.solve(information + RIDGE * gram.mean() * np.eye(2), design.T @ pull)
