"""scANVI: the semi-supervised variational autoencoder of Xu et al. (2021), doi:10.15252/msb.20209620."""

from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.task import Answer, Case, Context, Method
from cellfm.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

UNLABELLED = "unlabelled"
N_LATENT = 30
N_EPOCHS, N_TUNING_EPOCHS = 200, 50


def scanvi(case: Case, context: Context) -> Answer:
    """Train scVI on all cells and scANVI on the known labels, and give each cell the probability of each class.

    Parameters
    ----------
    case
        A view; the counts of its test cells are seen, their labels are not.
    context
        With the variable genes.

    Raises
    ------
    DataError
        The dataset has no counts.
    """
    import scvi
    import torch

    if case.dataset.scale != "counts":
        msg = f"scANVI needs counts; the values of {case.dataset.name} are on the scale {case.dataset.scale!r}. Choose a dataset of counts, or leave the method out."
        raise DataError(msg)
    adata = _training_table(case, context)
    batch = "group" if case.group is not None else None
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(case.seed)  # scvi-tools draws from the global one
        scvi.model.SCVI.setup_anndata(adata, batch_key=batch)
        base = scvi.model.SCVI(adata, n_latent=N_LATENT, n_layers=2)
        base.train(max_epochs=N_EPOCHS, accelerator="cpu", enable_progress_bar=False, logger=False)
        model = scvi.model.SCANVI.from_scvi_model(
            base, unlabeled_category=UNLABELLED, labels_key="label"
        )
        model.train(
            max_epochs=N_TUNING_EPOCHS, accelerator="cpu", enable_progress_bar=False, logger=False
        )
        table = model.predict(soft=True)
    probability = table.reindex(columns=list(case.classes), fill_value=0.0).to_numpy(np.float32)
    return Answer(
        arrays={"probability": probability}, notes=(f"{N_EPOCHS} + {N_TUNING_EPOCHS} epochs",)
    )


def _training_table(case: Case, context: Context) -> "AnnData":
    """Return counts of the variable genes with labels, batches and nothing else."""
    genes = list(context.states.profiles(case).genes)
    adata = case.adata[:, genes].copy()
    labels = np.full(len(case.part), UNLABELLED, dtype=object)
    labels[case.known] = np.array(case.classes, dtype=object)[case.code[case.known]]
    adata.obs = adata.obs[[]].assign(label=labels)
    if case.group is not None:
        adata.obs["group"] = case.group.astype(object)
    return adata


METHOD = Method(
    name="scanvi",
    summary="scANVI on 2,000 variable genes",
    setting="fitted",
    roles=frozenset({"classical"}),
    run=scanvi,
    needs=("scvi", "sklearn", "scanpy"),
    trains=True,
    detail=f"latent={N_LATENT} epochs={N_EPOCHS}+{N_TUNING_EPOCHS}",
)
