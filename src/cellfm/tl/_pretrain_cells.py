"""What a pretraining run learns from: cells in memory or in a store, split into training and held-out ones."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cellfm.config.pretrain import DataConfig
from cellfm.corpus.baselines import MAX_CELLS, Baselines
from cellfm.corpus.cells import InMemoryCells, lowest_numbers
from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import RowSource
from cellfm.corpus.sample import EpochSampler, evaluation_batches
from cellfm.corpus.source import CellSource, select, visit_weights
from cellfm.corpus.store import Store
from cellfm.corpus.stored import StoredCells
from cellfm.corpus.window import Window
from cellfm.errors import ConfigError, DataError
from cellfm.genes import Vocabulary
from cellfm.tl._embed import match_genes
from cellfm.tl._states import EmbedOptions
from cellfm.train import HeldOut

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingCells:
    """Cells of a run, and which of them are trained on."""

    source: CellSource
    """All of them."""
    train: "NDArray[np.integer]"
    """Rows to train on."""
    held_out: "Mapping[str, NDArray[np.integer]]"
    """Rows of each held-out set."""
    weight: "NDArray[np.floating] | None" = None
    """Visits to each training row in an epoch; None for one."""
    about: Mapping[str, object] = field(default_factory=dict)
    """What is written down of them."""

    def sampler(self, data: DataConfig, *, seed: int, absent: bool) -> EpochSampler:
        """Return the batches to train on, with absent genes if the objective asks for them."""
        return EpochSampler(
            self.source,
            rows=self.train,
            weight=self.weight,
            token_budget=data.token_budget,
            seed=seed,
            lanes=data.lanes,
            window_rows=data.window_rows,
            length_buckets=data.length_buckets,
            scored_fraction=data.scored_fraction,
            hidden_fraction=data.hidden_fraction,
            thin=data.thin,
            genes_per_cell=data.genes_per_cell,
            absent=absent,
        )

    def fit_baselines(self, data: DataConfig, *, n_genes: int, seed: int) -> Baselines:
        """Fit the simple methods on training cells, at most 20,000."""
        return Baselines.fit(
            self._examples(seed), n_genes, seed=seed, scored_fraction=data.scored_fraction
        )

    def held_out_sets(
        self, data: DataConfig, *, seed: int, baselines: Baselines | None
    ) -> list[HeldOut]:
        """Return the held-out sets; their scored values are all hidden, as one that is seen would be no test of recovery.

        Parameters
        ----------
        data
            Fractions and sizes.
        seed
            Of the masks.
        baselines
            Simple methods that predict them too.
        """
        batches = {
            name: list(
                evaluation_batches(
                    self.source,
                    rows=rows,
                    token_budget=data.token_budget,
                    seed=seed,
                    scored_fraction=data.scored_fraction,
                    hidden_fraction=1.0,
                    max_cells=data.held_out_cells,
                )
            )
            for name, rows in self.held_out.items()
            if len(rows)
        }
        if baselines is None:
            return [HeldOut(name=name, batches=found) for name, found in batches.items()]
        return [
            HeldOut(name=name, batches=found, baselines=baselines.predict_all(found))
            for name, found in batches.items()
        ]

    def _examples(self, seed: int) -> InMemoryCells:
        """Return training cells for the baselines, as many as these take."""
        rows = self.train
        if len(rows) > MAX_CELLS and isinstance(self.source, InMemoryCells):
            rows = rows[lowest_numbers(self.source.number[rows], MAX_CELLS, seed=seed)]
        # The order of a store is random: its first cells are a fair sample, and lie together.
        rows = rows[:MAX_CELLS]
        return Window(self.source, rows).take(rows)


def cells_in_memory(
    source: RowSource,
    var: "pd.DataFrame",
    *,
    vocabulary: Vocabulary,
    options: EmbedOptions,
    data: DataConfig,
    seed: int,
) -> TrainingCells:
    """Read all cells of a matrix, and hold a fraction of them out.

    Parameters
    ----------
    source, var
        Counts and genes.
    vocabulary
        Genes of the network.
    options
        What the columns and values mean.
    data
        Its held_out.
    seed
        Of the split.
    """
    _check_no_store_settings(data)
    tally = _Tally(source, options.scale)
    match = match_genes(var, vocabulary, options)
    cells = InMemoryCells.from_source(tally, match.token, scale=options.scale)
    report = replace(match.report, coverage=tally.share(float(cells.count.sum(dtype=np.float64))))
    kept = _without_empty(cells)
    held_out = lowest_numbers(kept.number, round(data.held_out * len(kept)), seed=seed)
    return TrainingCells(
        source=kept,
        train=np.delete(np.arange(len(kept)), held_out),
        held_out={"cells": held_out} if len(held_out) else {},
        about={
            "sha256": _hash(kept.gene, kept.count, kept.offsets, kept.cell),
            "scale": options.scale,
            "n_cells": len(kept),
            "n_empty": len(cells) - len(kept),
            "genes": report.to_dict(),
        },
    )


def cells_of_store(store: Store, *, data: DataConfig, seed: int) -> TrainingCells:
    """Choose cells of a store by its metadata; they stay on disk.

    Parameters
    ----------
    store
        The store.
    data
        Its where, held_out, held_out_datasets, held_out_donors and weights.
    seed
        Of the fraction that is held out.
    """
    chosen = select(
        store,
        where=data.where,
        held_out_datasets=data.held_out_datasets,
        held_out_donors=data.held_out_donors,
        held_out_fraction=data.held_out,
        seed=seed,
    )
    weight = visit_weights(store, chosen.train, data.weights)
    rows = [np.asarray(part, dtype=np.int64) for part in (chosen.train, *chosen.held_out.values())]
    return TrainingCells(
        source=StoredCells(store),
        train=chosen.train,
        held_out=chosen.held_out,
        weight=weight,
        about={
            "sha256": store.manifest.hash,
            "selection": _hash(*rows, *([] if weight is None else [weight])),
            "n_cells": store.n_cells,
            "n_train": len(chosen.train),
            "n_held_out": {name: len(part) for name, part in chosen.held_out.items()},
        },
    )


class _Tally:
    """Rows of a source, with the sum of all counts that went by."""

    def __init__(self, source: RowSource, scale: Scale) -> None:
        self.n_rows, self.n_cols = source.n_rows, source.n_cols
        self._source, self._scale, self._total = source, scale, 0.0

    def read(self, start: int, stop: int) -> "csr_matrix":
        """Return the rows ``start:stop``."""
        block = self._source.read(start, stop)
        # float16 and the like are refused by the count check that follows
        counts = block.data.astype(np.float64)
        self._total += float((np.expm1(counts) if self._scale == "log1p" else counts).sum())
        return block

    def share(self, part: float) -> float | None:
        """Return a part of the counts as a fraction of all."""
        return part / self._total if self._total else None


def _check_no_store_settings(data: DataConfig) -> None:
    """Refuse settings that need the metadata of a store."""
    default = DataConfig()
    names = ("where", "held_out_datasets", "held_out_donors", "weights")
    given = [f"data.{name}" for name in names if getattr(data, name) != getattr(default, name)]
    if given:
        msg = (
            f"{' and '.join(given)} choose cells by the metadata of a corpus store, but the data are one matrix. Build a store "
            "of it ('cellfm corpus build') or leave them out; data.held_out holds out a fraction of the cells."
        )
        raise ConfigError(msg)


def _without_empty(cells: InMemoryCells) -> InMemoryCells:
    """Leave out cells without any vocabulary gene: they have nothing to hide or to score."""
    full = np.flatnonzero(cells.lengths)
    if not len(full):
        msg = f"None of the {len(cells):,} cells has a count on a gene of the vocabulary. Check layer, raw and gene_names."
        raise DataError(msg)
    return cells if len(full) == len(cells) else cells.select(full)


def _hash(*arrays: "NDArray[np.generic]") -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
