"""The commands ``cellfm corpus …``."""

from pathlib import Path

from cellfm.cli.console import say
from cellfm.cli.corpus_show import (
    draw,
    print_json,
    show_check,
    show_contained,
    show_description,
    show_result,
    show_sources,
)


def build(  # noqa: PLR0913 - the rules of curation, one option each
    sources: list[Path],
    store: Path,
    /,
    *,
    metadata: Path | None = None,
    min_genes: int = 200,
    max_genes: int | None = None,
    min_counts: int | None = None,
    max_counts: int | None = None,
    max_mito: float | None = None,
    min_matched: float = 0.3,
    recover: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
) -> int:
    """Make a corpus of count files.

    Reads h5ad, 10x h5, 10x mtx folders, csv and tsv; matches genes, checks counts, drops bad and duplicate cells and writes
    one shuffled store. A source that cannot be used is set aside with its reason; the exit code is then 3. A build that was
    killed goes on when the same command is given again, and ends with the same store.

    Parameters
    ----------
    sources
        A list of sources (tsv with the column path, and maybe name, format, layer, use_raw, gene_names, licence, url and
        metadata), folders to search, or count files.
    store
        Folder to make; the last word that is no option.
    metadata
        YAML map of obs columns and values to cell_type, tissue, disease, donor, assay and batch.
    min_genes
        Least expressed genes of a cell that is kept.
    max_genes
        Most expressed genes.
    min_counts
        Least total count.
    max_counts
        Most total count.
    max_mito
        Largest fraction of counts on mitochondrial genes.
    min_matched
        Least fraction of a file's genes that must be known.
    recover
        Recover counts from log-normalised values where that is provably exact.
    workers
        Processes; by default one for each core.
    scheduler
        Address of a Dask scheduler whose workers are used instead.
    dry_run
        List what would be read, and do nothing.

    Examples
    --------
    cellfm corpus build SOURCES.tsv corpus/

    cellfm corpus build downloads/ extra.h5ad corpus/ --max-mito 0.2

    cellfm corpus build SOURCES.tsv corpus/ --metadata map.yaml

    cellfm corpus build SOURCES.tsv corpus/ --scheduler tcp://10.0.0.1:8786
    """
    from cellfm.cli.progress import stage_bars
    from cellfm.corpus.build import build as run
    from cellfm.corpus.curate import Rules
    from cellfm.corpus.sources import read_sources
    from cellfm.weights.atomic import is_free

    rules = Rules(
        min_genes=min_genes,
        max_genes=max_genes,
        min_counts=min_counts,
        max_counts=max_counts,
        max_mito=max_mito,
        min_matched=min_matched,
        recover=recover,
    )
    entries = read_sources(sources, metadata=metadata)
    if dry_run:
        return show_sources(entries)
    was_there = not is_free(store)  # a store appears when it is complete
    with stage_bars() as progress:
        result = run(
            entries, store, rules=rules, n_workers=workers, scheduler=scheduler, progress=progress
        )
    if was_there:
        say(
            f"{store} was made of these sources before and is complete: nothing was read or written. This is what was said then."
        )
    return show_result(result, [entry.name for entry in entries])


def add(
    sources: list[Path],
    store: Path,
    /,
    *,
    metadata: Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
) -> int:
    """Add sources to a corpus.

    The rules are those it was built with. Cells that are in it already are left out, and sources that are in it already are
    passed over. The corpus stays whole and readable whenever this is killed; give the same command again to go on.

    Parameters
    ----------
    sources
        Lists of sources, folders to search, or count files.
    store
        The corpus; the last word that is no option.
    metadata
        YAML map of obs columns and values.
    workers
        Processes; by default one for each core.
    scheduler
        Address of a Dask scheduler whose workers are used instead.
    dry_run
        List what would be read, and do nothing.

    Examples
    --------
    cellfm corpus add new.h5ad corpus/
    """
    from cellfm.cli.progress import stage_bars
    from cellfm.corpus.build import add as run
    from cellfm.corpus.sources import read_sources

    entries = read_sources(sources, metadata=metadata)
    if dry_run:
        return show_sources(entries)
    with stage_bars() as progress:
        result = run(entries, store, n_workers=workers, scheduler=scheduler, progress=progress)
    return show_result(result, [entry.name for entry in entries])


def check(store: Path, *, quick: bool = False, json: bool = False) -> int:
    """Verify that a corpus is whole.

    Compares every file with its checksum and looks at every cell: genes known and in order, counts of at least 1, no cell
    twice, columns that agree with the counts. The exit code is 1 if anything is wrong.

    Parameters
    ----------
    store
        The corpus.
    quick
        Compare the checksums only.
    json
        Print JSON.

    Examples
    --------
    cellfm corpus check corpus/

    cellfm corpus check corpus/ --json
    """
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.check import check as run

    with progress_bar("checking", unit="parts") as progress:
        result = run(store, content=not quick, progress=progress)
    return show_check(result, store, json=json)


def describe(
    store: Path, *, out: Path | None = None, quick: bool = False, json: bool = False
) -> None:
    """Print and draw what is in a corpus.

    Tables of the cells by dataset, cell type, tissue, disease, donor, assay and batch; genes and counts per cell; bytes per
    cell; genes that were seen.

    Parameters
    ----------
    store
        The corpus.
    out
        Folder for pictures: genes per cell, and cells by each column that is known.
    quick
        Do not read the counts, and so do not say which genes were seen.
    json
        Print JSON.

    Examples
    --------
    cellfm corpus describe corpus/

    cellfm corpus describe corpus/ --out pictures/
    """
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.describe import describe as run

    if out is not None:
        from cellfm.optional import require

        require("matplotlib")  # before the counts are read
    with progress_bar("reading", unit="cells") as progress:
        said = run(store, counts=not quick, progress=progress)
    files = [] if out is None else draw(said, out)
    if json:
        print_json(said.to_dict())
    else:
        show_description(said, files)


def contains(
    store: Path,
    source: Path,
    *,
    donor: list[str] | None = None,
    metadata: Path | None = None,
    json: bool = False,
) -> int:
    """Say whether a file, its cells and its donors are in a corpus.

    The file is found by its checksum, its cells by their counts, whatever file or format they came in, and its donors by
    name. Use it before a benchmark on SOURCE: what a model was trained on is no test. The exit code does not depend on what
    is found; it is 3 if some of several sources cannot be used.

    Parameters
    ----------
    store
        The corpus.
    source
        Count file, 10x folder, folder to search or list of sources; read by the rules of the corpus.
    donor
        Name of a donor to look for besides those of SOURCE; may be given again.
    metadata
        YAML map of obs columns and values, by which donors are found in SOURCE.
    json
        Print JSON.

    Examples
    --------
    cellfm corpus contains corpus/ benchmark.h5ad

    cellfm corpus contains corpus/ benchmark.h5ad --donor P12 --donor P13 --json
    """
    from dataclasses import asdict

    from cellfm.cli import SET_ASIDE
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.contains import contains as run
    from cellfm.corpus.sources import read_sources
    from cellfm.corpus.store import Store
    from cellfm.errors import SourceError

    opened, entries = Store.open(store), read_sources([source], metadata=metadata)
    results, problems = [], []
    with progress_bar("reading", unit="sources") as progress:
        for number, entry in enumerate(entries):
            progress(number, len(entries))
            try:
                results.append(run(opened, entry, donors=donor or ()))
            except SourceError as error:
                if len(entries) == 1:
                    raise
                problems.append(f"{entry.name} cannot be used: {error}")
    if json:
        print_json([{**asdict(result), "is_free": result.is_free} for result in results])
    else:
        show_contained(results, problems)
    return SET_ASIDE if problems else 0
