"""Pretraining on counts: AnnData, file or corpus in, run folder and weights folder out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.config import PretrainConfig
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import h5ad_source
from cellfm.corpus.store import Store
from cellfm.errors import ConfigError
from cellfm.genes import Vocabulary
from cellfm.tl._pretrain_cells import cells_in_memory, cells_of_store
from cellfm.tl._pretrain_job import PretrainJob, check_thinning
from cellfm.tl._states import EmbedOptions
from cellfm.train import RunProgress, RunResult

if TYPE_CHECKING:
    from anndata import AnnData


def pretrain(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    config: PretrainConfig,
    out: Path | str,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    vocabulary: Vocabulary | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: Callable[[RunProgress], None] | None = None,
) -> RunResult:
    """Train a network from scratch on the counts of an AnnData.

    Parameters
    ----------
    adata
        Cells × genes; its tokens are kept in memory.
    config
        Of ``cellfm.config.load``; the vocabulary's size replaces ``model.n_genes``.
    out
        Run folder to make.
    layer
        Layer with the counts, instead of ``X``.
    use_raw
        Take the counts of ``adata.raw``.
    gene_names
        Column of ``var`` with symbols or Ensembl ids, instead of ``var_names``.
    scale
        ``"counts"``, or ``"log1p"`` for log-normalised values when no counts exist; the depth tokens then see the
        same total in every cell.
    vocabulary
        Genes of the network; ``Vocabulary.from_hgnc()`` by default.
    resume
        Go on from the newest checkpoint in `out`, bit for bit; begin if there is nothing yet.
    device
        ``"cpu"``, ``"cuda"``, …; a GPU if there is one by default.
    progress
        Told after each step where the run is and how fast.

    Returns
    -------
    Where the run stands. Writes into `out`: ``config.json`` (resolved), ``run.json``, ``genes.tsv``, ``data.json``,
    ``metrics.jsonl``, ``checkpoints/`` and, at the end, the weights folder ``model/``. The AnnData is not changed.

    Raises
    ------
    OutputExistsError
        `out` holds something and `resume` is false.
    ResumeError
        `out` holds a run with other settings, genes or cells.
    ConfigError
        The config asks for what these data cannot give.
    MissingDependencyError
        A tracker is asked for that is not installed.
    GeneMatchError, CountsError, DataError
        As in `embed`.

    Examples
    --------
    >>> from cellfm.config import PretrainConfig, load
    >>> config = load(PretrainConfig, "mini", ["schedule.n_steps=500"])
    >>> cellfm.tl.pretrain(adata, config, "runs/mini").held_out  # doctest: +SKIP
    """
    check_thinning(config, scale)
    options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale)
    with PretrainJob.open(
        config,
        Path(out),
        vocabulary=vocabulary,
        resume=resume,
        device=device,
        origin="an AnnData in memory",
    ) as job:
        source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
        cells = cells_in_memory(
            source,
            var,
            vocabulary=job.vocabulary,
            options=options,
            data=config.data,
            seed=config.run.seed,
        )
        return job.run(cells, progress)


def pretrain_file(  # noqa: PLR0913 - the arguments of a user's question
    source: Path | str,
    config: PretrainConfig,
    out: Path | str,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    vocabulary: Vocabulary | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: Callable[[RunProgress], None] | None = None,
) -> RunResult:
    """Train a network from scratch on a corpus store, or on the counts of an h5ad file.

    The cells of a store stay on disk; of an h5ad file the tokens are kept in memory. Under ``torchrun`` every process calls
    this alike, and the first one writes and returns the whole network.

    Parameters
    ----------
    source
        Folder of a store, made by ``cellfm corpus build``, or h5ad file.
    config, out, resume, device, progress
        As in `pretrain`.
    layer, use_raw, gene_names, scale, vocabulary
        As in `pretrain`, for h5ad files; a store has its own genes and holds counts only.

    Returns
    -------
    As `pretrain`.

    Raises
    ------
    CorpusError
        The store is damaged or none.
    ConfigError
        The config asks for what these data cannot give, such as a dataset that is not in the store.

    Examples
    --------
    >>> cellfm.tl.pretrain_file("corpus/", config, "runs/mini")  # doctest: +SKIP
    """
    options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale)
    if Path(source).is_dir():
        return _pretrain_store(
            Path(source),
            config,
            Path(out),
            options=options,
            vocabulary=vocabulary,
            resume=resume,
            device=device,
            progress=progress,
        )
    check_thinning(config, scale)
    with (
        PretrainJob.open(
            config,
            Path(out),
            vocabulary=vocabulary,
            resume=resume,
            device=device,
            origin=Path(source).name,
        ) as job,
        h5ad_source(source, layer=layer, use_raw=use_raw) as (rows, _, var),
    ):
        cells = cells_in_memory(
            rows,
            var,
            vocabulary=job.vocabulary,
            options=options,
            data=config.data,
            seed=config.run.seed,
        )
        return job.run(cells, progress)


def _pretrain_store(
    path: Path,
    config: PretrainConfig,
    out: Path,
    *,
    options: EmbedOptions,
    vocabulary: Vocabulary | None,
    resume: bool,
    device: str | None,
    progress: Callable[[RunProgress], None] | None,
) -> RunResult:
    if options != EmbedOptions() or vocabulary is not None:
        msg = (
            f"{path} is a corpus store: its counts and genes are fixed. layer, use_raw, gene_names, scale and vocabulary are for "
            "h5ad files; leave them out."
        )
        raise ConfigError(msg)
    store = Store.open(path)
    with PretrainJob.open(
        config,
        out,
        vocabulary=store.vocabulary,
        resume=resume,
        device=device,
        origin=f"the corpus {path.name}",
    ) as job:
        return job.run(cells_of_store(store, data=config.data, seed=config.run.seed), progress)
