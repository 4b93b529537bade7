"""A pretraining run from cells to weights folder: what `pretrain` and `pretrain_file` share."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cellfm._version import __version__
from cellfm.config import ObjectiveConfig, PretrainConfig
from cellfm.corpus.baselines import Baselines
from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, OutputExistsError, ResumeError
from cellfm.genes import Vocabulary
from cellfm.nn import CellFM
from cellfm.nn.objectives import make_objective
from cellfm.tl._device import choose_device
from cellfm.tl._pretrain_cells import TrainingCells
from cellfm.train import (
    HeldOutScore,
    RunFolder,
    RunProgress,
    RunResult,
    World,
    check_trackers,
    open_world,
)
from cellfm.train import pretrain as train
from cellfm.train.parallel import check_lanes
from cellfm.train.state import write_json
from cellfm.weights import folder as weights_folder
from cellfm.weights.card import shape_text

GENES, DATA, MODEL, STARTED = "genes.tsv", "data.json", "model", "run.json"

_CARD = """\
# {title}

A CellFM network pretrained from scratch by {objective} with cellfm {version}.

{shape}

## Data

{data}

## Training

{n_steps:,} steps of {lanes} × at most {token_budget:,} expressed genes, seed {seed}. The whole recipe is in the run folder's config.json.

## Held-out cells

{metrics}

## Licence

Nothing of the published CellFM weights is in here. The terms of the training data decide what may be done with these weights.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainJob:
    """A run whose settings have been checked, in one of its processes."""

    config: PretrainConfig
    out: Path
    vocabulary: Vocabulary
    world: World
    origin: str
    resume: bool

    @classmethod
    @contextmanager
    def open(
        cls,
        config: PretrainConfig,
        out: Path,
        *,
        vocabulary: Vocabulary | None,
        resume: bool,
        device: str | None,
        origin: str,
    ) -> Iterator["PretrainJob"]:
        """Check what can be checked before any data are read, and join the other processes."""
        check_trackers(config.run.trackers)
        make_objective(config.objective)  # mistakes show before data are read
        with open_world(choose_device(device)) as world:
            check_lanes(config.data.lanes, world)
            if world.is_first:
                _check_folder(out, resume=resume)
            world.wait()
            if vocabulary is None:
                begun = out / GENES
                vocabulary = Vocabulary.read(begun) if begun.is_file() else Vocabulary.from_hgnc()
            yield cls(
                config=replace(config, model=replace(config.model, n_genes=len(vocabulary))),
                out=out,
                vocabulary=vocabulary,
                world=world,
                origin=origin,
                resume=resume,
            )

    def run(
        self, cells: TrainingCells, progress: Callable[[RunProgress], None] | None
    ) -> RunResult:
        """Train, and write the weights folder."""
        config, world, seed = self.config, self.world, self.config.run.seed
        about = {"origin": self.origin, **cells.about}
        if world.is_first:
            self._describe(about)
        world.wait()
        baselines = None
        if world.is_first and (cells.held_out or config.data.gene_start == "pca"):
            n_genes = len(self.vocabulary)
            baselines = cells.fit_baselines(config.data, n_genes=n_genes, seed=seed)
        # Made from the seed on the device, so that a large one need never be whole in any process.
        with torch.device("meta"):
            network = CellFM(config.model)
        result = train(
            config,
            cells.sampler(config.data, seed=seed, absent=make_objective(config.objective).absent),
            network=network,
            run_folder=RunFolder(path=self.out, vocabulary_hash=self.vocabulary.hash),
            held_out=cells.held_out_sets(config.data, seed=seed, baselines=baselines),
            world=world,
            gene_start=self._gene_start(baselines),
            progress=progress if world.is_first else None,
        )
        if world.is_first:
            self._save(result, about)
        world.wait()
        return result

    def _gene_start(self, baselines: Baselines | None) -> torch.Tensor | None:
        """Return the gene table that the recipe begins with, the first process's in all of them."""
        if self.config.data.gene_start == "random":
            return None
        model = self.config.model
        table = torch.zeros(model.n_genes + 1, model.dim)
        if baselines is not None:
            table = torch.from_numpy(baselines.gene_table(model.dim, seed=self.config.run.seed))
        return self.world.broadcast(table)

    def _describe(self, about: Mapping[str, object]) -> None:
        """Write down which cells the run is about; they must be the same on resume."""
        file = self.out / DATA
        if file.is_file():
            self._check_same_cells(json.loads(file.read_text(encoding="utf-8")), about)
            return
        self.out.mkdir(parents=True, exist_ok=True)
        self.vocabulary.write(self.out / GENES)
        write_json(file, about)

    def _check_same_cells(self, begun: Mapping[str, object], about: Mapping[str, object]) -> None:
        if all(begun.get(key) == about.get(key) for key in ("sha256", "selection")):
            return
        msg = (
            f"{self.out} holds a run on other counts: {begun.get('n_cells')} cells of {begun.get('origin')} there, "
            f"{about['n_cells']} cells of {self.origin} now, or the same with other genes or another choice of cells. Resume with "
            "the data it began with, or choose a new folder."
        )
        raise ResumeError(msg)

    def _save(self, result: RunResult, about: Mapping[str, object]) -> None:
        provenance = {
            "source": f"pretrained from scratch on {self.origin}",
            "data_sha256": str(about["sha256"]),
            "n_cells": str(about["n_cells"]),
            "scale": str(about.get("scale", "counts")),
            "n_steps": str(result.step),
            "seed": str(self.config.run.seed),
            "objective": self.config.objective.name,
        }
        for score in result.held_out:
            for name, value in score.line().items():
                if not isinstance(value, str):
                    provenance[f"held_out {score.name} {name}"] = f"{value:.6g}"
        assert result.network is not None  # in the first process
        weights_folder.save(
            self.out / MODEL,
            result.network,
            self.vocabulary,
            card=self._card(result, about),
            provenance=provenance,
            overwrite=True,  # of an earlier end of this run: the folder has been checked
        )

    def _card(self, result: RunResult, about: Mapping[str, object]) -> str:
        return _CARD.format(
            title=self.out.resolve().name,
            version=__version__,
            objective=_objective_text(self.config),
            shape=shape_text(self.config.model),
            data=_data_text(about),
            n_steps=result.step,
            seed=self.config.run.seed,
            lanes=self.config.data.lanes,
            token_budget=self.config.data.token_budget,
            metrics="\n\n".join(map(_score_text, result.held_out)) or "No cells were held out.",
        )


def _objective_text(config: PretrainConfig) -> str:
    if config.objective.name == ObjectiveConfig().name:
        return "masked-expression recovery"
    return f"the objective `{config.objective.name}`"


def _data_text(about: Mapping[str, object]) -> str:
    cells = f"{about['n_cells']:,} cells of {about['origin']}"
    genes = about.get("genes")
    if isinstance(genes, dict):
        return f"{cells}, scale {about['scale']}; {genes['n_matched']:,} of {genes['n_input']:,} genes matched."
    return (
        f"{cells}, {about['n_train']:,} of them trained on; sha256 of the corpus {about['sha256']}."
    )


def _score_text(score: HeldOutScore) -> str:
    lines = ", ".join(f"{_baseline_name(name)} {x:.4f}" for name, x in score.baselines.items())
    return (
        f"{score.name}: mean squared error on {score.n_scored:,} hidden values: gene-wise decoder {score.gene_loss:.4f}, cell-wise "
        f"decoder {score.cell_loss:.4f}. To beat: {lines}; the untrained network {score.untrained_gene_loss:.4f}."
    )


def _baseline_name(name: str) -> str:
    return {"gene_mean": "each gene's mean", "pca": "PCA", "ridge": "ridge regression"}.get(
        name, name
    )


def check_thinning(config: PretrainConfig, scale: Scale) -> None:
    """Refuse to thin what are no counts."""
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
