"""Labels of genes learnt through the network: adapters in it, and a linear head on the states of genes in cells."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellfm.batch import CellBatch
from cellfm.corpus.tune_batches import ShuffledBatches, ordered_batches
from cellfm.errors import ConfigError
from cellfm.nn.gene_classifier import GeneClassifier, mean_by_gene
from cellfm.nn.lora import add_lora, train_only_lora
from cellfm.tl._genes.function_heads import fit, linear_weights
from cellfm.train.finetune import TuneConfig, tune

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.cells import InMemoryCells
    from cellfm.weights.folder import Pretrained

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Numbers = NDArray[np.int64]

HELD_SHARE = 5
"""One training gene in so many says after which epoch training ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneTuning:
    """How a network is fine-tuned to tell genes apart.

    Attributes
    ----------
    n_cells
        Cells in which the genes' states are taken, drawn at random; time and memory grow with them.
    n_epochs
        Passes over the cells at most, for each fold.
    rank
        Of the adapters.
    lora_lr, head_lr
        Highest learning rates of adapters and head.
    max_genes
        Highest genes of a longer cell that are shown.
    """

    n_cells: int = 200
    n_epochs: int = 4
    rank: int = 4
    lora_lr: float = 1e-3
    head_lr: float = 1e-3
    max_genes: int = 2048

    def __post_init__(self) -> None:
        if min(self.n_cells, self.n_epochs, self.rank, self.max_genes) < 1:
            msg = f"n_cells is {self.n_cells}, n_epochs {self.n_epochs}, rank {self.rank} and max_genes {self.max_genes}; each must be at least 1. Give a number in that range."
            raise ConfigError(msg)
        self.config(seed=0)  # whose checks are about the rates

    def config(self, *, seed: int) -> TuneConfig:
        """Return how to train.

        Parameters
        ----------
        seed
            Of adapters, order and dropout.
        """
        return TuneConfig(
            n_epochs=self.n_epochs,
            lora_lr=self.lora_lr,
            head_lr=self.head_lr,
            max_genes=self.max_genes,
            seed=seed,
        )


class TunedGenes:
    """Fine-tunes a network, anew for each fold, on the states of genes in some cells.

    Training begins where the frozen network ends: with adapters that change nothing and the logistic regression on the mean states. A fifth of the training
    genes is held back; the epoch with the least loss on these is kept. If that is none, the prediction is the one of the frozen states. Labels of genes of
    the fold are never seen, though these genes are among those that the cells express.

    Parameters
    ----------
    model
        Weights, on the device to compute on; they stay as they are.
    cells
        On its vocabulary.
    tokens
        Of the labelled genes, each expressed by a cell.
    tuning
        How.
    tick
        Called with a number of epochs that are done, or need not be.
    """

    def __init__(
        self,
        model: "Pretrained",
        cells: "InMemoryCells",
        tokens: "Numbers",
        *,
        tuning: GeneTuning,
        tick: Callable[[int], None],
    ) -> None:
        self._network, self._cells = model.network.eval(), cells
        self._tokens, self._tuning, self._tick = tokens, tuning, tick
        self._device = model.network.cls.device
        self._n_tokens = len(model.vocabulary) + 1
        self.states = self.frozen(tokens)

    def frozen(self, tokens: "Numbers") -> "NDArray[np.float32]":
        """Return mean states by the network as it is, shape (gene, dim).

        Parameters
        ----------
        tokens
            Of genes that cells express.
        """
        network = self._network
        means = self._means(lambda batch: network.encode(batch, wanted="scored").gene, tokens)
        return means.numpy()

    def out_of_fold(self, flags: "Flags", fold: "Numbers", seed: int) -> "Values":
        """Return the probability of each label by a network that has not seen the labels of the gene's fold, shape (gene, label).

        Parameters
        ----------
        flags
            Shape (labelled gene, label).
        fold
            Of each labelled gene.
        seed
            Of adapters, order, dropout and genes held back.
        """
        probability = np.empty(flags.shape)
        for number in np.unique(fold):
            test = fold == number
            predict = self.fit(flags, ~test, seed=seed)
            probability[test] = predict(self._tokens[test])
        return probability

    def fit(self, flags: "Flags", train: "Flags", *, seed: int) -> "Callable[[Numbers], Values]":
        """Fine-tune on some labelled genes and return what gives the probabilities of genes by token.

        Parameters
        ----------
        flags
            Shape (labelled gene, label).
        train
            Which genes to learn from.
        seed
            As in `out_of_fold`.
        """
        rows = np.flatnonzero(train)
        rng = np.random.default_rng(seed)
        held = rng.permutation(rows)[: len(rows) // HELD_SHARE]
        seen = np.setdiff1d(rows, held)
        module = self._module(flags[seen], self.states[seen], seed=seed)
        row, truth = self._row(seen).to(self._device), torch.from_numpy(flags).to(self._device)
        done = 0

        def loss(batch: CellBatch, _: Tensor) -> Tensor:
            gene, place = row[batch.gene[batch.scored]].unique(return_inverse=True)
            scores, _ = mean_by_gene(module(batch), place, len(gene))
            return functional.binary_cross_entropy_with_logits(scores, truth[gene].to(scores))

        def tell(epoch: int, _: int) -> None:
            nonlocal done
            self._tick(epoch - done)
            done = epoch

        result = tune(
            module,
            loss,
            train=_Scored(self._cells, self._row(seen), self._tuning, seed=seed),
            validate=lambda: self._loss(module, flags, held),
            config=self._tuning.config(seed=seed),
            progress=tell,
        )
        self._tick(self._tuning.n_epochs - done)
        if result.best_epoch < 0:
            head = fit(self.states[rows], flags[rows], seed=seed)
            return lambda tokens: head(self.frozen(tokens))
        return lambda tokens: self._means(module, tokens).sigmoid().double().numpy()

    def _module(
        self, flags: "Flags", states: "NDArray[np.float32]", *, seed: int
    ) -> GeneClassifier:
        """Return network and head that predict what the logistic regression on frozen states does."""
        weight, offset = linear_weights(states, flags, seed=seed)
        mean, sd = states.mean(axis=0), states.std(axis=0)
        sd = np.where(sd > 1e-7, sd, 1.0)
        memo: dict[int, object] = {  # what is frozen stays where it is in memory
            id(each): nn.Parameter(each.detach(), requires_grad=False)
            for each in self._network.parameters()
        }
        network = deepcopy(self._network, memo)
        add_lora(network, self._tuning.rank, torch.Generator().manual_seed(seed))
        train_only_lora(network)
        module = GeneClassifier(
            network,
            mean=torch.from_numpy(mean),
            sd=torch.from_numpy(sd.astype(np.float32)),
            weight=torch.from_numpy((weight * sd).astype(np.float32)),
            offset=torch.from_numpy((offset + weight @ mean).astype(np.float32)),
        )
        return module.to(self._device).eval()

    def _loss(self, module: GeneClassifier, flags: "Flags", rows: "Numbers") -> float:
        scores = self._means(module, self._tokens[rows])
        truth = torch.from_numpy(flags[rows]).to(scores)
        return float(functional.binary_cross_entropy_with_logits(scores, truth))

    def _row(self, rows: "Numbers") -> Tensor:
        """Return the row of each token among the labelled genes, −1 for those not to be scored."""
        return row_of(self._tokens[rows], rows, self._n_tokens)

    @torch.inference_mode()
    def _means(self, function: Callable[[CellBatch], Tensor], tokens: "Numbers") -> Tensor:
        """Average what a function says of each of these genes in each cell over the cells, shape (gene, k), on the CPU."""
        row = row_of(tokens, np.arange(len(tokens)), self._n_tokens)
        total, count = torch.zeros(()), torch.zeros(len(tokens), dtype=torch.float64)
        budget = TuneConfig().token_budget
        for batch, _ in ordered_batches(self._cells, token_budget=budget, max_genes=self._tuning.max_genes):  # fmt: skip
            scored = score(batch, row)
            values = function(scored.to(self._device)).double().cpu()
            mean, n = mean_by_gene(values, row[scored.gene][scored.scored], len(tokens))
            total = total + mean * n[:, None]
            count += n
        return (total / count[:, None]).float()


def row_of(tokens: "Numbers", rows: "Numbers", n_tokens: int) -> Tensor:
    """Return the row of each token, shape (token,); −1 for all others.

    Parameters
    ----------
    tokens, rows
        Of some genes.
    n_tokens
        Of the vocabulary, with 0.
    """
    row = torch.full((n_tokens,), -1)
    row[torch.from_numpy(tokens)] = torch.from_numpy(rows)
    return row


def score(batch: CellBatch, row: Tensor) -> CellBatch:
    """Mark the genes of a batch that have a row.

    Parameters
    ----------
    batch
        On the CPU.
    row
        Of each token.
    """
    return replace(batch, scored=row[batch.gene] >= 0)


class _Scored:
    """Shuffled batches of cells in which the training genes are marked; batches without any are passed over."""

    def __init__(
        self, cells: "InMemoryCells", row: Tensor, tuning: GeneTuning, *, seed: int
    ) -> None:
        budget = TuneConfig().token_budget
        self._row = row
        self._batches = ShuffledBatches(cells, token_budget=budget, seed=seed, max_genes=tuning.max_genes)  # fmt: skip

    def n_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has."""
        return self._batches.n_batches(epoch)

    def epoch(self, epoch: int) -> Iterator[tuple[CellBatch, Tensor]]:
        """Yield the batches of an epoch, each with the rows of its cells."""
        for batch, rows in self._batches.epoch(epoch):
            scored = score(batch, self._row)
            if scored.scored is not None and scored.scored.any():
                yield scored, rows


def expressed_tokens(cells: "InMemoryCells", *, max_genes: int) -> "Numbers":
    """Return the tokens that some of the cells express among the genes that are shown.

    Parameters
    ----------
    cells
        On a vocabulary.
    max_genes
        Highest genes of a longer cell that are shown.
    """
    batches = ordered_batches(cells, token_budget=1 << 20, max_genes=max_genes)
    return np.unique(np.concatenate([batch.gene.numpy() for batch, _ in batches]))
