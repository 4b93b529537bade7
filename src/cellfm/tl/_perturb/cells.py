"""Predicted responses → cells: counts that start from real control cells, under the names of their genes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.conditions import CONTROL, parse_condition
from cellfm.errors import DataError
from cellfm.tl._bound_weights import describe_weights
from cellfm.tl._labels import label_column
from cellfm.tl._perturb.data import PerturbOptions, read_counts, symbols_of
from cellfm.tl._response.baselines import Prediction
from cellfm.tl._response.cells import sample_cells
from cellfm.tl._response.collapse import collapse
from cellfm.tl._response.responses import Responses
from cellfm.tl._response.transfer import sensitivity, transfer_response
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

LEAST_GENES = 0.5
"""Share of the genes of the training data that the cells must have."""


class Trained(Protocol):
    """What of a trained model is needed here."""

    @property
    def model(self) -> Pretrained:
        """Weights."""

    @property
    def responses(self) -> Responses:
        """What it was fitted to."""


def predicted_cells(
    trained: Trained,
    adata: "AnnData",
    answer: Prediction,
    *,
    n_cells: int | None,
    options: PerturbOptions,
    transfer: bool,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> "AnnData":
    """Sample cells of each predicted response; as `PerturbationModel.predict`.

    Parameters
    ----------
    trained
        Genes and controls of the training.
    adata
        Control cells.
    answer
        Predicted responses.
    n_cells, options, transfer, seed, progress
        As in `PerturbationModel.predict`.
    """
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

    rows = control_rows(adata.obs, options)
    counts, names, symbols = read_cells(adata, rows, trained.model, options)
    column = align_genes(trained.responses, symbols)
    delta, sd = (_on_genes(part, column, len(names)) for part in (answer.delta, answer.sd))
    wanted = np.nan_to_num(delta)
    if transfer:
        wanted = _moved(wanted, trained.responses, counts, column)
    rng = np.random.default_rng(seed)
    blocks, obs = [counts.astype(np.int32)], [_table(adata.obs, rows, CONTROL)]
    missed = []
    for number, (condition, row) in enumerate(zip(answer.conditions, wanted, strict=True)):
        made = sample_cells(counts, row, rng=rng, n_cells=n_cells)
        blocks.append(made.counts)
        obs.append(_table(adata.obs, rows[made.source], condition.name))
        missed.append(int(made.missed.sum()))
        if progress is not None:
            progress(number + 1, len(wanted))
    table = pd.concat(obs)
    table["perturbation"] = table["perturbation"].astype("category")
    result = AnnData(
        sparse.vstack(blocks, format="csr"),
        obs=table,
        var=adata.var.copy() if not options.use_raw else adata.raw.var.copy(),
    )
    conditions = [each.name for each in answer.conditions]
    for key, values in (("delta", np.where(np.isnan(delta), np.nan, wanted)), ("delta_sd", sd)):
        result.varm[key] = pd.DataFrame(values.T, index=result.var_names, columns=conditions)
    result.uns["cellfm"] = {
        "perturbation": describe(trained, answer)
        | {"seed": seed, "genes_missed": np.array(missed), "conditions": np.array(conditions)}
    }
    return result


def describe(trained: Trained, answer: Prediction) -> dict[str, object]:
    """Return provenance and warnings of a prediction, storable in h5ad.

    Parameters
    ----------
    trained
        Weights.
    answer
        Predicted responses.
    """
    told = {key: value for key, value in describe_weights(trained.model).items() if value is not None}  # fmt: skip
    told["warnings"] = np.array(warnings_of(answer, trained.responses), dtype=str)
    return told | {"cellfm_version": __version__}


def warnings_of(answer: Prediction, train: Responses) -> list[str]:
    """Say what is wrong with predictions as a whole: that those of unlike perturbations are alike.

    Parameters
    ----------
    answer
        Predicted responses.
    train
        What responses to unlike perturbations look like.
    """
    if len(answer.conditions) < 3:
        return []
    found = collapse(answer.delta, train.delta, train.own_variance)
    return [found.message] if found.collapsed else []


def control_rows(obs: "pd.DataFrame", options: PerturbOptions) -> "NDArray[np.int64]":
    """Return the rows of control cells: all where there is no column of perturbations.

    Parameters
    ----------
    obs
        Table of the cells.
    options
        Name of the column, and what controls are called.

    Raises
    ------
    DataError
        No cell is a control.
    """
    if options.perturbation not in obs.columns:
        return np.arange(len(obs))
    entries = label_column(obs, options.perturbation, what="cells")
    extra = () if options.control is None else (options.control,)
    is_control = {
        name: bool(name) and not parse_condition(name, controls=extra).genes
        for name in set(entries.tolist())
    }
    rows = np.flatnonzero([is_control[name] for name in entries.tolist()])
    if not len(rows):
        msg = (
            f"No cell is a control: obs[{options.perturbation!r}] has {', '.join(map(repr, sorted(is_control)[:8]))}. Predictions start from "
            "unperturbed cells: say what they are called (control=…, --control), or take the column out if all are."
        )
        raise DataError(msg)
    return rows


def read_cells(
    adata: "AnnData", rows: "NDArray[np.int64]", model: Pretrained, options: PerturbOptions
) -> "tuple[csr_matrix, tuple[str, ...], tuple[str, ...]]":
    """Return counts of some rows, the names of the genes, and their vocabulary symbols.

    Parameters
    ----------
    adata
        Cells × genes.
    rows
        Which cells.
    model
        With the vocabulary.
    options
        Where the counts are.

    Raises
    ------
    DataError
        A cell has no counts.
    CountsError
        The values are no counts.
    GeneMatchError
        Too few genes are known.
    """
    counts, names, match = read_counts(adata, rows, model.vocabulary, options)
    return counts, names, symbols_of(match, names, model.vocabulary)


def align_genes(train: Responses, symbols: Sequence[str]) -> "NDArray[np.int64]":
    """Return the column of each training gene among the genes of the cells, −1 for none.

    Parameters
    ----------
    train
        Genes of the training.
    symbols
        Vocabulary symbols of the genes of the cells.

    Raises
    ------
    DataError
        The cells lack most of them.
    """
    place = {name: number for number, name in reversed(list(enumerate(symbols)))}
    column = np.array([place.get(name, -1) for name in train.symbol], np.int64)
    share = float((column >= 0).mean())
    if share < LEAST_GENES:
        msg = (
            f"The cells have {share:.0%} of the {len(column):,} genes that responses were learned of; at least {LEAST_GENES:.0%} are needed. "
            "Give cells of the same panel, or train on genes that both have."
        )
        raise DataError(msg)
    return column


def _on_genes(
    values: "NDArray[np.float64]", column: "NDArray[np.int64]", n_genes: int
) -> "NDArray[np.float64]":
    """Spread responses over the genes of the cells; NaN where nothing was learned."""
    spread = np.full((len(values), n_genes), np.nan)
    there = column >= 0
    spread[:, column[there]] = values[:, there]
    return spread


def _moved(
    delta: "NDArray[np.float64]",
    train: Responses,
    counts: "csr_matrix",
    column: "NDArray[np.int64]",
) -> "NDArray[np.float64]":
    """Move responses to the expression of these cells."""
    there = column >= 0
    new = sensitivity(counts)[column[there]]
    moved = delta.copy()
    moved[:, column[there]] = transfer_response(
        delta[:, column[there]], train.sensitivity[there], new
    )
    return moved


def _table(obs: "pd.DataFrame", rows: "NDArray[np.integer]", name: str) -> "pd.DataFrame":
    """Facts of the cells that predicted ones start from."""
    table = obs.iloc[rows].copy()
    names = table.index.astype(str)
    table["source"], table["perturbation"] = names.to_numpy(), name
    if name != CONTROL:
        table.index = [f"{cell}_{name}_{number}" for number, cell in enumerate(names)]
    return table
