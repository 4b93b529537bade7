"""Vectors of genes: the embedding table, mean states over cells, queries of the cell-wise decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from cellfm._version import __version__
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.tl._embed import encode_rows, match_genes
from cellfm.tl._states import EmbedOptions, Groups, StateEncoder, as_model, provenance
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Kind = Literal["static", "contextual", "query"]
Progress = Callable[[int, int], None]


def gene_embeddings(  # noqa: PLR0913 - the arguments of a user's question
    model: Pretrained | str | Path,
    adata: "AnnData | None" = None,
    *,
    kind: Kind = "static",
    groupby: str | None = None,
    group: str | Sequence[str] | None = None,
    n_cells: int = 2000,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> "AnnData":
    r"""Return a vector for every gene: from the embedding table, from its states in cells, or as the decoder asks for it.

    Parameters
    ----------
    model
        From `cellfm.load`, or a weights folder or name.
    adata
        Cells × genes with raw counts, in memory or backed, for contextual vectors; it is not changed.
    kind
        ``"static"``: the embedding table, the same whatever the cell. ``"contextual"``: the mean of the last layer's states of a gene over the
        chosen cells that express it. ``"query"``: :math:`\sigma(W g)`, what the cell-wise decoder of pretraining multiplies the state :math:`h` of
        a cell with to predict the gene, :math:`\hat y = \langle \sigma(W g), h \rangle`.
    groupby, group
        Column of ``obs`` and its entry, or entries, whose cells are averaged over, each entry by itself; with `groupby` alone every entry, without
        it all cells.
    n_cells
        Cells of each entry, drawn at random when there are more.
    layer, use_raw, gene_names, scale, min_matched
        As in `embed`.
    device
        Device to compute contextual vectors on, such as ``"cpu"`` or ``"cuda"``; default: where the model is, or a GPU if there is one.
    seed
        Of the draw of cells.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    Genes × dim, float32; ``obs`` has token, symbol, HGNC id, Ensembl id, locus group and locus type (HGNC's biotypes), ``uns["cellfm"]`` the weights hash. Static vectors and queries are
    of all genes of the model, also of those that it hardly saw in training; contextual ones of the genes that a chosen cell expresses, with

    ``obs["n_cells"]``
        Chosen cells that express the gene, over which its states were averaged: a mean of few is noisy.
    ``obs["group"]``
        With `groupby`, the entry. With several of them the rows are named ``symbol|group``.
    ``uns["cellfm"]``
        Also the options, the cells drawn of each group and the gene report.

    Raises
    ------
    ConfigError
        Options that do not go together.
    DataError
        There is no such column or group, or no cell in it.
    WeightsError
        Queries of weights without decoders.
    GeneMatchError, CountsError
        As in `embed`.

    Examples
    --------
    >>> cellfm.tl.gene_embeddings("my-model")["CD3E"].X  # doctest: +SKIP
    >>> cellfm.tl.gene_embeddings(
    ...     "my-model", adata, kind="contextual", groupby="cell_type", group="B cells"
    ... )  # doctest: +SKIP
    """
    _check(adata, kind=kind, groupby=groupby, group=group, n_cells=n_cells)
    if adata is None:
        # Nothing is computed but a small product: not worth a device.
        pretrained = as_model(model, "cpu")
        table = _static(pretrained) if kind == "static" else _queries(pretrained)
        note: dict[str, object] = {"weights_hash": pretrained.hash}
        if kind != "static":
            note["kind"] = kind
        return _of_table(table, _gene_obs(pretrained.vocabulary), note)
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        min_matched=min_matched,
        genes=True,
        empty="nan",  # a cell without a known gene adds to no mean
    )
    chosen = _draw_cells(adata.obs, groupby=groupby, group=group, n_cells=n_cells, seed=seed)
    means = _Means(as_model(model, device), options, sum(len(rows) for rows in chosen.values()))
    parts = [means.of(adata, rows, progress) for rows in chosen.values()]
    found = _joined(parts, list(chosen), means.model.vocabulary, groupby=groupby)
    found.uns["cellfm"] = means.note | {
        "kind": kind,
        "groupby": groupby or "",
        "groups": np.array(list(chosen), dtype=str),
        "n_cells": np.array([len(rows) for rows in chosen.values()]),
        "seed": seed,
    }
    return found


def _check(
    adata: "AnnData | None",
    *,
    kind: str,
    groupby: str | None,
    group: str | Sequence[str] | None,
    n_cells: int,
) -> None:
    if kind not in get_args(Kind):
        msg = f"kind is {kind!r}; it must be one of {', '.join(map(repr, get_args(Kind)))}. Choose one of these."
        raise ConfigError(msg)
    if kind == "contextual" and adata is None:
        msg = 'kind="contextual" averages the states of genes over cells, and none were given. Give counts: gene_embeddings(model, adata, kind="contextual") (--source).'
        raise ConfigError(msg)
    if kind != "contextual" and (adata is not None or groupby is not None or group is not None):
        msg = f'kind={kind!r} is the same in every cell, but cells or groups of them were given. Say kind="contextual" (--kind contextual), or leave them out.'
        raise ConfigError(msg)
    if group is not None and groupby is None:
        msg = f"group={group!r} was given without the column it is in; say groupby=… (--groupby)."
        raise ConfigError(msg)
    if n_cells < 1:
        msg = f"n_cells is {n_cells}; at least one cell of each group is needed. Give more of them."
        raise ConfigError(msg)


def _static(model: Pretrained) -> "NDArray[np.float32]":
    table = model.network.gene_embedding.weight.detach().numpy()
    return table[1 : len(model.vocabulary) + 1].copy()


def _queries(model: Pretrained) -> "NDArray[np.float32]":
    import torch

    network = model.network
    if not network.config.decoders:
        msg = (
            f'kind="query" needs the cell-wise decoder of pretraining, and {model.path or "these weights in memory"} have no decoders. '
            'Say kind="static", or take other weights.'
        )
        raise WeightsError(msg)
    with torch.inference_mode():
        gene = network.gene_embedding.weight[1 : len(model.vocabulary) + 1]
        return network.cell_decoder.map(gene).sigmoid().float().numpy()


def _gene_obs(vocabulary: Vocabulary) -> "pd.DataFrame":
    """Names and kinds of all genes of a vocabulary."""
    import pandas as pd

    known = {gene.hgnc_id: (gene.locus_group, gene.locus_type) for gene in GeneTable.load().genes}
    kinds = [known.get(hgnc_id, ("", "")) for hgnc_id in vocabulary.hgnc_ids]
    return pd.DataFrame(
        {
            "token": np.arange(1, len(vocabulary) + 1),
            "symbol": list(vocabulary.symbols),
            "hgnc_id": list(vocabulary.hgnc_ids),
            "ensembl_id": list(vocabulary.ensembl_ids),
            "locus_group": [group for group, _ in kinds],
            "locus_type": [kind for _, kind in kinds],
        },
        index=pd.Index(vocabulary.symbols, name="gene"),
    )


def _of_table(
    table: "NDArray[np.float32]", obs: "pd.DataFrame", note: dict[str, object]
) -> "AnnData":
    from anndata import AnnData

    return AnnData(table, obs=obs, uns={"cellfm": note})


def _draw_cells(
    obs: "pd.DataFrame",
    *,
    groupby: str | None,
    group: str | Sequence[str] | None,
    n_cells: int,
    seed: int,
) -> "dict[str, NDArray[np.int64]]":
    """Return ascending rows of each group; each group's draw depends on the seed and itself alone."""
    if groupby is None:
        of_group = {"": np.arange(len(obs))}
    else:
        if groupby not in obs.columns:
            msg = f"There is no column {groupby!r} in obs; it has {list(map(str, obs.columns)) or 'no columns'}. Name one of them by groupby=… (--groupby)."
            raise DataError(msg)
        category = obs[groupby].astype("category").cat.remove_unused_categories().cat
        names = list(map(str, category.categories))
        wanted = names if group is None else [group] if isinstance(group, str) else list(group)
        if unknown := [name for name in wanted if name not in names]:
            some = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            msg = f"obs[{groupby!r}] has no entry {unknown[0]!r}; it has {some or 'none'}. Name one of these by group=… (--group)."
            raise DataError(msg)
        code = category.codes.to_numpy()
        of_group = {name: np.flatnonzero(code == names.index(name)) for name in wanted}
    if not of_group or any(len(rows) == 0 for rows in of_group.values()):
        msg = f"There are no cells to average over: obs has {len(obs):,} rows{f', and no entries in {groupby!r}' if groupby else ''}. Give other cells."
        raise DataError(msg)
    return {
        name: np.sort(np.random.default_rng(seed).permutation(rows)[:n_cells])
        for name, rows in of_group.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Mean:
    """Mean states of the genes that some cells express, by token."""

    token: "NDArray[np.int64]"
    state: "NDArray[np.float32]"
    n_cells: "NDArray[np.int64]"


class _Means:
    """Averages states over one group of cells after the other: only one group's sums are held."""

    def __init__(self, model: Pretrained, options: EmbedOptions, n_total: int) -> None:
        self.model, self.options, self.n_total = model, options, n_total
        self.n_done = 0
        self.routed: bool | None = None
        self.covered = np.zeros(2)
        self.note: dict[str, object] = {}

    def of(self, adata: "AnnData", rows: "NDArray[np.int64]", progress: Progress | None) -> _Mean:
        """Return the means over some cells."""
        part = adata[rows]
        part = part.to_memory() if adata.isbacked else part
        source, var = anndata_source(part, layer=self.options.layer, use_raw=self.options.use_raw)
        encoder = StateEncoder(
            self.model,
            match_genes(var, self.model.vocabulary, self.options),
            self.options,
            n_cells=len(rows),
            groups=Groups(names=("mean",), code=np.zeros(len(rows), np.int64)),
            routed=self.routed,
        )
        encoder.covered = self.covered  # one coverage for all groups
        before = self.n_done
        tell = None if progress is None else lambda done, _: progress(before + done, self.n_total)
        encode_rows(encoder, source, progress=tell)
        self.n_done += len(rows)
        self.routed = encoder.routed  # all groups are computed alike
        self.note = provenance(encoder, version=__version__)
        sums = encoder.sums
        assert sums is not None  # groups were given
        there = sums.count.numpy() > 0
        mean = sums.total.numpy()[there] / sums.count.numpy()[there, None]
        return _Mean(
            token=sums.tokens[there].astype(np.int64),
            state=mean.astype(np.float32),
            n_cells=sums.count.numpy()[there].astype(np.int64),
        )


def _joined(
    parts: list[_Mean], names: list[str], vocabulary: Vocabulary, *, groupby: str | None
) -> "AnnData":
    """Return the rows of all groups, group by group."""
    import pandas as pd

    every = _gene_obs(vocabulary)
    tables = [
        every.iloc[part.token - 1].assign(n_cells=part.n_cells, group=name)
        for part, name in zip(parts, names, strict=True)
    ]
    obs = pd.concat(tables)
    if groupby is None:
        obs = obs.drop(columns="group")
    else:
        obs["group"] = pd.Categorical(obs["group"], categories=names)
    if len(parts) > 1:
        rows = zip(obs["symbol"], obs["group"], strict=True)
        obs.index = pd.Index([f"{symbol}|{name}" for symbol, name in rows], name="gene")
    if obs.empty:
        msg = "None of the chosen cells expresses a gene of the model. Give other cells (groupby=…, group=…)."
        raise DataError(msg)
    return _of_table(np.concatenate([part.state for part in parts]), obs, {})
