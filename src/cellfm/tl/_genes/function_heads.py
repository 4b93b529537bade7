"""Heads on vectors of genes: L2 logistic regression, and a perceptron with one hidden layer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]

Head = Literal["linear", "mlp"]
Predict = Callable[["Vectors"], "Values"]
"""Vectors of genes, shape (gene, dim) → probability of each label, shape (gene, label)."""
STRENGTHS = (0.3, 3.0, 30.0)
"""Inverse strengths of the L2 penalty to choose from; columns have variance 1 / dim, so that they mean the same for every width."""
MOST_CHOOSING = 6
"""Labels whose inner log loss chooses the strength."""
CHOOSING_SHARE = 4
"""One gene in so many of the training part is held back to choose."""
N_ITERATIONS = 2000
CERTAIN = 14.0
"""Log odds of a label that all training genes have: p is 1 − 10⁻⁶."""
N_HIDDEN = 64
PENALTIES = (0.01, 1.0)
"""L2 penalties of the perceptron to choose from."""
N_EPOCHS, PATIENCE, STEP_GENES, RATE = 100, 10, 64, 2e-3
"""Of the perceptron: epochs at most, those without a lower loss on the genes held back, genes of a step, learning rate of Adam."""


def fit(vectors: "Vectors", flags: "Flags", *, seed: int, head: Head = "linear") -> Predict:
    """Fit a head and return what gives the probabilities of genes.

    Columns are standardised on the training genes. The strength of the penalty, and the number of epochs of a perceptron, are those with the least log loss
    on a quarter of the training genes; then all of these are fitted.

    Parameters
    ----------
    vectors
        Shape (gene, dim).
    flags
        Shape (gene, label); each label is a question of its own.
    seed
        Of the genes held back, and of the perceptron.
    head
        ``"linear"``: a logistic regression for each label; ``"mlp"``: one hidden layer of 64 rectified units, which the labels share.
    """
    if head == "linear":
        weight, offset = linear_weights(vectors, flags, seed=seed)
        return lambda asked: 1.0 / (1.0 + np.exp(-(asked @ weight.T + offset)))
    mean, sd = vectors.mean(axis=0), vectors.std(axis=0)
    scale = np.where(sd > 1e-7, 1.0 / np.maximum(sd, 1e-7), 0.0)
    x = ((vectors - mean) * scale).astype(np.float64)
    model = _perceptron(x, flags, _held(len(x), np.random.default_rng(seed)), seed)
    return lambda asked: model(((asked - mean) * scale).astype(np.float64))


def linear_weights(vectors: "Vectors", flags: "Flags", *, seed: int) -> "tuple[Values, Values]":
    """Return weights, shape (label, dim), and offsets of L2 logistic regressions, on the scale of the vectors.

    Parameters
    ----------
    vectors, flags, seed
        As in `fit`.
    """
    mean, sd = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    scale = np.where(sd > 1e-7, 1.0 / np.maximum(sd, 1e-7), 0.0) / np.sqrt(max((sd > 1e-7).sum(), 1))  # fmt: skip
    x = (vectors - mean) * scale
    rng = np.random.default_rng(seed)
    held = _held(len(x), rng)
    asked = np.sort(rng.permutation(flags.shape[1])[:MOST_CHOOSING])
    losses = []
    for strength in STRENGTHS:
        weight, offset = _fit_all(x[~held], flags[~held][:, asked], strength)
        p = 1.0 / (1.0 + np.exp(-(x[held] @ weight.T + offset)))
        losses.append(log_loss(flags[held][:, asked], p))
    weight, offset = _fit_all(x, flags, STRENGTHS[int(np.argmin(losses))])
    weight = weight * scale
    return weight, offset - weight @ mean


def _held(n: int, rng: np.random.Generator) -> "Flags":
    """Choose the genes that are held back."""
    held = np.zeros(n, bool)
    held[rng.permutation(n)[: n // CHOOSING_SHARE]] = True
    return held


def log_loss(flags: "Flags", probability: "Values") -> float:
    """Return the mean of −log p over genes and labels, p at least 10⁻⁶.

    Parameters
    ----------
    flags, probability
        Shape (gene, label).
    """
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return float(-np.where(flags, np.log(p), np.log1p(-p)).mean())


def _fit_all(x: "Values", flags: "Flags", strength: float) -> "tuple[Values, Values]":
    models = [_fit_one(x, flags[:, column], strength) for column in range(flags.shape[1])]
    return np.stack([weight for weight, _ in models]), np.array([offset for _, offset in models])


def _fit_one(x: "Values", true: "Flags", strength: float) -> "tuple[Values, float]":
    from sklearn.linear_model import LogisticRegression

    if true.all() or not true.any():  # a label may be in one fold alone
        return np.zeros(x.shape[1]), CERTAIN if true.all() else -CERTAIN
    model = LogisticRegression(C=strength, max_iter=N_ITERATIONS).fit(x, true)
    return model.coef_[0], float(model.intercept_[0])


def _perceptron(
    x: "Values", flags: "Flags", held: "Flags", seed: int
) -> "Callable[[Values], Values]":
    best = np.inf, PENALTIES[0], 1
    for penalty in PENALTIES:
        run = _Perceptron(flags.shape[1], penalty, seed)
        since = 0
        for epoch in range(1, N_EPOCHS + 1):
            run.train(x[~held], flags[~held])
            loss = log_loss(flags[held], run(x[held]))
            since += 1
            if loss < best[0]:
                best, since = (loss, penalty, epoch), 0
            if since >= PATIENCE:
                break
    chosen = _Perceptron(flags.shape[1], best[1], seed)
    for _ in range(best[2]):
        chosen.train(x, flags)
    return chosen


class _Perceptron:
    """scikit-learn's, an epoch at a time."""

    def __init__(self, n_labels: int, penalty: float, seed: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self._n_labels = n_labels
        self._model = MLPClassifier(
            hidden_layer_sizes=(N_HIDDEN,),
            alpha=penalty,
            batch_size=STEP_GENES,
            learning_rate_init=RATE,
            # A state that goes on: a number would give every epoch the same order.
            random_state=np.random.RandomState(seed),
        )

    def train(self, x: "Values", flags: "Flags") -> None:
        self._model.batch_size = min(STEP_GENES, len(x))
        single = self._n_labels == 1
        y = flags[:, 0] if single else flags.astype(np.int64)
        classes = np.array([False, True]) if single else np.arange(self._n_labels)
        self._model.partial_fit(x, y, classes=classes)

    def __call__(self, z: "Values") -> "Values":
        p = np.asarray(self._model.predict_proba(z), np.float64)
        return p[:, 1:] if self._n_labels == 1 else p
