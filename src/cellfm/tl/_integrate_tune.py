"""Fine-tuning on the batches of one data set, without labels."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cellfm.batch import CellBatch
from cellfm.corpus.baselines import Baselines
from cellfm.corpus.cells import InMemoryCells, lowest_numbers
from cellfm.errors import ConfigError, DataError, WeightsError
from cellfm.nn import CellFM
from cellfm.nn.integration import CellPool, IntegrationLoss, IntegrationWeights, Integrator
from cellfm.tl._integrate_batch import Batches
from cellfm.tl._integrate_batches import MaskedBatches, MaskOptions
from cellfm.train.finetune import TuneConfig, TuneResult, tune
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from numpy.typing import NDArray

VALIDATION = 0.1
"""Share of the cells, at least one of every batch, whose masked loss decides the epoch."""
_SPLIT = 0x1E61  # stream of the draw of validation cells


GeneStart = Literal["weights", "pca"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrateTuning:
    """How a network is fine-tuned on a data set.

    Attributes
    ----------
    pool
        Which cell state the elastic similarity and the discriminator read.
    adversarial
        Strength λ of the reversed gradient; 0 for no discriminator.
    conditional
        Whether the decoders are told the batch.
    ecs
        Weight of the elastic cell similarity.
    detection
        Weight of "is the gene expressed", where the network has a head for it.
    n_epochs, lr, token_budget, seed
        See :class:`cellfm.train.finetune.TuneConfig`. The budget holds some twenty-five cells: the elastic similarity and the
        discriminator compare the cells of a batch. The rate is ten times that of fine-tuning with labels: the state of [CLS] has
        to learn this data set's genes from some hundred cells.
    mask
        Genes that a cell shows.
    gene_start
        ``"weights"`` keeps the gene table; ``"pca"`` begins again from the gene loadings of a PCA of these cells, rotated at random
        (as `data.gene_start` of pretraining): for cells far from those the weights have seen.
    """

    pool: CellPool = "cls"
    adversarial: float = 0.0
    conditional: bool = True
    ecs: float = 0.0
    detection: float = 3.0
    n_epochs: int = 30
    patience: int = 5
    lr: float = 1e-3
    token_budget: int = 8192
    seed: int = 0
    mask: MaskOptions = field(default_factory=MaskOptions)
    gene_start: GeneStart = "weights"

    def __post_init__(self) -> None:
        if self.gene_start not in ("weights", "pca"):
            msg = f"gene_start is {self.gene_start!r}; it must be 'weights' or 'pca'. Choose one of these."
            raise ConfigError(msg)
        for name in ("adversarial", "ecs", "detection"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                msg = f"{name} is {getattr(self, name)}; it must be a number of at least 0, 0 to leave it out. Give a number in that range."
                raise ConfigError(msg)

    @property
    def config(self) -> TuneConfig:
        """What the training loop is told."""
        return TuneConfig(
            n_epochs=self.n_epochs,
            patience=self.patience,
            lr=self.lr,
            token_budget=self.token_budget,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Integrated:
    """A network fine-tuned on a data set, and how that went."""

    model: Pretrained
    """Copy of the given one with other weights; its hash is still that of the weights it began from."""
    result: TuneResult
    n_validation: int


def finetune_on_batches(
    model: Pretrained,
    cells: InMemoryCells,
    batches: Batches,
    tuning: IntegrateTuning,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Integrated:
    """Fine-tune a copy of a network on cells of several batches; see :class:`cellfm.nn.integration.Integrator`.

    Parameters
    ----------
    model
        Weights with decoders; left as they are.
    cells
        All cells; none empty.
    batches
        Batch of each.
    tuning
        How.
    progress
        Called with (epochs done, epochs at most).

    Returns
    -------
    The network of the epoch with the lowest masked loss on the validation cells. Labels are never seen.

    Raises
    ------
    WeightsError
        The network has no decoders.
    DataError
        There are too few cells for a validation part.
    """
    if not model.network.config.decoders:
        msg = 'These weights have no decoders, which method="finetune" trains with. Use weights with decoders, or method="centre".'
        raise WeightsError(msg)
    validation = validation_rows(batches, seed=tuning.seed)
    network = deepcopy(model.network).requires_grad_()
    if tuning.gene_start == "pca":
        _start_genes(network, cells, len(model.vocabulary), seed=tuning.seed)
    integrator = Integrator(
        network,
        n_batches=len(batches.names),
        pool=tuning.pool,
        weights=IntegrationWeights(tuning.detection, tuning.ecs, tuning.adversarial),
        conditional=tuning.conditional,
        generator=torch.Generator().manual_seed(tuning.seed),
    )
    job = _Job(integrator, cells, batches, tuning)
    train = np.setdiff1d(np.arange(len(cells)), validation)
    result = tune(
        integrator,
        job.loss,
        train=job.batches(train),
        validate=job.validation(validation),
        config=tuning.config,
        progress=progress,
    )
    return Integrated(
        model=replace(model, network=integrator.network.eval()),
        result=result,
        n_validation=len(validation),
    )


@torch.no_grad()
def _start_genes(network: CellFM, cells: InMemoryCells, n_genes: int, *, seed: int) -> None:
    """Put the gene loadings of a PCA of the cells into the gene table."""
    weight = network.gene_embedding.weight
    table = Baselines.fit(cells, n_genes, seed=seed).gene_table(network.config.dim, seed=seed)
    weight[: len(table)] = torch.from_numpy(table).to(weight)


def validation_rows(batches: Batches, *, seed: int) -> "NDArray[np.int64]":
    """Draw a tenth of the cells of every batch, at least one, so that every batch also trains.

    Parameters
    ----------
    batches
        Batch of each cell.
    seed
        Of the draw.

    Raises
    ------
    DataError
        A batch has fewer than two cells.
    """
    rows = []
    for code, size in enumerate(batches.sizes.tolist()):
        mine = np.flatnonzero(batches.code == code)
        number = max(1, round(VALIDATION * size))
        if size <= number:
            msg = f"Batch {batches.names[code]!r} has {size} cells; two at least are needed, one of them to validate on. Give more of them."
            raise DataError(msg)
        rows.append(mine[lowest_numbers(mine, number, seed=seed ^ _SPLIT)])
    return np.sort(np.concatenate(rows))


class _Job:
    """The loss of batches of masked cells, which knows the batch of each row."""

    def __init__(
        self,
        integrator: Integrator,
        cells: InMemoryCells,
        batches: Batches,
        tuning: IntegrateTuning,
    ) -> None:
        self.integrator, self.cells, self.tuning = integrator, cells, tuning
        self.device = integrator.network.cls.device
        self.code = torch.from_numpy(batches.code)

    def batches(self, rows: "NDArray[np.int64]") -> MaskedBatches:
        """Return the masked batches of some rows."""
        return MaskedBatches(
            cells=self.cells,
            rows=rows,
            options=self.tuning.mask,
            token_budget=self.tuning.token_budget,
            seed=self.tuning.seed,
        )

    def parts(self, batch: CellBatch, rows: torch.Tensor) -> IntegrationLoss:
        """Return all parts of the loss of a batch."""
        return self.integrator.loss(batch.to(self.device), self.code[rows].to(self.device))

    def loss(self, batch: CellBatch, rows: torch.Tensor) -> torch.Tensor:
        """Return what is trained on."""
        return self.parts(batch, rows).total

    def validation(self, rows: "NDArray[np.int64]") -> Callable[[], float]:
        """Return a function that gives the masked loss of held-out cells, the same masks at every call."""
        held = list(self.batches(rows).validation())
        n_scored = [0 if batch.scored is None else int(batch.scored.sum()) for batch, _ in held]

        def validate() -> float:
            found = [float(self.parts(batch, part).masked) for batch, part in held]
            return float(np.average(found, weights=n_scored))

        return validate
