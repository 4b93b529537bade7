r"""Responses of treatments that were not measured: a Gaussian process over drug, dose and context.

Responses are moved to the mean sensitivity of the contexts (:mod:`cellfm.tl._response.transfer`), where they are taken as draws of

.. math::
    Y_{\cdot g} ∼ N(0, σ_g^2 (K + λ_g T)), \; T = \mathrm{diag}(τ / \bar τ), \qquad
    K = K_{dose} ∘ (a_0 + a_1 S^h + a_2 [d = d']) ∘ (1 − ρ + ρ K_{context})

with S the cosine of the drugs' features and h 1, which is ridge regression on these, 2 or 3; :math:`K_{dose}` a squared exponential of
log₁₀ dose times the power that lets responses grow with it; :math:`K_{context}` one of the mean states of the control cells; τ the sampling
variance. One kernel serves all genes, so a prediction is :math:`K_* (K + λ_g T)^{-1} Y_{\cdot g}`, λ and w below being one for all genes that
respond about as much above noise, in classes by the mean of :math:`δ^2 / \mathrm{Var} δ`.

Predictions are then smoothed over genes: :math:`δ (I − w + w P)`, P the projection on a gene space in which responses are expected, the
principal components of control cells or of the model's gene embeddings.

What is set is chosen by leaving whole drugs (or scaffolds, doses, contexts: what is to be held out) out of the fit; for a block b the
prediction is then known in closed form, :math:`Y_b − [M^{-1}]_{bb}^{-1} [M^{-1} Y]_b` with :math:`M = K + λ T` (Rasmussen & Williams 2006, §5.4.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.tl._drug.data import Treatment
from cellfm.tl._drug.features import DrugFeatures
from cellfm.tl._drug.responses import Contexts, DrugResponses
from cellfm.tl._response.transfer import transfer_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

N_TRIALS = 60
LEAST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWeights:
    """What a head is set to.

    Attributes
    ----------
    common, similar, own
        a₀, a₁, a₂.
    power
        h.
    dose_width
        Length scale of log₁₀ dose.
    growth
        Power of the dose, relative to the median dose, by which responses grow.
    context
        ρ.
    space
        Name of the gene space, "" for none.
    """

    common: float = 0.3
    similar: float = 0.6
    own: float = 0.1
    power: float = 1.0
    dose_width: float = 1.5
    growth: float = 0.0
    context: float = 0.0
    space: str = ""


CHOICES: Mapping[str, tuple[float, ...]] = {
    "common": (0.03, 0.1, 0.3, 1.0),
    "similar": (0.0, 0.3, 1.0, 3.0, 10.0),
    "own": (0.0, 0.03, 0.1, 0.3, 1.0),
    "power": (1.0, 1.0, 2.0, 3.0),
    "dose_width": (0.5, 1.0, 2.0, 4.0),
    "growth": (0.0, 0.15, 0.3, 0.5),
    "context": (0.0, 0.1, 0.3, 0.7),
}
NOISES = (0.03, 0.3, 1.0, 3.0, 10.0, 100.0)
SMOOTHINGS = (0.0, 0.3, 0.6, 0.8, 0.95)
CLASSES = (0.5, 0.8, 0.92)
"""Quantiles of response above noise that part the classes of genes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrugHead:
    """A fitted Gaussian process.

    Attributes
    ----------
    weights
        What it is set to.
    treatments
        Trained on.
    features
        Of the drugs.
    contexts
        Of the training cells.
    target
        Responses at the mean sensitivity, shape (treatment, gene).
    relative
        Diagonal of T, shape (treatment,).
    noise, smoothing
        λ and w of each gene, shape (gene,).
    spaces
        Orthonormal gene spaces by name, shape (gene, component).
    error
        Mean squared error of the blocks left out while choosing, over that of no change.
    """

    weights: KernelWeights
    treatments: tuple[Treatment, ...]
    features: DrugFeatures
    contexts: Contexts
    target: "Floats"
    relative: "Floats"
    noise: "Floats"
    smoothing: "Floats"
    spaces: "Mapping[str, Floats]"
    error: float

    @staticmethod
    def fit(
        responses: DrugResponses,
        features: DrugFeatures,
        contexts: Contexts,
        *,
        block: "NDArray[np.int64]",
        spaces: "Mapping[str, Floats] | None" = None,
        seed: int = 0,
    ) -> "DrugHead":
        """Choose the weights by leaving blocks out, and keep the responses.

        Parameters
        ----------
        responses
            To fit on.
        features
            Of their drugs, and maybe of more.
        contexts
            Of their control cells.
        block
            What is left out together, shape (treatment,).
        spaces
            Gene spaces to choose among, orthonormal columns, shape (gene, component).
        seed
            Of the settings that are tried.

        Raises
        ------
        DataError
            There are fewer than two blocks.
        """
        if len(set(block.tolist())) < 2:
            msg = "All treatments are of one drug, scaffold, dose or context: nothing can be left out to choose by. Give more, or hold out something else."
            raise DataError(msg)
        ratio = _to_mean(contexts, responses.treatments)
        n_genes = responses.delta.shape[1]
        head = DrugHead(
            weights=KernelWeights(), treatments=responses.treatments, features=features, contexts=contexts,
            target=responses.halves[0] * ratio, relative=responses.tau / responses.tau.mean(), noise=np.ones(n_genes),
            smoothing=np.zeros(n_genes), spaces=dict(spaces or {}), error=float("nan"),
        )  # fmt: skip
        # Fitted with one half of the controls, judged with the other: what both share by chance is no response.
        judge = _Judge.of(responses, responses.halves[1] * ratio, block)
        chosen = head._chosen(judge, np.random.default_rng(seed))
        return replace(chosen, target=responses.delta * ratio)

    def predict(
        self,
        treatments: Sequence[Treatment],
        contexts: Contexts,
        rows: "Mapping[str, NDArray[np.float32]] | None" = None,
    ) -> "tuple[Floats, Floats]":
        """Return responses and their standard deviations, both of shape (treatment, gene).

        Parameters
        ----------
        treatments
            Asked for; their contexts are among `contexts`.
        contexts
            Of the control cells they are asked for.
        rows
            Features of drugs that the head does not know.
        """
        cross = combine(self._parts(treatments, contexts, rows or {}), self.weights)
        own = combine(self._parts(self.treatments, self.contexts, {}), self.weights)
        mean = np.empty((len(treatments), self.target.shape[1]))
        variance = np.empty_like(mean)
        prior = self._prior(treatments)
        for noise in np.unique(self.noise):
            like = self.noise == noise
            inverse = np.linalg.inv(own + np.diag(noise * self.relative))
            solved = inverse @ self.target[:, like]
            scale = np.einsum("pg,pg->g", self.target[:, like], solved) / len(own)
            left = prior - np.einsum("ij,jk,ik->i", cross, inverse, cross)
            mean[:, like] = cross @ solved
            variance[:, like] = np.maximum(left, 0.0)[:, None] * scale
        mean = smoothed(mean, self.smoothing, self.spaces.get(self.weights.space))
        ratio = transfer_ratio(self.contexts.sensitivity.mean(axis=0), contexts.sensitivity)
        index = {name: number for number, name in enumerate(contexts.names)}
        at = np.array([index[t.context] for t in treatments])
        delta = np.maximum(mean * ratio[at], -contexts.control[at])
        return delta, np.sqrt(variance) * ratio[at]

    def _prior(self, treatments: Sequence[Treatment]) -> "Floats":
        w = self.weights
        dose = 2 * w.growth * (_log_dose(treatments) - np.median(_log_dose(self.treatments)))
        return (w.common + w.similar + w.own) * 10.0**dose

    def _parts(
        self,
        treatments: Sequence[Treatment],
        contexts: Contexts,
        rows: "Mapping[str, NDArray[np.float32]]",
    ) -> "_Parts":
        """Return what the kernel between treatments and those trained on is made of."""
        names = sorted({t.drug for t in treatments})
        asked = np.stack([rows[n] if n in rows else self.features.row(n) for n in names])
        similar = self.features.similarity(asked)
        a = np.array([names.index(t.drug) for t in treatments])
        b = np.array([self.features.names.index(t.drug) for t in self.treatments])
        same = np.array([[s.drug == t.drug for t in self.treatments] for s in treatments])
        distance = np.square(contexts.state[:, None] - self.contexts.state[None]).sum(axis=2)
        own = np.square(self.contexts.state[:, None] - self.contexts.state[None]).sum(axis=2)
        middle = float(np.median(own[own > 0])) if (own > 0).any() else 1.0
        here = {name: number for number, name in enumerate(contexts.names)}
        there = {name: number for number, name in enumerate(self.contexts.names)}
        c = np.array([here[t.context] for t in treatments])
        d = np.array([there[t.context] for t in self.treatments])
        left, right = _log_dose(treatments), _log_dose(self.treatments)
        centre = float(np.median(right))
        return _Parts(
            similar=similar[np.ix_(a, b)],
            same=same,
            dose=left[:, None] - right[None],
            height=left[:, None] + right[None] - 2 * centre,
            context=np.exp(-0.5 * distance / middle)[np.ix_(c, d)],
        )

    def _chosen(self, judge: "_Judge", rng: np.random.Generator) -> "DrugHead":
        """Choose the kernel with the noise of each class of genes, then the smoothing."""
        parts = self._parts(self.treatments, self.contexts, {})
        tried = [KernelWeights()]
        for _ in range(N_TRIALS):
            drawn = {name: float(rng.choice(values)) for name, values in CHOICES.items()}
            tried.append(KernelWeights(**drawn))  # type: ignore[arg-type] # all drawn fields are numbers
        best, least = tried[0], float("inf")
        guess, noise = self.target, self.noise
        for weights in tried:
            kernel = combine(parts, weights)
            found = np.stack([self._left_out(kernel, each, judge.blocks) for each in NOISES])
            errors, pick = judge.best(found)
            if errors < least:
                best, least = weights, errors
                guess = np.take_along_axis(found, pick[None, None], axis=0)[0]
                noise = np.array(NOISES)[pick]
        smoothing = np.zeros(len(noise))
        for name, basis in self.spaces.items():
            options = np.stack([smoothed(guess, np.full(len(noise), w), basis) for w in SMOOTHINGS])
            errors, pick = judge.best(options)
            if errors < least:
                best, least = replace(best, space=name), errors
                smoothing = np.array(SMOOTHINGS)[pick]
        relative = least / judge.total
        return replace(self, weights=best, noise=noise, smoothing=smoothing, error=float(relative))

    def _left_out(
        self, kernel: "Floats", noise: float, blocks: "Sequence[NDArray[np.int64]]"
    ) -> "Floats":
        """Predictions of blocks that are left out."""
        inverse = np.linalg.inv(kernel + np.diag(noise * self.relative))
        solved = inverse @ self.target
        guess = np.empty_like(self.target)
        for rows in blocks:
            guess[rows] = self.target[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], solved[rows])  # fmt: skip
        return guess


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judge:
    """What predictions of left-out blocks are compared with."""

    truth: "Floats"
    weight: "Floats"
    blocks: "tuple[NDArray[np.int64], ...]"
    kind: "NDArray[np.int64]"
    """Class of each gene by how much it responds above noise."""

    @staticmethod
    def of(responses: DrugResponses, truth: "Floats", block: "NDArray[np.int64]") -> "_Judge":
        above: Floats = np.mean(np.square(responses.halves[0]) / responses.variance, axis=0)
        return _Judge(
            truth=truth,
            weight=responses.tau.mean() / responses.tau,
            blocks=tuple(np.flatnonzero(block == number) for number in np.unique(block)),
            kind=np.searchsorted(np.quantile(above, CLASSES), above, side="right").astype(np.int64),
        )

    @property
    def total(self) -> float:
        """Weighted square of the truth: the error of no change."""
        return max(float((self.weight @ np.square(self.truth)).sum()), LEAST)

    def best(self, guesses: "Floats") -> "tuple[float, NDArray[np.int64]]":
        """Return the least error, and which guess each gene's class takes, of shape (guess, treatment, gene)."""
        error = np.einsum("p,opg->og", self.weight, np.square(guesses - self.truth))
        of_class = np.stack([error[:, self.kind == k].sum(axis=1) for k in range(len(CLASSES) + 1)])
        pick = of_class.argmin(axis=1)
        return float(of_class.min(axis=1).sum()), pick[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Parts:
    """Pairs of treatments: similarity of drugs, whether they are one, difference and sum of log doses, kernel of contexts."""

    similar: "Floats"
    same: "NDArray[np.bool_]"
    dose: "Floats"
    height: "Floats"
    context: "Floats"


def combine(parts: _Parts, weights: KernelWeights) -> "Floats":
    """Return K.

    Parameters
    ----------
    parts
        Pairs of treatments.
    weights
        Of the kernel.
    """
    w = weights
    drug = w.common + w.similar * parts.similar ** int(w.power) + w.own * parts.same
    dose = np.exp(-0.5 * np.square(parts.dose / w.dose_width)) * 10.0 ** (w.growth * parts.height)
    kernel: Floats = drug * dose * (1.0 - w.context + w.context * parts.context)
    return kernel


def smoothed(delta: "Floats", smoothing: "Floats", basis: "Floats | None") -> "Floats":
    """Return δ (I − w + w P).

    Parameters
    ----------
    delta
        Responses, shape (treatment, gene).
    smoothing
        w of each gene.
    basis
        Orthonormal columns of the space, shape (gene, component).
    """
    if basis is None or not smoothing.any():
        return delta
    projected: Floats = (delta @ basis) @ basis.T
    return (1 - smoothing) * delta + smoothing * projected


def orthonormal(table: "NDArray[np.floating]", n_components: int) -> "Floats":
    """Return an orthonormal basis of the leading directions of gene features, shape (gene, component).

    Parameters
    ----------
    table
        Features of each gene, shape (gene, feature); rows of zeros for genes without.
    n_components
        At most so many.
    """
    left, size, _ = np.linalg.svd(np.asarray(table, np.float64), full_matrices=False)
    kept = min(n_components, int((size > 1e-8 * max(size[0], LEAST)).sum()))
    return np.ascontiguousarray(left[:, :kept])


def _to_mean(contexts: Contexts, treatments: Sequence[Treatment]) -> "Floats":
    ratio = transfer_ratio(contexts.sensitivity, contexts.sensitivity.mean(axis=0)[None])
    index = {name: number for number, name in enumerate(contexts.names)}
    return np.asarray(ratio[[index[t.context] for t in treatments]], np.float64)


def _log_dose(treatments: Sequence[Treatment]) -> "Floats":
    return np.log10(np.array([t.dose for t in treatments]))
