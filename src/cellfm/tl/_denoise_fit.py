"""From blocks of counts to denoised values: states, calibration on a sample of the cells, rates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cellfm.corpus.draw import child, key_of
from cellfm.corpus.ragged import cell_totals, vocabulary_counts
from cellfm.corpus.rows import RowSource
from cellfm.errors import ConfigError, DataError, GeneMatchError
from cellfm.genes import GeneMatch, Vocabulary, resolve
from cellfm.genes.near import near_symbols
from cellfm.tl._denoise_rates import (
    Calibration,
    CellSummary,
    RateDecoder,
    best_shape,
    has_detection,
    mean_log_values,
    posterior,
)
from cellfm.tl._states import BLOCK, EmbedOptions, StateEncoder
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

Output = Literal["counts", "log1p_cp10k", "mean_log1p_cp10k"]
OUTPUTS = ("counts", "log1p_cp10k", "mean_log1p_cp10k")
FITTED_CELLS = 2000
"""Cells that the calibration is fitted on at most."""
SHAPE_CELLS, SHAPE_GENES = 500, 2000
"""Cells, and genes with the most counts, that the shape of the prior is chosen on at most."""
LEAST_CELLS = 20
"""Cells that a calibration needs."""
_SAMPLE = -5  # a stream that training never uses
_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseOptions:
    """Everything that decides the numbers, apart from weights, counts and genes."""

    output: Output = "counts"
    calibrate: bool = True
    own_counts: bool = True
    seed: int = 0
    embed: EmbedOptions = field(default_factory=EmbedOptions)

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            msg = f"output is {self.output!r}; it must be one of {', '.join(map(repr, OUTPUTS))}. Choose one of these."
            raise ConfigError(msg)
        if self.own_counts and not self.calibrate:
            msg = (
                "own_counts=True weighs the cell's counts against calibrated expectations, and calibrate is False; "
                "say own_counts=False too, or leave calibrate alone."
            )
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Denoiser:
    """Turns blocks of counts into denoised values of chosen genes."""

    model: Pretrained
    match: GeneMatch
    token: "NDArray[np.integer]"
    """Distinct genes, in the order of the columns that :meth:`denoise` returns."""
    decoder: RateDecoder
    fitted: Calibration
    options: DenoiseOptions
    encoder: StateEncoder
    n_fitted: int = 0
    """Cells that the calibration was fitted on."""

    def denoise(self, block: "csr_matrix", first_row: int) -> "NDArray[np.float32]":
        """Return the values of some rows, shape (row, gene); NaN for cells without counts where these are allowed.

        Parameters
        ----------
        block
            Counts of the rows.
        first_row
            Number of the first of them.
        """
        state = self.encoder.encode(block, first_row)
        cells, count = _summary(block, self.match, self.token, state)
        rate = posterior(self.decoder.expected(cells, self.fitted), count, self.fitted.shape)
        if self.options.output == "counts":
            return rate
        if self.options.output == "log1p_cp10k":
            return np.log1p(rate / np.maximum(cells.total, 1)[:, None] * np.float32(1e4))
        values = mean_log_values(np.nan_to_num(rate), cells.total)
        values[np.isnan(state[:, 0])] = np.nan
        return values


def make_denoiser(
    source: RowSource,
    match: GeneMatch,
    model: Pretrained,
    *,
    token: "NDArray[np.int32]",
    options: DenoiseOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Denoiser:
    """Fit the calibration on a sample of the rows.

    Parameters
    ----------
    source
        Raw counts.
    match
        Vocabulary token of each column.
    model
        Weights.
    token
        Distinct genes that are wanted.
    options
        What is wanted.
    progress
        Called with (blocks done, blocks in all) of the fit.
    """
    if not model.network.config.decoders:
        msg = f"The weights {model.path or 'in memory'} carry no decoders, which denoising reads; take weights with decoders."
        raise ConfigError(msg)
    encoder = StateEncoder(model, match, options.embed, n_cells=source.n_rows)
    decoder = RateDecoder(model.network, token)
    made = Denoiser(
        model=model,
        match=match,
        token=token,
        decoder=decoder,
        fitted=Calibration.none(len(token)),
        options=options,
        encoder=encoder,
    )
    if not options.calibrate:
        return made
    sample = _sample_rows(source, options.seed)
    cells, count = _encoded(sample, made, progress)
    fitted = decoder.calibrate(cells, count)
    if options.own_counts:
        fitted = replace(fitted, shape=_fit_shape(sample, made, progress))
    return replace(made, fitted=fitted, n_fitted=len(cells.state))


def genes_wanted(
    genes: Sequence[str] | None, match: GeneMatch, vocabulary: Vocabulary, *, measured: bool
) -> "NDArray[np.int32]":
    """Return the token of each gene asked for.

    Parameters
    ----------
    genes
        Names as `resolve` takes them; None for all matched genes of the input.
    match
        Of the input.
    vocabulary
        Of the model.
    measured
        Whether each must be among the genes of the input.

    Raises
    ------
    GeneMatchError
        A gene is not in the vocabulary, or not in the input though it must be.
    DataError
        No gene, or one gene twice, was asked for.
    """
    if genes is None:
        return np.unique(match.token[match.token > 0])
    names = [str(name) for name in genes]
    if not names:
        msg = "genes is empty; name at least one gene, or leave it out for all."
        raise DataError(msg)
    token = resolve(names, vocabulary, min_matched=0.0).token
    _refuse_unknown([n for n, t in zip(names, token, strict=True) if t == 0], vocabulary)
    order, number = np.unique(token, return_counts=True)
    if (number > 1).any():
        twice = vocabulary.symbols[int(order[number > 1][0]) - 1]
        same = [n for n, t in zip(names, token, strict=True) if vocabulary.symbols[t - 1] == twice]
        msg = f"{', '.join(same)} are one gene ({twice}); ask for each gene once."
        raise DataError(msg)
    absent = [n for n, t in zip(names, token, strict=True) if t not in match.token]
    if measured and absent:
        msg = (
            f"{len(absent)} of {len(names)} genes are in the vocabulary but not in the data ({', '.join(absent[:10])}): their level "
            "cannot be fitted on it. Leave them out, or say calibrate=False, own_counts=False to get the decoder's own numbers."
        )
        raise GeneMatchError(msg)
    return token


def _refuse_unknown(unknown: Sequence[str], vocabulary: Vocabulary) -> None:
    if not unknown:
        return
    shown = []
    for name in unknown[:10]:
        close = near_symbols(name, vocabulary.symbols)
        shown.append(f"{name} (did you mean {', '.join(close)}?)" if close else name)
    more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
    msg = f"Not in the model's vocabulary of {len(vocabulary):,} genes: {', '.join(shown)}{more}. Correct the names or leave them out."
    raise GeneMatchError(msg)


def _sample_rows(source: RowSource, seed: int) -> "csr_matrix":
    """Read the rows whose numbers hash lowest, and of these the ones with counts."""
    from scipy import sparse

    number = np.arange(source.n_rows, dtype=np.int64)
    order = np.argsort(child(key_of(seed, _SAMPLE), number), kind="stable")
    rows = np.sort(order[:FITTED_CELLS])
    if len(rows) == source.n_rows:
        return sparse.vstack([source.read(i, min(i + BLOCK, source.n_rows)) for i in range(0, source.n_rows, BLOCK)], format="csr")  # fmt: skip
    parts = []
    for start in range(0, source.n_rows, BLOCK):
        mine = rows[(rows >= start) & (rows < start + BLOCK)]
        if len(mine):
            parts.append(source.read(start, min(start + BLOCK, source.n_rows))[mine - start])
    return sparse.vstack(parts, format="csr")


def _encoded(
    block: "csr_matrix", made: Denoiser, progress: Callable[[int, int], None] | None = None
) -> "tuple[CellSummary, NDArray[np.float32]]":
    """States, depths and counts of the rows that have any."""
    options = replace(made.options.embed, empty="nan")
    encoder = StateEncoder(
        made.model, made.match, options, n_cells=block.shape[0], routed=made.encoder.routed
    )
    states = []
    for start in range(0, block.shape[0], BLOCK):
        states.append(encoder.encode(block[start : start + BLOCK], start))
        if progress is not None:
            progress(min(start + BLOCK, block.shape[0]), block.shape[0])
    state = np.concatenate(states)
    kept = np.isfinite(state[:, 0])
    if kept.sum() < LEAST_CELLS:
        msg = (
            f"{int(kept.sum())} cells have counts, and a calibration needs at least {LEAST_CELLS}. Give more cells, or say "
            "calibrate=False, own_counts=False to get the decoder's own numbers."
        )
        raise DataError(msg)
    return _summary(block[kept], made.match, made.token, state[kept])


def _fit_shape(
    sample: "csr_matrix", made: Denoiser, progress: Callable[[int, int], None] | None
) -> float:
    """Thin the sample to two halves and choose α."""
    whole = sample[:: -(-sample.shape[0] // SHAPE_CELLS)].astype(np.int64)
    made = _on_expressed(whole, made)
    shown = whole.copy()
    shown.data = np.random.default_rng(made.options.seed).binomial(whole.data, _HALF)
    held = (whole - shown).tocsr()
    cells, count = _encoded(shown.astype(np.float32), made, progress)
    fitted = made.decoder.calibrate(cells, count)
    kept = np.asarray(shown[:, made.match.token > 0].sum(axis=1)).ravel() > 0
    _, rest = _summary(held.astype(np.float32)[kept], made.match, made.token, cells.state)
    return best_shape(made.decoder.expected(cells, fitted), count, rest)[0]


def _on_expressed(whole: "csr_matrix", made: Denoiser) -> Denoiser:
    """Return the denoiser for the genes with the most counts: few genes that are asked for would not tell a shape."""
    token = made.match.token
    total = np.bincount(token, weights=np.asarray(whole.sum(axis=0)).ravel())
    total[0] = 0
    most = np.sort(np.argsort(-total, kind="stable")[:SHAPE_GENES])
    most = np.asarray(most[total[most] > 0], np.int32)
    return replace(made, token=most, decoder=RateDecoder(made.model.network, most))


def _summary(
    block: "csr_matrix",
    match: GeneMatch,
    token: "NDArray[np.integer]",
    state: "NDArray[np.float32]",
) -> "tuple[CellSummary, NDArray[np.float32]]":
    """Depths, numbers of genes, and dense counts of the wanted genes."""
    ragged = vocabulary_counts(block, match.token)
    place = np.full(max(int(match.token.max(initial=0)), int(token.max(initial=0))) + 1, -1)
    place[token] = np.arange(len(token))
    column = place[ragged.gene]
    row = np.repeat(np.arange(len(ragged.lengths)), ragged.lengths)
    count = np.zeros((len(ragged.lengths), len(token)), np.float32)
    count[row[column >= 0], column[column >= 0]] = ragged.count[column >= 0]
    total = cell_totals(ragged.count, ragged.offsets).astype(np.float32)
    lengths = ragged.lengths.astype(np.float32)
    return CellSummary(state=state, total=total, n_genes=lengths), count


def record(made: Denoiser) -> dict[str, object]:
    """Return what is noted about the fit.

    Parameters
    ----------
    made
        The denoiser.
    """
    return {
        "output": made.options.output,
        "setting": "fitted on the data" if made.options.calibrate else "zero_shot",
        "calibrate": made.options.calibrate,
        "own_counts": made.options.own_counts,
        "own_counts_shape": float(made.fitted.shape),
        "fitted_cells": made.n_fitted,
        "detection_head": has_detection(made.model.network),
        "seed": made.options.seed,
    }
