"""Batch integration on AnnData."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from cellfm._version import __version__
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import InMemoryCells
from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, OutputExistsError
from cellfm.genes import GeneReport
from cellfm.tl._embed import frozen_states, match_genes
from cellfm.tl._integrate_batch import Batches, batches_of, centred
from cellfm.tl._integrate_tune import GeneStart, Integrated, IntegrateTuning, finetune_on_batches
from cellfm.tl._states import EmbedOptions, Pool, as_model, check_key
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

Method = Literal["frozen", "centre", "finetune"]
Progress = Callable[[str, int, int], None]
METHODS = ("frozen", "centre", "finetune")


def integrate(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    batch_key: str,
    key_added: str = "X_cellfm_integrated",
    method: Method = "finetune",
    pool: Pool = "cls",
    adversarial: float = 0.0,
    conditional: bool = True,
    ecs: float = 0.0,
    gene_start: GeneStart = "weights",
    n_epochs: int = 30,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Embed cells of several batches so that the batches mix; labels are never seen.

    Centring moves each batch by one vector. Fine-tuning trains a copy of the network on these very cells: it recovers
    masked genes, unexpressed ones among them (Zeng et al. 2025), by decoders that are told the batch; with `adversarial` also
    against a discriminator that guesses the batch from the cell state (Ganin & Lempitsky 2015), with `ecs` under the elastic
    cell similarity. Then it embeds the cells and centres the states. The objective is in
    :class:`cellfm.nn.integration.Integrator`; both extras are off: what each is worth by itself has not been measured.

    Integrated states are of one data set: they cannot be compared with those of another, nor with frozen ones. Mixing
    batches that hold other cells takes biology away; look at what is known of the cells before and after.

    Parameters
    ----------
    adata
        Cells × genes in memory or backed.
    model
        From `cellfm.load`, or a weights folder or name; None takes the small one that comes with the package.
    batch_key
        Column of ``obs`` with the batch of each cell.
    key_added
        Name of the result.
    method
        ``"frozen"`` states as `embed` gives them, ``"centre"`` the mean of each batch subtracted and that of all cells added,
        or ``"finetune"`` on these cells and centre.
    pool
        What stands for a cell, as in `embed`; ``"whitened"`` not with fine-tuning.
    adversarial
        Strength of the reversed gradient of the discriminator; 0 for none.
    conditional
        Give the decoders a learned vector per batch.
    ecs
        Weight of the elastic cell similarity, which pushes the cosines of cells away from 0.8; 0 for none.
    gene_start
        ``"weights"``, or ``"pca"``: the gene table begins again from a PCA of these cells before fine-tuning, for cells far from those
        the weights have seen. Types are then largely read off that PCA.
    n_epochs
        Epochs at most; the one with the lowest masked loss on a tenth of the cells is kept.
    layer, use_raw, gene_names, scale
        As in `embed`.
    seed
        Of order, masks, dropout and the validation part.
    device
        ``"cpu"``, ``"cuda"``, …; default: where the model is, or a GPU if there is one.
    overwrite
        Replace an existing result of that name.
    progress
        Called with a stage (``"fine-tuning"``, in epochs, or ``"embedding"``, in cells), what is done, and what there is in all.

    Returns
    -------
    Nothing; writes

    ``obsm[key_added]``
        Integrated states, float32 (cells, dim), twice as wide with both pools.
    ``uns["cellfm"][key_added]``
        Weights hash, versions, options, batches with their cells, gene report; with fine-tuning the losses of the epochs.

    Raises
    ------
    DataError
        The batch column is missing, has gaps, one batch, or a batch with one cell.
    GeneMatchError, CountsError
        As in `embed`.
    WeightsError
        The weights have no decoders to fine-tune with.
    OutputExistsError
        The key exists and `overwrite` is false.

    Examples
    --------
    >>> cellfm.tl.integrate(adata, batch_key="donor")  # doctest: +SKIP
    >>> adata.obsm["X_cellfm_integrated"]  # doctest: +SKIP
    """
    _check(adata, key_added, method, pool, overwrite=overwrite)
    tuning = IntegrateTuning(
        pool="cls" if pool == "whitened" else pool,
        adversarial=adversarial,
        conditional=conditional,
        ecs=ecs,
        gene_start=gene_start,
        n_epochs=n_epochs,
        seed=seed,
    )
    options = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, pool=pool
    )
    _ = tuning.config  # refuses numbers that cannot be trained with
    batches = batches_of(adata.obs, batch_key)
    pretrained = as_model(model, device)
    states, report, tuned = integrated_states(
        adata, pretrained, batches, method=method, options=options, tuning=tuning, progress=progress
    )
    adata.obsm[key_added] = states
    adata.uns["cellfm"] = {
        **adata.uns.get("cellfm", {}),
        key_added: _provenance(pretrained, method, options, report)
        | _batch_record(batch_key, batches)
        | ({} if tuned is None else _tuning_record(tuned, tuning)),
    }


def integrated_states(
    adata: "AnnData",
    model: Pretrained,
    batches: Batches,
    *,
    method: Method,
    options: EmbedOptions,
    tuning: IntegrateTuning,
    progress: Progress | None = None,
) -> "tuple[NDArray[np.float32], GeneReport, Integrated | None]":
    """Return the integrated states, the gene report, and the fine-tuned network if there is one; writes nothing.

    Parameters
    ----------
    adata
        Cells × genes.
    model
        Weights, on the device to compute on; left as they are.
    batches
        Batch of each cell.
    method
        See :func:`integrate`.
    options
        How to read and pool.
    tuning
        How to fine-tune.
    progress
        See :func:`integrate`.
    """
    tuned = None
    if method == "finetune":
        source, var = anndata_source(adata, layer=options.layer, use_raw=options.use_raw)
        match = match_genes(var, model.vocabulary, options)
        cells = InMemoryCells.from_source(source, match.token, scale=options.scale)
        tuned = finetune_on_batches(
            model, cells, batches, tuning, progress=_stage(progress, "fine-tuning")
        )
    states, report = frozen_states(
        adata,
        model if tuned is None else tuned.model,
        options,
        progress=_stage(progress, "embedding"),
    )
    return (states if method == "frozen" else centred(states, batches)), report, tuned


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(stage, done, total)


def _check(adata: "AnnData", key: str, method: str, pool: str, *, overwrite: bool) -> None:
    """Refuse what cannot work before anything is computed."""
    check_key(key)
    if method not in METHODS:
        msg = f"method is {method!r}; it must be one of {', '.join(map(repr, METHODS))}. Choose one of these."
        raise ConfigError(msg)
    if method == "finetune" and pool == "whitened":
        msg = (
            'pool="whitened" is for method="frozen" or "centre": the whitening of the weights was fitted to their frozen states, and '
            'fine-tuning moves them. Take pool="cls", "mean" or "both".'
        )
        raise ConfigError(msg)
    if key in adata.obsm and not overwrite:
        msg = f"adata has obsm[{key!r}] already. Choose another key_added=…, or say overwrite=True."
        raise OutputExistsError(msg)


def _provenance(
    model: Pretrained, method: str, options: EmbedOptions, report: GeneReport
) -> dict[str, object]:
    """Return what a frozen embedding would note as well; storable in h5ad."""
    genes = {
        name: np.array(value, dtype=str) if isinstance(value, list) else value
        for name, value in report.to_dict().items()
        if name != "summed" and value is not None and value != []
    }
    return {
        "weights_hash": model.hash,
        "weights": model.name,
        "vocabulary_hash": model.vocabulary.hash,
        "cellfm_version": __version__,
        "torch_version": str(torch.__version__),
        "device": model.network.cls.device.type,
        "method": method,
        "options": {name: value for name, value in asdict(options).items() if value is not None},
        "genes": genes,
    }


def _batch_record(batch_key: str, batches: Batches) -> dict[str, object]:
    return {
        "batch_key": batch_key,
        "batches": np.array(batches.names, dtype=str),
        "batch_sizes": batches.sizes,
    }


def _tuning_record(tuned: Integrated, tuning: IntegrateTuning) -> dict[str, object]:
    history = tuned.result.history
    return {
        "tuning": cast("dict[str, object]", asdict(tuning)),
        "finetuning": {
            "best_epoch": tuned.result.best_epoch,
            "validation_before": tuned.result.start,
            "validation": np.array([record.validation for record in history], np.float64),
            "loss": np.array([record.loss for record in history], np.float64),
            "n_validation_cells": tuned.n_validation,
            "seconds": tuned.result.seconds,
        },
    }
