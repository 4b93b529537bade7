"""A pretraining run from cells to weights folder: what `pretrain` and `pretrain_file` share."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cellfm._version import __version__
from cellfm.config import PretrainConfig
from cellfm.corpus.cells import InMemoryCells, gene_means
from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import RowSource
from cellfm.corpus.sample import EpochSampler, evaluation_batches
from cellfm.errors import ConfigError, DataError, OutputExistsError, ResumeError
from cellfm.genes import GeneReport, Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.tl._device import choose_device
from cellfm.tl._embed import Progress, match_genes
from cellfm.tl._states import EmbedOptions
from cellfm.train import HeldOut, RunFolder, RunResult
from cellfm.train import pretrain as train
from cellfm.train.state import write_json
from cellfm.weights import folder as weights_folder
from cellfm.weights.card import shape_text

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

GENES, DATA, MODEL, STARTED = "genes.tsv", "data.json", "model", "run.json"

_CARD = """\
# {title}

A CellFM network pretrained from scratch by masked-expression recovery with cellfm {version}.

{shape}

## Data

{data}

## Training

{n_steps:,} steps, seed {seed}, at most {token_budget:,} expressed genes a batch. The whole recipe is in the run folder's config.json.

## Held-out cells

{metrics}

## Licence

Nothing of the published CellFM weights is in here. The terms of the training data decide what may be done with these weights.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainJob:
    """A run whose settings have been checked."""

    config: PretrainConfig
    out: Path
    options: EmbedOptions
    vocabulary: Vocabulary
    device: str
    origin: str

    @classmethod
    def start(
        cls,
        config: PretrainConfig,
        out: Path,
        *,
        options: EmbedOptions,
        vocabulary: Vocabulary | None,
        resume: bool,
        device: str | None,
        origin: str,
    ) -> "PretrainJob":
        """Check what can be checked before any data are read."""
        _check_data_config(config, options.scale)
        _check_folder(out, resume=resume)
        if vocabulary is None:
            begun = out / GENES
            vocabulary = Vocabulary.read(begun) if begun.is_file() else Vocabulary.from_hgnc()
        return cls(
            config=replace(config, model=replace(config.model, n_genes=len(vocabulary))),
            out=out,
            options=options,
            vocabulary=vocabulary,
            device=choose_device(device),
            origin=origin,
        )

    def run(self, source: RowSource, var: "pd.DataFrame", progress: Progress | None) -> RunResult:
        """Read the cells, train, write the weights folder."""
        tally = _Tally(source, self.options.scale)
        match = match_genes(var, self.vocabulary, self.options)
        cells = InMemoryCells.from_source(tally, match.token, scale=self.options.scale)
        report = replace(
            match.report, coverage=tally.share(float(cells.count.sum(dtype=np.float64)))
        )
        kept = _without_empty(cells)
        about = self._describe(kept, report, n_empty=len(cells) - len(kept))
        train_cells, held_out_cells = kept.split(
            self.config.data.held_out, seed=self.config.run.seed
        )
        n_steps = self.config.schedule.n_steps
        generator = torch.Generator().manual_seed(self.config.run.seed)
        network = initialise(CellFM(self.config.model), generator)
        result = train(
            self.config,
            self._sampler(train_cells),
            network=network,
            run_folder=RunFolder(path=self.out, vocabulary_hash=self.vocabulary.hash),
            held_out=self._held_out(train_cells, held_out_cells),
            device=self.device,
            progress=None if progress is None else lambda done: progress(done, n_steps),
        )
        self._save(network, result, about)
        return result

    def _sampler(self, cells: InMemoryCells) -> EpochSampler:
        data = self.config.data
        return EpochSampler(
            cells,
            token_budget=data.token_budget,
            seed=self.config.run.seed,
            scored_fraction=data.scored_fraction,
            hidden_fraction=data.hidden_fraction,
            thin=data.thin,
        )

    def _held_out(self, train_cells: InMemoryCells, cells: InMemoryCells) -> HeldOut | None:
        if not len(cells):
            return None
        batches = evaluation_batches(
            cells,
            token_budget=self.config.data.token_budget,
            seed=self.config.run.seed,
            scored_fraction=self.config.data.scored_fraction,
            hidden_fraction=1.0,  # a value that is seen would be no test of recovery
        )
        means = gene_means(train_cells, len(self.vocabulary))
        return HeldOut(batches=list(batches), gene_mean=torch.from_numpy(means))

    def _describe(
        self, cells: InMemoryCells, report: GeneReport, *, n_empty: int
    ) -> dict[str, object]:
        """Write down which cells the run is about; they must be the same on resume."""
        about: dict[str, object] = {
            "origin": self.origin,
            "sha256": _cells_hash(cells),
            "scale": self.options.scale,
            "n_cells": len(cells),
            "n_empty": n_empty,
            "genes": report.to_dict(),
        }
        file = self.out / DATA
        if file.is_file():
            self._check_same_cells(json.loads(file.read_text(encoding="utf-8")), about)
            return about
        self.out.mkdir(parents=True, exist_ok=True)
        self.vocabulary.write(self.out / GENES)
        write_json(file, about)
        return about

    def _check_same_cells(self, begun: dict[str, object], about: dict[str, object]) -> None:
        if begun.get("sha256") == about["sha256"]:
            return
        msg = (
            f"{self.out} holds a run on other counts: {begun.get('n_cells')} cells of {begun.get('origin')} there, "
            f"{about['n_cells']} cells of {self.origin} now, or the same with other genes. Resume with the data it began with, "
            "or choose a new folder."
        )
        raise ResumeError(msg)

    def _save(self, network: CellFM, result: RunResult, about: dict[str, object]) -> None:
        score = result.held_out
        provenance = {
            "source": f"pretrained from scratch on {self.origin}",
            "data_sha256": str(about["sha256"]),
            "n_cells": str(about["n_cells"]),
            "scale": self.options.scale,
            "n_steps": str(result.step),
            "seed": str(self.config.run.seed),
        }
        if score is not None:
            provenance |= {f"held_out_{name}": f"{x:.6g}" for name, x in asdict(score).items()}
        weights_folder.save(
            self.out / MODEL,
            network.cpu(),
            self.vocabulary,
            card=self._card(result, about),
            provenance=provenance,
            overwrite=True,  # of an earlier end of this run: the folder has been checked
        )

    def _card(self, result: RunResult, about: dict[str, object]) -> str:
        score = result.held_out
        metrics = (
            "No cells were held out."
            if score is None
            else f"Mean squared error on {score.n_scored:,} hidden values: gene-wise decoder {score.gene_loss:.4f}, cell-wise decoder "
            f"{score.cell_loss:.4f}; each gene's mean, the line to beat, {score.gene_mean_loss:.4f}."
        )
        genes = about["genes"]
        assert isinstance(genes, dict)
        return _CARD.format(
            title=self.out.resolve().name,
            version=__version__,
            shape=shape_text(self.config.model),
            data=f"{about['n_cells']:,} cells of {self.origin}, scale {self.options.scale}; "
            f"{genes['n_matched']:,} of {genes['n_input']:,} genes matched.",
            n_steps=result.step,
            seed=self.config.run.seed,
            token_budget=self.config.data.token_budget,
            metrics=metrics,
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


def _check_data_config(config: PretrainConfig, scale: Scale) -> None:
    if scale == "log1p" and config.data.thin:
        msg = (
            'data.thin is true, but with scale="log1p" there are no counts to thin. Set data.thin=false, or give raw counts '
            "(layer=NAME, use_raw=True)."
        )
        raise ConfigError(msg)


def _check_folder(out: Path, *, resume: bool) -> None:
    """Refuse a folder that is in use, or is no run where one is to be resumed."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not resume:
        msg = f"{out} exists already and is not empty; choose a new folder, or go on with the run in it by resume (--resume)."
        raise OutputExistsError(msg)
    if not (out / STARTED).is_file() and not (out / DATA).is_file():
        msg = f"{out} holds no run: neither {STARTED} nor {DATA} is there. Give the folder of a run, or a new one."
        raise ResumeError(msg)


def _without_empty(cells: InMemoryCells) -> InMemoryCells:
    """Leave out cells without any vocabulary gene: they have nothing to hide or to score."""
    full = np.flatnonzero(cells.lengths)
    if not len(full):
        msg = f"None of the {len(cells):,} cells has a count on a gene of the vocabulary. Check layer, raw and gene_names."
        raise DataError(msg)
    return cells if len(full) == len(cells) else cells.select(full)


def _cells_hash(cells: InMemoryCells) -> str:
    digest = hashlib.sha256()
    for array in (cells.gene, cells.count, cells.offsets, cells.cell):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
