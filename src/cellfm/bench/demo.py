"""The demo: embed real cells with the small model that comes along, and say honestly how good it is."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.bench.demo_cells import DemoCells, demo_cells
from cellfm.bench.demo_report import TABLE, Report, verdict, write_report
from cellfm.bench.probe import ProbeTable, probe_table
from cellfm.errors import ConfigError
from cellfm.optional import require

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from cellfm.config import PretrainConfig
    from cellfm.train import HeldOutScore
    from cellfm.weights.folder import Pretrained

Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done and what there is to do in all."""

PRESET = "mini"
N_CURVE = 12
"""Points of the learning curve."""
# Hidden values are all that is scored: seeing some of them would beat each gene's mean without learning.
OVERRIDES = ("data.held_out=0.1", "data.hidden_fraction=1.0", "run.log_every=5")
N_COMPONENTS = 50
N_VARIABLE_GENES = 2000
METHODS = {"CellFM": "X_cellfm", "random weights": "X_random", "PCA": "X_pca"}
"""Name in the table → key of ``obsm``; the first is compared with the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo wrote and found."""

    folder: Path
    table: ProbeTable | None
    """None without labels."""
    verdict: tuple[str, ...]
    """The findings, a sentence each."""
    held_out: "HeldOutScore"
    """Masked-expression loss on cells that nothing was fitted on."""
    seconds: float
    files: tuple[Path, ...] = field(default=())


def run_demo(
    out: Path,
    *,
    source: Path | None = None,
    label: str | None = None,
    steps: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DemoResult:
    """Run the demo and write its folder, complete or not at all.

    Parameters
    ----------
    out
        Folder to make.
    source
        h5ad file with raw counts; None for the cells that come with scanpy.
    label
        Column of ``obs`` with the cell types of `source`; without it there is no table.
    steps
        Steps to train the recipe `mini` from scratch on the training cells; 0 takes the weights that come with the package.
    seed
        Of split, random weights, batches, masks and resamples.
    overwrite
        Replace the folder of an earlier demo.
    progress
        Called with stage, done and total.

    Raises
    ------
    OutputExistsError
        `out` holds something.
    CellFMError
        The input cannot be used.
    """
    require("scanpy", "sklearn", "matplotlib")
    from cellfm.weights import folder as weights
    from cellfm.weights.atomic import refuse_existing, replacing_folder

    if steps < 0:
        msg = f"steps is {steps}; it must be at least 0. Leave it out for the weights that come with the package."
        raise ConfigError(msg)
    refuse_existing(out, overwrite=overwrite)
    tell = progress or (lambda stage, done, total: None)
    clock = _Clock()
    with clock("cells"):
        cells = demo_cells(source, label, seed=seed)
    with replacing_folder(out, marker=TABLE) as folder:
        with clock("recovery"), _one_thread():
            if steps:
                held_out = _train(cells, folder, n_steps=steps, seed=seed, progress=tell)
                model = weights.load(folder / "model")
            else:
                model = weights.load(weights.PACKAGED / weights.MINI)
                held_out = _judge(cells, model, seed=seed)
        with clock("embedding"):
            _embed(cells, model, seed=seed, progress=tell)
        with clock("probes"):
            table = _probe(cells, seed=seed, progress=tell)
        with clock("picture"):
            _umap(cells, seed=seed, progress=tell)
        report = Report(
            cells=cells,
            table=table,
            held_out=held_out,
            n_steps=steps,
            seed=seed,
            seconds=clock.seconds,
        )
        write_report(folder, report)
    files = tuple(sorted(out.iterdir()))
    return DemoResult(
        folder=out,
        table=table,
        verdict=verdict(table, held_out),
        held_out=held_out,
        seconds=sum(clock.seconds.values()),
        files=files,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread of torch inside.

    Products of a network this small gain little from a second one, and wait long for it on a busy machine; and the
    result does not depend on the number of cores.
    """
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - began, 1)


def demo_config(n_steps: int, *, seed: int) -> "PretrainConfig":
    """Return the recipe of the demo.

    Parameters
    ----------
    n_steps
        Training steps.
    seed
        Of weights, batches and masks.
    """
    from cellfm.config import PretrainConfig, load

    rhythm = (
        f"schedule.n_steps={n_steps}",
        f"schedule.warmup_steps={min(100, n_steps // 10)}",
        f"run.eval_every={max(1, n_steps // N_CURVE)}",
        f"run.checkpoint_every={n_steps}",
        f"run.seed={seed}",
    )
    return load(PretrainConfig, PRESET, [*OVERRIDES, *rhythm])


def _train(
    cells: DemoCells, folder: Path, *, n_steps: int, seed: int, progress: Progress
) -> "HeldOutScore":
    from cellfm import tl

    run = folder / "run"
    result = tl.pretrain(
        cells.adata[cells.train].copy(),
        demo_config(n_steps, seed=seed),
        run,
        scale=cells.scale,
        progress=lambda now: progress("training", now.step, now.n_steps),
    )
    for name in ("model", "metrics.jsonl"):
        (run / name).rename(folder / name)
    shutil.rmtree(run)
    (score,) = result.held_out  # data.held_out is not 0
    return score


def _judge(cells: DemoCells, model: "Pretrained", *, seed: int) -> "HeldOutScore":
    """Score the recovery of hidden values of the test cells; the lines to beat are fitted on the training cells."""
    from cellfm.config import RunConfig
    from cellfm.corpus.adata import anndata_source
    from cellfm.corpus.baselines import Baselines
    from cellfm.corpus.cells import InMemoryCells
    from cellfm.corpus.sample import evaluation_batches
    from cellfm.genes import resolve
    from cellfm.nn import masked_expression_loss
    from cellfm.train import HeldOut, Trainee, World
    from cellfm.train.evaluate import evaluate

    source, var = anndata_source(cells.adata)
    token = resolve(list(var.index), model.vocabulary).token
    there = InMemoryCells.from_source(source, token, scale=cells.scale)
    train, test = (there.select(np.flatnonzero(part)) for part in (cells.train, ~cells.train))
    batches = list(evaluation_batches(test, token_budget=16384, seed=seed, hidden_fraction=1.0))
    fitted = Baselines.fit(train, len(model.vocabulary), seed=seed)
    held_out = HeldOut(name="test cells", batches=batches, baselines=fitted.predict_all(batches))
    trainee = Trainee.of(model.network, masked_expression_loss, run=RunConfig(), world=World())
    return evaluate(trainee, held_out, precision="fp32")


def _embed(cells: DemoCells, trained: "Pretrained", *, seed: int, progress: Progress) -> None:
    """Embed all cells with the trained network, with a random one of the same shape, and by PCA."""
    from cellfm import tl
    from cellfm.weights import folder as weights

    random = weights.new(PRESET, trained.vocabulary, seed)
    for key, pretrained in {"X_cellfm": trained, "X_random": random}.items():
        name = "trained" if pretrained is trained else "random"
        tl.embed(
            cells.adata,
            pretrained,
            key_added=key,
            scale=cells.scale,
            progress=partial(progress, f"embedding ({name} weights)"),
        )
    cells.adata.obsm["X_pca"] = _pca(cells, seed=seed)


def _pca(cells: DemoCells, *, seed: int) -> "NDArray[np.float32]":
    """Return principal components whose genes, means and axes come from the training cells alone."""
    import scanpy
    from sklearn.decomposition import PCA

    adata = cells.adata.copy()
    if cells.scale == "counts":
        adata.X = adata.X.astype(np.float32)
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
    train: AnnData = adata[cells.train].copy()
    if adata.n_vars > N_VARIABLE_GENES:
        scanpy.pp.highly_variable_genes(train, n_top_genes=N_VARIABLE_GENES)
        keep = train.var["highly_variable"].to_numpy()
        adata, train = adata[:, keep], train[:, keep]
    pca = PCA(min(N_COMPONENTS, train.n_obs - 1, train.n_vars), random_state=seed)
    return pca.fit(_dense(train)).transform(_dense(adata)).astype(np.float32)


def _dense(adata: "AnnData") -> "NDArray[np.float32]":
    return np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X, np.float32)


def _probe(cells: DemoCells, *, seed: int, progress: Progress) -> ProbeTable | None:
    if cells.label is None:
        return None
    progress("probes", 0, 1)
    column = cells.adata.obs[cells.label]
    there = column.notna().to_numpy()
    table = probe_table(
        {name: cells.adata.obsm[key][there] for name, key in METHODS.items()},
        column[there].astype(str).to_numpy(),
        cells.train[there],
        seed=seed,
    )
    progress("probes", 1, 1)
    return table


def _umap(cells: DemoCells, *, seed: int, progress: Progress) -> None:
    """Lay out the held-out cells in the plane; training cells get NaN."""
    from umap import UMAP

    test = ~cells.train
    keys = {"X_umap_cellfm": "X_cellfm", "X_umap_pca": "X_pca"}
    for i, (target, source) in enumerate(keys.items()):
        progress("UMAP", i, len(keys))
        points = np.full((len(test), 2), np.nan, np.float32)
        # A fixed seed means one thread; starting from PCA, no disconnected graph is a problem.
        layout = UMAP(
            n_neighbors=min(15, int(test.sum()) - 1),
            init="pca",
            min_dist=0.3,
            random_state=seed,
            n_jobs=1,
        )
        points[test] = layout.fit_transform(cells.adata.obsm[source][test])
        cells.adata.obsm[target] = points
    progress("UMAP", len(keys), len(keys))
