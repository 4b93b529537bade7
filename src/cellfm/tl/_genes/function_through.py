"""The fine-tuned model among the methods that are judged, beside its frozen states and random weights that are tuned alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.adata import anndata_source
from cellfm.corpus.cells import InMemoryCells
from cellfm.errors import ConfigError
from cellfm.tl._embed import match_genes
from cellfm.tl._genes.controls import TWIN
from cellfm.tl._genes.function_folds import cross_validate
from cellfm.tl._genes.function_judge import CANDIDATE, FROZEN, OutOfFold, Validation
from cellfm.tl._genes.function_tuned import GeneTuning, TunedGenes, expressed_tokens
from cellfm.tl._genes.labels import LabelledGenes
from cellfm.tl._states import EmbedOptions, as_model
from cellfm.weights.folder import Pretrained, random_twin

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

TUNED, TUNED_TWIN = f"{CANDIDATE} fine-tuned", f"{TWIN} fine-tuned"


class Tick:
    """Counts what is done of what there is to do.

    Parameters
    ----------
    progress
        Called with (done, in all).
    """

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self._progress, self._done, self._all = progress, 0, 0

    def expect(self, n: int) -> None:
        """Add to what there is to do."""
        self._all += n

    def __call__(self, n: int = 1) -> None:
        """Add to what is done."""
        self._done += n
        if self._progress is not None:
            self._progress(min(self._done, self._all), self._all)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Through:
    """A model to fine-tune, and the cells to do that in.

    Attributes
    ----------
    model
        Weights.
    cells
        Those that were drawn.
    token
        Of each gene of the embedding.
    expressed
        Whether a drawn cell expresses it.
    tuning
        How.
    tick
        Told of epochs.
    """

    model: Pretrained
    cells: InMemoryCells
    token: "NDArray[np.int64]"
    expressed: "NDArray[np.bool_]"
    tuning: GeneTuning
    tick: Tick

    def n_epochs(self, validation: Validation) -> int:
        """Return the epochs of one protocol at most.

        Parameters
        ----------
        validation
            Its folds, repeats and permutations.
        """
        runs = 2 * validation.n_repeats + validation.n_permutations
        return runs * validation.n_folds * self.tuning.n_epochs

    def methods(self, rows: "NDArray[np.int64]") -> "dict[str, Sequence[OutOfFold]]":
        """Return the fine-tuned model, the same by random weights, and the states that the first begins with.

        Parameters
        ----------
        rows
            Labelled genes of the embedding.
        """
        own = self._tuned(self.model, rows)
        twin = self._tuned(random_twin(self.model, seed=0), rows)
        return {
            TUNED: [own.out_of_fold],
            TUNED_TWIN: [twin.out_of_fold],
            FROZEN: [lambda flags, fold, seed: cross_validate(own.states, flags, fold, seed=seed)],
        }

    def predict(
        self, genes: LabelledGenes, asked: "NDArray[np.int64]", *, seed: int
    ) -> "NDArray[np.float64]":
        """Return the probabilities of other genes by a model that was fine-tuned on all labelled ones, shape (gene, label).

        Parameters
        ----------
        genes
            Labelled.
        asked
            Rows of the embedding.
        seed
            Of the tuning.
        """
        self.tick.expect(self.tuning.n_epochs)
        every = np.ones(len(genes.rows), bool)
        predict = self._tuned(self.model, genes.rows).fit(genes.flags, every, seed=seed)
        return predict(self.token[asked])

    def _tuned(self, model: Pretrained, rows: "NDArray[np.int64]") -> TunedGenes:
        return TunedGenes(model, self.cells, self.token[rows], tuning=self.tuning, tick=self.tick)


def read_through(
    embeddings: "AnnData",
    adata: "AnnData | None",
    model: Pretrained | str | Path | None,
    options: EmbedOptions,
    *,
    tuning: GeneTuning,
    seed: int,
    tick: Tick,
) -> Through:
    """Draw cells and read them.

    Parameters
    ----------
    embeddings
        Genes × dim, of the same weights.
    adata
        Cells with counts.
    model
        Weights; None is the model of the package.
    options
        Where the counts are, and what the genes are called.
    tuning
        How to fine-tune.
    seed
        Of the draw.
    tick
        Told of epochs.

    Raises
    ------
    ConfigError
        There are no cells, or the embedding is of other weights.
    """
    if adata is None:
        msg = "Fine-tuning takes the states of genes in cells, and none were given. Give adata=… (--source)."
        raise ConfigError(msg)
    pretrained = as_model(model, None)
    made_with = str(embeddings.uns.get("cellfm", {}).get("weights_hash", ""))
    if made_with != pretrained.hash or "token" not in embeddings.obs.columns:
        msg = f"The embedding is of weights {made_with[:12] or 'that are not named'}…, and the model to fine-tune is {pretrained.hash[:12]}…. Make it with the same: tl.gene_embeddings(model, …)."
        raise ConfigError(msg)
    drawn = np.random.default_rng(seed).permutation(adata.n_obs)[: tuning.n_cells]
    source, var = anndata_source(adata[np.sort(drawn)], layer=options.layer, use_raw=options.use_raw)  # fmt: skip
    match = match_genes(var, pretrained.vocabulary, options)
    cells = InMemoryCells.from_source(source, match.token)
    cells = cells.select(np.flatnonzero(cells.lengths > 0))
    token = embeddings.obs["token"].to_numpy(np.int64)
    return Through(
        model=pretrained,
        cells=cells,
        token=token,
        expressed=np.isin(token, expressed_tokens(cells, max_genes=tuning.max_genes)),
        tuning=tuning,
        tick=tick,
    )
