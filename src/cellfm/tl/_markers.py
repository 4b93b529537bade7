"""Marker genes of each type: those an annotator goes by, with their expression beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cellfm.batch import CellBatch
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.counts import Scale, refuse_empty_rows
from cellfm.corpus.ragged import cell_totals, log_values
from cellfm.corpus.tune_batches import ordered_batches
from cellfm.errors import ConfigError, DataError
from cellfm.nn.attribution import Attribution, Scores, attribute, weighted_mean
from cellfm.nn.encoder import CellFM
from cellfm.tl._annotator import Annotator
from cellfm.tl._annotator_heads import FrozenScorer, TunedScorer
from cellfm.tl._annotator_job import as_annotator
from cellfm.tl._classical import Linear
from cellfm.tl._embed import match_genes
from cellfm.tl._states import EmbedOptions, whitening_of
from cellfm.weights.folder import Pretrained
from cellfm.weights.whitening import Whitening

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

Progress = Callable[[int, int], None]

TOKENS = 8192
"""Genes of a batch: a gradient keeps the states of all layers."""
LEAST = 1e-9
"""Added to means before their ratio is taken."""


def marker_genes(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    annotator: Annotator | str | Path,
    model: Pretrained | str | Path | None = None,
    *,
    label: str | None = None,
    groupby: str | None = None,
    n_genes: int | None = 20,
    n_cells: int = 200,
    method: Attribution = "gradient",
    n_steps: int = 32,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    device: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    progress: Progress | None = None,
) -> "pd.DataFrame":
    """List the genes by which an annotator tells each type from the others, with their expression beside them.

    A gene's attribution is the mean over cells of the type (0 in those that do not express it) of its attribution to
    the score of the type against the mean score of all types; see :func:`cellfm.nn.attribution.attribute`. It says what the annotator
    goes by, which need not be what is expressed most differently, and less that a gene matters to the cell.

    Parameters
    ----------
    adata
        Cells × genes, such as the reference of the annotator.
    annotator
        From `train_annotator` with strength linear, lora or finetune, or the folder of one.
    model
        The weights it was trained with; None looks where they were then.
    label
        Label column of the annotator; None for the first.
    groupby
        Column of ``obs`` with the types of the cells; None takes the annotator's own calls.
    n_genes
        Genes a type; None for all that are expressed in a cell that was looked at.
    n_cells
        Cells of a type that are looked at, drawn at random when there are more.
    method
        ``"gradient"`` (gradient × input), or ``"integrated"`` gradients, `n_steps` times as slow.
    n_steps
        Gradients an integral is computed of.
    layer, use_raw, gene_names, scale, device, min_matched
        As in `embed`.
    seed
        Of the choice of cells.
    progress
        Called with (types done, types in all).

    Returns
    -------
    A row for each type and gene, highest attribution first: ``type``, ``rank`` (from 1), ``gene``, ``attribution``; then of all cells of the type and of all
    others ``mean_in``, ``mean_out`` (log1p of counts per 10⁴), ``log2_fold_change`` (of the mean counts per 10⁴), ``detected_in``, ``detected_out``
    (share of cells) and ``auroc`` (how well the gene alone tells the type, 0.5 for not at all). Nothing is written.

    Raises
    ------
    ConfigError
        The annotator's scores have no gradient (strength knn), or its labels do not exclude each other.
    DataError
        There is no such column, or no cell of any type of the annotator.
    WeightsError
        The weights are others than those it was trained with.
    GeneMatchError, CountsError
        As in `embed`.

    Examples
    --------
    >>> table = cellfm.tl.marker_genes(
    ...     reference, "annotator", groupby="cell_type"
    ... )  # doctest: +SKIP
    """
    trained = as_annotator(annotator, model, device=device)
    column = _column(trained, label)
    if method not in ("gradient", "integrated"):
        msg = f"method is {method!r}; it must be 'gradient' or 'integrated'. Choose one of these."
        raise ConfigError(msg)
    if n_cells < 1 or (n_genes is not None and n_genes < 1):
        msg = f"n_cells is {n_cells} and n_genes {n_genes}; both must be at least 1. Give a number in that range."
        raise ConfigError(msg)
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        min_matched=min_matched,
    )
    module, scores = _scored(trained, column)
    scored = _Scored(module=module, scores=scores, method=method, n_steps=n_steps)
    types = trained.columns[column].labels.classes
    code = _types_of(adata, trained, column, groupby=groupby, options=options)
    genes = _Genes.read(adata, trained.model, options)
    rng = np.random.default_rng(seed)
    tables, present = [], np.flatnonzero(np.bincount(code[code >= 0], minlength=len(types)))
    for done, one in enumerate(present.tolist()):
        rows = rng.permutation(np.flatnonzero(code == one))[:n_cells]
        mean = _mean_attribution(scored, genes, np.sort(rows), one)
        order = genes.ranked(mean, rows)[:n_genes]
        tables.append(genes.table(types[one], order, mean, code == one))
        if progress is not None:
            progress(done + 1, len(present))
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scored:
    """What gradients are taken of, and how."""

    module: nn.Module
    scores: Scores
    method: Attribution
    n_steps: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Genes:
    """The cells as the network reads them, and the names of their genes."""

    cells: InMemoryCells
    value: "csr_matrix"
    """log1p of counts per 10⁴, cell × token."""
    name: "NDArray[np.object_]"
    """Of each token; the first of the input's genes with that token."""

    @classmethod
    def read(cls, adata: "AnnData", model: Pretrained, options: EmbedOptions) -> "_Genes":
        """Read all cells."""
        from scipy.sparse import csr_matrix

        source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
        match = match_genes(var, model.vocabulary, options)
        cells = InMemoryCells.from_source(source, match.token, scale=options.scale)
        refuse_empty_rows(np.flatnonzero(cells.lengths == 0), n_rows=len(cells))
        total = cell_totals(cells.count, cells.offsets)
        value = log_values(cells.count.astype(np.float32), total, cells.lengths)
        shape = (len(cells), len(model.vocabulary) + 1)
        name = np.full(shape[1], "", object)
        name[match.token[::-1]] = np.array(var.index, object)[::-1]
        table = csr_matrix((value, cells.gene.astype(np.int64), cells.offsets), shape=shape)
        return cls(cells=cells, value=table, name=name)

    def ranked(
        self, attribution: "NDArray[np.float64]", rows: "NDArray[np.int64]"
    ) -> "NDArray[np.int64]":
        """Return the tokens that some of these cells express, highest attribution first."""
        tokens = np.unique(self.value[rows].indices)
        return tokens[np.argsort(-attribution[tokens], kind="stable")]

    def table(
        self,
        name: str,
        tokens: "NDArray[np.int64]",
        attribution: "NDArray[np.float64]",
        inside: "NDArray[np.bool_]",
    ) -> "pd.DataFrame":
        """Return the rows of one type."""
        import pandas as pd

        value = self.value[:, tokens].tocsc()
        parts = [value[rows] for rows in (inside, ~inside)]
        mean = [_mean(part) for part in parts]
        counts = [_mean(part.expm1()) + LEAST for part in parts]
        detected = [part.getnnz(axis=0) / max(part.shape[0], 1) for part in parts]
        return pd.DataFrame(
            {
                "type": name,
                "rank": np.arange(1, len(tokens) + 1),
                "gene": self.name[tokens],
                "attribution": attribution[tokens],
                "mean_in": mean[0],
                "mean_out": mean[1],
                "log2_fold_change": np.log2(counts[0] / counts[1]),
                "detected_in": detected[0],
                "detected_out": detected[1],
                "auroc": [_auroc(value[:, i].toarray()[:, 0], inside) for i in range(len(tokens))],
            }
        )


def _mean(values: "csr_matrix") -> "NDArray[np.float64]":
    return np.asarray(values.sum(axis=0, dtype=np.float64)).ravel() / max(values.shape[0], 1)


def _auroc(value: "NDArray[np.float32]", inside: "NDArray[np.bool_]") -> float:
    """Chance that a cell of the type has more of a gene than another cell; ties count half (Mann & Whitney 1947)."""
    from scipy.stats import rankdata

    n_in = int(inside.sum())
    n_out = len(inside) - n_in
    if not n_in or not n_out:
        return float("nan")
    return float((rankdata(value)[inside].sum() - n_in * (n_in + 1) / 2) / (n_in * n_out))


def _mean_attribution(
    scored: _Scored, genes: _Genes, rows: "NDArray[np.int64]", target: int
) -> "NDArray[np.float64]":
    """Return the mean attribution of each token over cells of one type."""
    total = np.zeros(genes.value.shape[1])
    device = next(scored.module.parameters()).device
    for batch, _ in ordered_batches(genes.cells, rows, token_budget=TOKENS, max_genes=None):
        wanted = torch.full((batch.n_cells,), target, device=device)
        found = attribute(
            scored.module,
            scored.scores,
            batch.to(device),
            wanted,
            method=scored.method,
            n_steps=scored.n_steps,
        )
        np.add.at(total, batch.gene.numpy(), found.double().cpu().numpy())
    return total / len(rows)


def _column(trained: Annotator, label: str | None) -> int:
    if label is not None and label not in trained.labels:
        msg = f"The annotator has no label column {label!r}; it has {', '.join(trained.labels)}. Name one of these."
        raise DataError(msg)
    column = 0 if label is None else trained.labels.index(label)
    if trained.columns[column].labels.separator is not None:
        msg = f"Labels of {trained.labels[column]!r} do not exclude each other; marker genes need one type a cell. Name another label column."
        raise ConfigError(msg)
    return column


def _scored(trained: Annotator, column: int) -> tuple[nn.Module, Scores]:
    """Return the network with its head, and the class scores of one label column as a function with a gradient."""
    scorer = trained.scorer
    if isinstance(scorer, TunedScorer):
        module = scorer.tuned.module
        return module, lambda batch, _: module.logits(batch)[column]
    head = scorer.heads[column] if isinstance(scorer, FrozenScorer) else None
    if not isinstance(scorer, FrozenScorer) or not isinstance(head, Linear):
        msg = (
            f"The annotator has strength {trained.strength!r}, whose scores have no gradient; marker genes need an annotator that was trained with "
            'strength="linear", "lora" or "finetune". Train one with that strength.'
        )
        raise ConfigError(msg)
    return trained.model.network, _linear(trained.model.network, scorer, head)


def _linear(network: CellFM, scorer: FrozenScorer, head: Linear) -> Scores:
    r"""Return the scores of logistic regression on standardised states, :math:`W (x - \mu) / \sigma + b`."""
    device = network.cls.device
    if scorer.pool == "whitened":
        return _whitened(network, whitening_of(scorer.model), head)
    mean, spread, weight, bias = (
        torch.as_tensor(array, dtype=torch.float32, device=device)
        for array in (head.mean, head.scale, head.weight, head.bias)
    )

    def scores(batch: CellBatch, presence: Tensor) -> Tensor:
        states = network.encode(batch, wanted="cell" if scorer.pool == "cls" else "all")
        parts = [] if scorer.pool == "mean" else [states.cell]
        if scorer.pool != "cls":
            parts.append(weighted_mean(states.gene, batch, presence))
        return ((torch.cat(parts, dim=1) - mean) / spread) @ weight.T + bias

    return scores


def _whitened(network: CellFM, whitening: Whitening, head: Linear) -> Scores:
    """Return the scores of logistic regression on whitened states, as one linear map of the state of [CLS]."""
    device, weight = network.cls.device, (head.weight / head.scale).astype(np.float64)
    matrix = weight @ whitening.matrix.T.astype(np.float64)
    bias = head.bias - weight @ head.mean - matrix @ whitening.mean
    slope, shift = (
        torch.as_tensor(array, dtype=torch.float32, device=device) for array in (matrix, bias)
    )

    def scores(batch: CellBatch, _: Tensor) -> Tensor:
        return network.encode(batch, wanted="cell").cell @ slope.T + shift

    return scores


def _types_of(
    adata: "AnnData", trained: Annotator, column: int, *, groupby: str | None, options: EmbedOptions
) -> "NDArray[np.int64]":
    """Return the type of each cell; −1 for none that the annotator knows."""
    if groupby is None:
        return trained.scorer.score(adata, options).logits[column].argmax(1)
    if groupby not in adata.obs.columns:
        msg = f"There is no column {groupby!r} in obs; it has {list(map(str, adata.obs.columns)) or 'no columns'}. Choose one of these."
        raise DataError(msg)
    types: Sequence[str] = trained.columns[column].labels.classes
    code = {name: number for number, name in enumerate(types)}
    found = np.array([code.get(str(name), -1) for name in adata.obs[groupby]], np.int64)
    if (found < 0).all():
        there = ", ".join(map(str, adata.obs[groupby].unique()[:5]))
        msg = f"No cell has a type of the annotator in obs[{groupby!r}]: found {there}, …; the annotator knows {', '.join(types)}. Name the column of types by groupby=…."
        raise DataError(msg)
    return found
