"""Ways to integrate batches: CellFM frozen, centred and fine-tuned, and what they must beat.

No method sees a label. Each answers with ``embedding``, shape (cell, dim); the control of shuffled labels adds ``order``, in which
the task then reads the labels.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from cellfm.bench.task import Answer, Case, Context, Method
from cellfm.tl._integrate import integrated_states
from cellfm.tl._integrate_batch import Batches, batches_of, centred
from cellfm.tl._integrate_tune import IntegrateTuning
from cellfm.tl._states import EmbedOptions, Pool
from cellfm.weights.folder import random_twin

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Run = Callable[[Case, Context], Answer]


def batch_key_of(case: Case) -> str:
    """Name of the column of batches: `batch` of the dataset, or its `donor` where it has no batches.

    Parameters
    ----------
    case
        Of a dataset that has one of them.
    """
    return cast("str", case.dataset.batch or case.dataset.donor)


def _batches(case: Case) -> Batches:
    return batches_of(case.adata.obs, batch_key_of(case))


def _frozen(pool: Pool, *, centre: bool) -> _Run:
    def run(case: Case, context: Context) -> Answer:
        states = context.states.frozen(case, context.model, pool=pool)
        return _answer(centred(states, _batches(case)) if centre else states)

    return run


def _random_twin(case: Case, context: Context) -> Answer:
    states = context.states.frozen(case, random_twin(context.model, seed=context.seed), pool="cls")
    return _answer(centred(states, _batches(case)))


def _finetuned(*, random_start: bool = False, **changes: float | str) -> _Run:
    def run(case: Case, context: Context) -> Answer:
        tuning = IntegrateTuning(**{"seed": context.seed, **changes})  # type: ignore[arg-type]
        model = random_twin(context.model, seed=context.seed) if random_start else context.model
        states, _, tuned = integrated_states(
            case.adata,
            model,
            _batches(case),
            method="finetune",
            options=EmbedOptions(scale=case.dataset.scale, pool=tuning.pool),
            tuning=tuning,
        )
        assert tuned is not None  # method="finetune"
        best = tuned.result.best
        note = (
            f"Best epoch {tuned.result.best_epoch + 1} of {len(tuned.result.history)} by the masked loss of {tuned.n_validation} "
            f"cells: {tuned.result.start:.4f} before, {best:.4f} after."
        )
        return _answer(states, note)

    return run


def _pca(case: Case, context: Context) -> Answer:
    return _answer(principal_scores(case, context))


def _pca_centred(case: Case, context: Context) -> Answer:
    return _answer(centred(principal_scores(case, context), _batches(case)))


def principal_scores(case: Case, context: Context) -> "NDArray[np.float32]":
    """PCA-50 of log values of the 2,000 most variable genes, fitted on all cells of the case.

    Parameters
    ----------
    case
        A view whose cells are all training cells.
    context
        Keeps the fitted profiles.
    """
    return context.states.profiles(case).scores(case.adata, scale=case.dataset.scale)


def _random(case: Case, context: Context) -> Answer:
    generator = np.random.default_rng([context.seed, case.seed])
    return _answer(generator.normal(size=(case.adata.n_obs, 50)).astype(np.float32))


def _shuffled(case: Case, context: Context) -> Answer:
    order = np.random.default_rng([context.seed, case.seed, 1]).permutation(case.adata.n_obs)
    return Answer(arrays={"embedding": principal_scores(case, context), "order": order})


def _harmony(case: Case, context: Context) -> Answer:
    import harmonypy

    scores = principal_scores(case, context).astype(np.float64)
    key = batch_key_of(case)
    with _quiet("harmonypy"):
        found = harmonypy.run_harmony(
            scores, case.adata.obs[[key]], [key], random_state=context.seed, verbose=False
        )
    corrected = np.asarray(found.Z_corr)
    # harmonypy turned its result round in 0.1: (component, cell) before, (cell, component) since
    return _answer(corrected if corrected.shape == scores.shape else corrected.T)


def _scvi(case: Case, context: Context) -> Answer:
    import scvi
    from anndata import AnnData

    genes = [name for name in context.states.profiles(case).genes if name in case.adata.var_names]
    chosen = case.adata[:, genes]
    cells = AnnData(chosen.X.copy(), obs=chosen.obs[[batch_key_of(case)]].copy())
    state = np.random.get_state()  # noqa: NPY002 - scvi seeds the global generators
    with torch.random.fork_rng(), _quiet("scvi", "lightning", "lightning.pytorch"):
        scvi.settings.seed = context.seed
        scvi.model.SCVI.setup_anndata(cells, batch_key=batch_key_of(case))
        model = scvi.model.SCVI(cells)
        model.train(accelerator="cpu", enable_progress_bar=False, logger=False)
        latent = model.get_latent_representation()
    np.random.set_state(state)  # noqa: NPY002
    return _answer(latent, f"scVI's own number of epochs; {len(genes):,} variable genes.")


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep the log of other packages out of ours."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _answer(embedding: "NDArray[np.floating]", *notes: str) -> Answer:
    return Answer(arrays={"embedding": np.asarray(embedding, dtype=np.float32)}, notes=notes)


_AGAINST = ("pca", "pca_centred", "harmony")

METHODS: tuple[Method, ...] = (
    Method(
        name="cellfm_frozen",
        summary="Frozen [CLS] states.",
        setting="zero_shot",
        roles=frozenset({"candidate"}),
        run=_frozen("cls", centre=False),
        against=_AGAINST,
    ),
    Method(
        name="cellfm_centred",
        summary="Frozen [CLS] states, the mean of each batch subtracted.",
        setting="zero_shot",
        roles=frozenset({"candidate"}),
        run=_frozen("cls", centre=True),
        against=(*_AGAINST, "random_weights_centred"),
    ),
    Method(
        name="cellfm_mean_centred",
        summary="Mean of the frozen gene states, the mean of each batch subtracted.",
        setting="zero_shot",
        roles=frozenset({"candidate"}),
        run=_frozen("mean", centre=True),
        against=_AGAINST,
    ),
    Method(
        name="cellfm_whitened_centred",
        summary="Frozen [CLS] states whitened by the pretraining cells, the mean of each batch subtracted.",
        setting="zero_shot",
        roles=frozenset({"candidate"}),
        run=_frozen("whitened", centre=True),
        against=_AGAINST,
    ),
    Method(
        name="cellfm_finetuned",
        summary="Fine-tuned on these cells (masked recovery, decoders told the batch), centred: the defaults of tl.integrate.",
        setting="finetune",
        roles=frozenset({"candidate"}),
        run=_finetuned(),
        trains=True,
        against=(*_AGAINST, "scvi", "from_scratch"),
        detail=repr(IntegrateTuning()),
    ),
    Method(
        name="cellfm_finetuned_pca",
        summary="The same, the gene table begun again from a PCA of these cells: types are then read off that PCA.",
        setting="finetune",
        roles=frozenset({"candidate"}),
        run=_finetuned(gene_start="pca"),
        trains=True,
        against=(*_AGAINST, "scvi"),
        detail=repr(IntegrateTuning(gene_start="pca")),
    ),
    Method(
        name="cellfm_finetuned_adversarial",
        summary="The same with a batch discriminator on a reversed gradient and the elastic cell similarity.",
        setting="finetune",
        roles=frozenset({"candidate"}),
        run=_finetuned(adversarial=1.0, ecs=1.0),
        trains=True,
        against=("cellfm_finetuned",),
        detail=repr(IntegrateTuning(adversarial=1.0, ecs=1.0)),
    ),
    Method(
        name="from_scratch",
        summary="As cellfm_finetuned, from random weights.",
        setting="from_scratch",
        roles=frozenset({"random_weights"}),
        run=_finetuned(random_start=True),
        trains=True,
        detail=repr(IntegrateTuning()),
    ),
    Method(
        name="random_weights_centred",
        summary="The same network with random weights, frozen and centred.",
        setting="zero_shot",
        roles=frozenset({"random_weights"}),
        run=_random_twin,
    ),
    Method(
        name="pca",
        summary="PCA-50 of 2,000 variable genes, not integrated.",
        setting="fitted",
        roles=frozenset({"pca"}),
        run=_pca,
    ),
    Method(
        name="pca_centred",
        summary="PCA-50, the mean of each batch subtracted.",
        setting="fitted",
        roles=frozenset({"pca", "classical"}),
        run=_pca_centred,
    ),
    Method(
        name="harmony",
        summary="Harmony on PCA-50 (Korsunsky et al. 2019).",
        setting="fitted",
        roles=frozenset({"classical"}),
        run=_harmony,
        needs=("harmonypy",),
    ),
    Method(
        name="scvi",
        summary="scVI on 2,000 variable genes (Lopez et al. 2018).",
        setting="fitted",
        roles=frozenset({"classical"}),
        run=_scvi,
        needs=("scvi",),
        trains=True,
    ),
    Method(
        name="shuffled_labels",
        summary="PCA-50 judged by shuffled labels.",
        setting="fitted",
        roles=frozenset({"shuffled_labels"}),
        run=_shuffled,
    ),
    Method(
        name="random_embedding",
        summary="50 normal numbers a cell: mixes perfectly and keeps nothing.",
        setting="fitted",
        roles=frozenset({"negative"}),
        run=_random,
    ),
)
"""Candidates and controls."""
