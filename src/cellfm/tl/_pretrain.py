"""Pretraining on counts: AnnData or file in, run folder and weights folder out."""

from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.config import PretrainConfig
from cellfm.corpus.adata import anndata_source
from cellfm.corpus.counts import Scale
from cellfm.corpus.rows import h5ad_source
from cellfm.genes import Vocabulary
from cellfm.tl._embed import Progress
from cellfm.tl._pretrain_job import PretrainJob
from cellfm.tl._states import EmbedOptions
from cellfm.train import RunResult

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
    progress: Progress | None = None,
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
        Called with (steps done, steps in all).

    Returns
    -------
    Where the run stands. Writes into `out`: ``config.json`` (resolved), ``genes.tsv``, ``data.json``, ``metrics.jsonl``,
    ``checkpoints/`` and, at the end, the weights folder ``model/``. The AnnData is not changed.

    Raises
    ------
    OutputExistsError
        `out` holds something and `resume` is false.
    ResumeError
        `out` holds a run with other settings, genes or cells.
    ConfigError
        The config asks for what these data cannot give.
    GeneMatchError, CountsError, DataError
        As in `embed`.

    Examples
    --------
    >>> from cellfm.config import PretrainConfig, load
    >>> config = load(PretrainConfig, "cellfm-mini", ["schedule.n_steps=500"])
    >>> cellfm.tl.pretrain(adata, config, "runs/mini").held_out  # doctest: +SKIP
    """
    options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale)
    job = PretrainJob.start(
        config,
        Path(out),
        options=options,
        vocabulary=vocabulary,
        resume=resume,
        device=device,
        origin="an AnnData in memory",
    )
    source, var = anndata_source(adata, layer=layer, use_raw=use_raw)
    return job.run(source, var, progress)


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
    progress: Progress | None = None,
) -> RunResult:
    """Train a network from scratch on the counts of an h5ad file, of which only the tokens are kept in memory.

    Parameters
    ----------
    source
        h5ad file.
    config, out, layer, use_raw, gene_names, scale, vocabulary, resume, device, progress
        As in `pretrain`.

    Returns
    -------
    As `pretrain`.

    Examples
    --------
    >>> cellfm.tl.pretrain_file("pbmc.h5ad", config, "runs/mini")  # doctest: +SKIP
    """
    options = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale)
    job = PretrainJob.start(
        config,
        Path(out),
        options=options,
        vocabulary=vocabulary,
        resume=resume,
        device=device,
        origin=Path(source).name,
    )
    with h5ad_source(source, layer=layer, use_raw=use_raw) as (rows, _, var):
        return job.run(rows, var, progress)
