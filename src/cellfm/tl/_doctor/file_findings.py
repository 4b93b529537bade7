"""What was seen of a file, in words, with what to do about it."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from cellfm.genes import GeneReport
from cellfm.tl._doctor.columns import ObsColumn
from cellfm.tl._doctor.cost import Cost
from cellfm.tl._doctor.finding import Finding, duration_text, size_text
from cellfm.tl._doctor.genes import FEW, NamedGenes
from cellfm.tl._doctor.machine import machine_memory
from cellfm.tl._doctor.matrix import WORDS, Kind, MatrixFacts

WITHOUT_COUNTS: dict[Kind, str] = {
    "log1p": "go back to the file with the counts; 'cellfm corpus build --recover' takes them back where that is exact; embed, annotate, integrate "
    "and map take --scale log1p, at the price of the read depth",
    "logged": "go back to the file with the counts; if these are log1p of normalised counts, say --scale log1p, at the price of the read depth",
    "empty": "check how the file was made: all values are 0",
    "broken": "check how the file was made: values are missing, infinite or beyond 2^24",
    "rounded": "go back to the file from before the conversion to float16, which rounds counts above 2,048",
}
"""What to do where no matrix holds counts."""
FROM_BEFORE = "go back to the file from before this step: from such values the counts cannot be had"


def unreadable(path: Path, message: str) -> Finding:
    """Return the finding that a file cannot be read.

    Parameters
    ----------
    path
        The file.
    message
        What was said of it.
    """
    todo = ""  # of a file that is not there, or of another kind, the message says all
    if path.name.removesuffix(".gz").endswith((".csv", ".tsv", ".txt")) and path.is_file():
        todo = "open it in an editor: a table of counts has a line of names above, names at the left, and numbers between"
    elif path.suffix in (".h5ad", ".h5") and path.is_file():
        todo = f"it has {path.stat().st_size:,} bytes: compare that with where it is from, and copy it again"
    return Finding(topic="file", level="problem", text=message, todo=todo)


def scale_findings(matrices: Sequence[MatrixFacts], chosen: MatrixFacts) -> Iterator[Finding]:
    """Yield where the counts are, or what is there instead.

    Parameters
    ----------
    matrices
        All that were looked at, X first.
    chosen
        The one to be read.
    """
    if chosen.kind != "counts":
        looked = ", ".join(each.name for each in matrices)
        text = f"no raw counts: {chosen.name} is {WORDS[chosen.kind]} (looked at {looked})"
        todo = WITHOUT_COUNTS.get(chosen.kind, FROM_BEFORE)
        yield Finding(topic="counts", level="problem", text=text, todo=todo)
    elif chosen.name != matrices[0].name:
        text = f"{matrices[0].name} does not hold counts, {chosen.name} does"
        option = "--use-raw" if chosen.name == "raw/X" else f"--layer {chosen.name.removeprefix('layers/')}"  # fmt: skip
        yield Finding(topic="counts", level="note", text=text, todo=f"say {option} to every command")  # fmt: skip


def gene_findings(named: NamedGenes, report: GeneReport | None) -> Iterator[Finding]:
    """Yield which names were taken and how they match.

    Parameters
    ----------
    named
        The names.
    report
        How they match; None where they do not.
    """
    if report is None:
        yield Finding(topic="genes", level="problem", text=named.problem)
        return
    by = "the index of var" if named.column is None else f"column {named.column!r} of var"
    share = report.n_matched / report.n_input
    coverage = "" if report.coverage is None else f" with {report.coverage:.1%} of the counts"
    rules = ", ".join(f"{rule} {count:,}" for rule, count in report.by_rule.items())
    text = f"{report.n_matched:,} of {report.n_input:,} known to the model ({share:.1%}){coverage}, by {by}; matched by {rules}"
    few = share < FEW
    todo = f"look at the names that are not known, such as {', '.join(report.unmatched[:5])}"
    yield Finding(topic="genes", level="note" if few else "ok", text=text, todo=todo if few else "")
    if named.column is not None:
        text = f"column {named.column!r} names more genes of the model than the index of var"
        todo = f"say --gene-names {named.column} to every command"
        yield Finding(topic="genes", level="note", text=text, todo=todo)


def name_findings(named: NamedGenes, n_cells: int) -> Iterator[Finding]:
    """Yield which names are there more than once.

    Parameters
    ----------
    named
        Names of genes.
    n_cells
        Names of cells that repeat another.
    """
    if named.n_duplicates:
        text = f"{named.n_duplicates:,} names of genes repeat another; their counts are summed"
        todo = "nothing, or adata.var_names_make_unique() before you work with the file in scanpy"
        yield Finding(topic="names", level="note", text=text, todo=todo)
    if n_cells:
        todo = "adata.obs_names_make_unique(), or tables cannot be joined by cell"
        yield Finding(topic="names", level="note", text=f"{n_cells:,} names of cells repeat another", todo=todo)  # fmt: skip


def cell_finding(n_empty: int, n_seen: int, genes_per_cell: float) -> Finding:
    """Return whether there are cells that have no state.

    Parameters
    ----------
    n_empty
        Cells without a count on a gene of the model.
    n_seen
        Among so many.
    genes_per_cell
        Expressed genes of the model, on average.
    """
    text = f"{genes_per_cell:,.0f} genes of the model expressed in a cell on average, among {n_seen:,} cells looked at"
    if not n_empty:
        return Finding(topic="cells", text=text)
    todo = (
        "filter them out (scanpy.pp.filter_cells(adata, min_genes=1)), or say --empty nan to embed, denoise and map query: the other commands "
        "refuse them"
    )
    return Finding(topic="cells", level="note", text=f"{n_empty:,} without any gene of the model; {text}", todo=todo)  # fmt: skip


def column_findings(columns: Sequence[ObsColumn]) -> Iterator[Finding]:
    """Yield what the columns of obs look like.

    Parameters
    ----------
    columns
        Those that group cells.
    """
    for each in columns:
        what = " and ".join(each.roles) or "groups of some kind"
        missing = f", {each.n_missing:,} cells without" if each.n_missing else ""
        sizes = f"{each.n_values:,} values, {each.smallest:,} to {each.largest:,} cells each"
        values = "one value in all cells" if each.n_values == 1 else sizes
        yield Finding(topic="obs", text=f"{each.name} looks like {what}: {values}{missing}")
    if not columns:
        yield Finding(topic="obs", text="no column groups the cells")


def no_estimate(n_bytes: int) -> Finding:
    """Return why there is no estimate of a large matrix stored by columns.

    Parameters
    ----------
    n_bytes
        Size of the file.
    """
    text = f"no estimate: the matrix is stored by columns, and commands first write its {size_text(n_bytes)} to scratch files"
    todo = "if that is slow, write it by rows once: cellfm convert"
    return Finding(topic="time", level="note", text=text, todo=todo)


def cost_findings(cost: Cost, path: Path) -> Iterator[Finding]:
    """Yield what embedding takes, and whether there is room for it.

    Parameters
    ----------
    cost
        As measured.
    path
        The file, beside which the target would be.
    """
    text = (
        f"embed takes about {duration_text(cost.seconds)} by {cost.model} on {cost.device} ({cost.cells_per_second:,.0f} cells/s; estimate from "
        f"{cost.n_sample:,} cells)"
    )
    if cost.peak_memory:
        text += f", {size_text(cost.peak_memory)} of memory"
    if cost.peak_device_memory:
        text += f" and {size_text(cost.peak_device_memory)} of that of the device"
    yield Finding(topic="time", text=f"{text}, {size_text(cost.disk)} of disk")
    _, free = machine_memory()
    if free is not None and free < cost.peak_memory:
        text = f"{size_text(cost.peak_memory)} of memory are needed, {size_text(free)} are free"
        yield Finding(topic="memory", level="problem", text=text, todo="close other programs, or lower --token-budget")  # fmt: skip
    room = shutil.disk_usage(path.resolve().parent).free
    if cost.disk > room:
        text = (
            f"{size_text(cost.disk)} of disk are needed, {size_text(room)} are free beside the file"
        )
        yield Finding(topic="disk", level="problem", text=text, todo="give a target on another disk")  # fmt: skip
