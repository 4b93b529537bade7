"""Cross-validated scores of an embedding of genes and of its controls, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.tl._genes.controls import STATISTICS
from cellfm.tl._genes.function_folds import Protocol, deal, frequencies
from cellfm.tl._genes.function_scores import auprc, fmax, fold_auroc, mcc
from cellfm.tl._genes.labels import LabelledGenes

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Numbers = NDArray[np.int64]

OutOfFold = Callable[["Flags", "Numbers", int], "Values"]
"""Flags (gene, label), the fold of each gene and a seed → the probability of each label by what has not seen the labels of the gene's fold."""
CANDIDATE, FREQUENCY, FROZEN = "cellfm", "term frequency", "frozen states"
N_DRAWS = 1000
TAILS = (2.5, 97.5)
LEVEL = 0.05
"""With a permutation p above it labels count as not found, whatever the interval."""
PROTOCOLS = {
    "random": "genes dealt at random",
    "families": "families kept together",
    "groups": "gene groups kept together",
}
METRICS = ("auroc", "auprc", "mcc", "fmax")
"""The first is the primary one: it has the interval, the differences and the permutation p."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """How labels are cross-validated.

    Attributes
    ----------
    n_repeats, n_folds
        Of the cross-validation.
    n_permutations
        Of the labels of the candidate.
    seed
        Of folds, resamples and permutations.
    """

    n_repeats: int
    n_folds: int
    n_permutations: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """Out-of-fold scores of one method.

    Attributes
    ----------
    scores
        Metrics of each repeat, shape (repeat, metric).
    value
        The primary metric, mean over repeats.
    draws
        Of the primary metric in resamples, which all methods share.
    labels
        The primary metric of each label, mean over repeats.
    n_random
        Draws of random numbers that all of this is the mean of.
    spread
        Standard deviation of the primary metric between these draws; NaN of one.
    """

    scores: "Values"
    value: float
    draws: "Values"
    labels: "Values"
    n_random: int = 1
    spread: float = float("nan")

    @classmethod
    def mean(cls, tested: "Sequence[Tested]") -> "Tested":
        """Return the means over draws of random numbers.

        Parameters
        ----------
        tested
            A method, each time with other random numbers.
        """
        if len(tested) == 1:
            return tested[0]
        values = [each.value for each in tested]
        return cls(
            scores=np.mean([each.scores for each in tested], axis=0),
            value=float(np.mean(values)),
            draws=np.mean([each.draws for each in tested], axis=0),
            labels=np.mean([each.labels for each in tested], axis=0),
            n_random=len(tested),
            spread=float(np.std(values, ddof=1)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What one protocol says of all methods.

    Attributes
    ----------
    table
        A row for each method.
    repeats
        A row for each method and repeat.
    labels
        AUROC of each label, a column for each method.
    """

    table: "pd.DataFrame"
    repeats: "pd.DataFrame"
    labels: "pd.DataFrame"


def judge(
    genes: LabelledGenes,
    methods: "Mapping[str, Sequence[OutOfFold]]",
    families: "Numbers | None",
    protocol: Protocol,
    *,
    validation: Validation,
    tell: Callable[[], None],
) -> Judged:
    """Cross-validate every method on the same folds.

    Intervals are percentiles of a bootstrap over genes (of families where these are kept together, over terms where genes have several
    labels), paired between methods. They take the fitted heads as given, so of few genes they
    are somewhat narrow; the permutation p, of heads that are fitted anew, is not.

    Parameters
    ----------
    genes
        Labelled genes.
    methods
        What predicts the labelled genes, once for each draw of random numbers, whose means are taken; the first is the candidate.
    families
        Number of each labelled gene's family, which stays in one fold; None deals single genes.
    protocol
        Name of that.
    validation
        How.
    tell
        Called after each cross-validation.
    """
    seeds = [validation.seed + number for number in range(validation.n_repeats)]
    folds = [deal(genes, families, n_folds=validation.n_folds, seed=seed) for seed in seeds]
    draw = _resamples(genes, families, seed=validation.seed)
    tested = {}
    for name, own in methods.items():
        draws = []
        for predict in own:
            predicted = []
            for fold, seed in zip(folds, seeds, strict=True):
                predicted.append(predict(genes.flags, fold, seed))
                tell()
            draws.append(_test(genes, predicted, folds, draw))
        tested[name] = Tested.mean(draws)
    if genes.task == "multilabel":
        predicted = [frequencies(genes.flags, fold) for fold in folds]
        tested[FREQUENCY] = _test(genes, predicted, folds, draw)
    p = _permutation_p(
        genes,
        next(iter(methods.values()))[0],
        families,
        observed=float(next(iter(tested.values())).scores[0, 0]),
        validation=validation,
        tell=tell,
    )
    return Judged(
        table=_table(tested, protocol, len(genes.rows), p),
        repeats=_repeats(tested, protocol),
        labels=_labels(tested, protocol, genes),
    )


def _test(
    genes: LabelledGenes, predicted: "list[Values]", folds: "list[Numbers]", draw: "Values"
) -> Tested:
    scores = np.array([_scores(genes, p, fold) for p, fold in zip(predicted, folds, strict=True)])
    columns = range(genes.flags.shape[1])
    each = np.mean([_label_auroc(genes, p, f) for p, f in zip(predicted, folds, strict=True)], axis=0)  # fmt: skip
    if genes.task == "multilabel":
        draws = each[draw.astype(np.int64)].mean(axis=1)
    else:
        draws = np.mean(
            [
                fold_auroc(genes.flags[:, c], p[:, c], fold, draw)
                for p, fold in zip(predicted, folds, strict=True)
                for c in columns
            ],
            axis=0,
        )
    return Tested(scores=scores, value=float(scores[:, 0].mean()), draws=draws, labels=each)


def _label_auroc(genes: LabelledGenes, p: "Values", fold: "Numbers") -> "Values":
    """AUROC of each label, shape (label,)."""
    columns = range(genes.flags.shape[1])
    return np.array([fold_auroc(genes.flags[:, c], p[:, c], fold)[0] for c in columns])


def _scores(genes: LabelledGenes, p: "Values", fold: "Numbers") -> tuple[float, ...]:
    """Return the metrics of one repeat, means over labels but for those of all labels at once."""
    flags = genes.flags
    precision = float(np.mean([auprc(flags[:, c], p[:, c]) for c in range(flags.shape[1])]))
    if genes.task == "multiclass":
        matthews = mcc(flags.argmax(axis=1), p.argmax(axis=1))
    else:  # a rare label is never more probable than not: it is called where more probable than among all genes
        called = p > flags.mean(axis=0)
        matthews = float(np.mean([mcc(flags[:, c], called[:, c]) for c in range(flags.shape[1])]))
    best = float(fmax(flags, p)[0]) if genes.task == "multilabel" else float("nan")
    return float(_label_auroc(genes, p, fold).mean()), precision, matthews, best


def _resamples(genes: LabelledGenes, grouped: "Numbers | None", *, seed: int) -> "Values":
    """Drawn terms, shape (draw, term), or weights of genes, shape (draw, gene)."""
    rng = np.random.default_rng(seed)
    n_genes, n_labels = genes.flags.shape
    if genes.task == "multilabel":
        return rng.integers(n_labels, size=(N_DRAWS, n_labels)).astype(np.float64)
    unit = np.arange(n_genes) if grouped is None else np.unique(grouped, return_inverse=True)[1]
    n_units = int(unit.max()) + 1
    return rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=N_DRAWS)[:, unit].astype(np.float64)  # fmt: skip


def _permutation_p(
    genes: LabelledGenes,
    predict: OutOfFold,
    grouped: "Numbers | None",
    *,
    observed: float,
    validation: Validation,
    tell: Callable[[], None],
) -> float:
    """Share of permuted labels that are found as well as the true ones, (1 + b) / (1 + n); the heads are fitted anew (Ojala & Garriga 2010)."""
    rng = np.random.default_rng(validation.seed + 1)
    n_better = 0
    for _ in range(validation.n_permutations):
        shuffled = replace(genes, flags=genes.flags[rng.permutation(len(genes.rows))])
        fold = deal(shuffled, grouped, n_folds=validation.n_folds, seed=validation.seed)
        p = predict(shuffled.flags, fold, validation.seed)
        n_better += float(_label_auroc(shuffled, p, fold).mean()) >= observed
        tell()
    n = validation.n_permutations
    return (1 + n_better) / (1 + n) if n else float("nan")


def _table(tested: Mapping[str, Tested], protocol: str, n_genes: int, p: float) -> "pd.DataFrame":
    import pandas as pd

    candidate = next(iter(tested.values()))
    rows = []
    for name, each in tested.items():
        low, high = np.nanpercentile(each.draws, TAILS)
        row = {"protocol": protocol, "method": name, "n": n_genes}
        row |= {METRICS[0]: each.value, f"{METRICS[0]}_low": low, f"{METRICS[0]}_high": high}
        row |= dict(zip(METRICS[1:], each.scores.mean(axis=0)[1:].tolist(), strict=True))
        row |= {"n_random": each.n_random, "spread": each.spread}
        if each is candidate:
            row |= {"p": p}
        else:
            low, high = np.nanpercentile(candidate.draws - each.draws, TAILS)
            row |= {
                "difference": candidate.value - each.value,
                "difference_low": low,
                "difference_high": high,
            }
        rows.append(row)
    return pd.DataFrame(rows).set_index(["protocol", "method"])


def _repeats(tested: Mapping[str, Tested], protocol: str) -> "pd.DataFrame":
    import pandas as pd

    return pd.concat(
        [
            pd.DataFrame(each.scores, columns=list(METRICS)).assign(
                protocol=protocol, method=name, repeat=range(len(each.scores))
            )
            for name, each in tested.items()
        ]
    ).set_index(["protocol", "method", "repeat"])


def _labels(tested: Mapping[str, Tested], protocol: str, genes: LabelledGenes) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame({name: each.labels for name, each in tested.items()})
    table.insert(0, "n_genes", genes.flags.sum(axis=0))
    table.insert(0, "label", list(genes.names))
    return table.assign(protocol=protocol).set_index(["protocol", "label"])


def verdict(table: "pd.DataFrame") -> str:
    """Say what a table of scores shows, and what it does not, a sentence for each protocol.

    Parameters
    ----------
    table
        Of `GeneFunction`.
    """
    said = []
    for protocol in table.index.get_level_values("protocol").unique():
        part = table.loc[protocol]
        own, rivals = part.iloc[0], part.iloc[1:]
        low, high = own["auroc_low"], own["auroc_high"]
        found = low > 0.5 and not own["p"] > LEVEL
        first = "above chance" if found else "not told apart from chance"
        best = str(rivals["auroc"].idxmax())
        beside = rivals.loc[best]
        if beside["difference_low"] > 0:
            second = "ahead of"
        else:
            second = "behind" if beside["difference_high"] < 0 else "not told apart from"
        p = "" if np.isnan(own["p"]) else f", permutation p {own['p']:.3g}"
        said.append(
            f"With {PROTOCOLS[str(protocol)]}, labels are found with an AUROC of {own['auroc']:.3f} [{low:.3f}, {high:.3f}]{p}: {first} (0.5) and {second} the best "
            f"control, {best} ({beside['auroc']:.3f}; difference {beside['difference']:+.3f} [{beside['difference_low']:+.3f}, {beside['difference_high']:+.3f}])."
        )
    said += _tuned(table)
    if STATISTICS not in table.index.get_level_values("method"):
        said.append("Without cells there is no control by expression: what these labels owe to it is not known.")  # fmt: skip
    return " ".join(said)


def _tuned(table: "pd.DataFrame") -> list[str]:
    """Say what fine-tuning has changed of the frozen states, a sentence for each protocol."""
    said = []
    for protocol in table.index.get_level_values("protocol").unique():
        part = table.loc[protocol]
        if FROZEN in part.index:
            row = part.loc[FROZEN]
            low, high = row["difference_low"], row["difference_high"]
            what = "improves on" if low > 0 else "is behind" if high < 0 else "is not told apart from"  # fmt: skip
            said.append(
                f"Fine-tuning {what} the states of the frozen model by AUROC with {PROTOCOLS[str(protocol)]} ({row['difference']:+.3f} [{low:+.3f}, {high:+.3f}])."
            )
    return said
