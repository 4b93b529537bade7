"""``report.json``: the account of a whole corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cellfm.corpus.manifest import REPORT, REPORTS, Manifest, SetAside, read_json, write_json
from cellfm.corpus.report import DROP_RULES, FileReport
from cellfm.errors import CorpusError


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusReport:
    """Sums over the sources of a corpus.

    Attributes
    ----------
    n_sources, n_curated, n_set_aside
        Sources by what became of them.
    n_cells_in, dropped, n_duplicates_within, n_duplicates_across, n_cells
        Cells of the curated sources, those dropped by each rule, copies left out within and across sources, and those in
        the corpus: the first is the sum of the others.
    n_values, n_genes_per_cell
        Stored counts, and their number per cell.
    coverage
        Fraction of the counts that are on vocabulary genes, averaged over the cells of the sources.
    n_bytes, n_bytes_per_cell
        Space on disk that the cells take.
    seconds_curating
        Sum over the sources; more than one may have been read at a time.
    seconds
        Wall time of the builds and additions that came to their end.
    sources
        For each, by name: status, cells in and in the corpus, coverage.
    """

    n_sources: int
    n_curated: int
    n_set_aside: int
    n_cells_in: int
    dropped: Mapping[str, int]
    n_duplicates_within: int
    n_duplicates_across: int
    n_cells: int
    n_values: int
    n_genes_per_cell: float
    coverage: float
    n_bytes: int
    n_bytes_per_cell: float
    seconds_curating: float
    seconds: float
    sources: Mapping[str, Mapping[str, str | int | float | None]]

    def write(self, folder: Path) -> None:
        """Write it into a store."""
        write_json(folder / REPORT, asdict(self))

    @classmethod
    def read(cls, store: Path) -> "CorpusReport":
        """Read it from a store.

        Raises
        ------
        CorpusError
            It is missing or damaged.
        """
        said = read_json(store / REPORT)
        try:
            return cls(**{entry.name: said[entry.name] for entry in fields(cls)})
        except KeyError as error:
            msg = f"{store / REPORT} lacks {error}; it was changed. Restore it from a copy or build the corpus again."
            raise CorpusError(msg) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A corpus that was built, added to or found.

    Attributes
    ----------
    store
        Its folder.
    manifest
        What it holds.
    report
        The account.
    skipped
        Names of sources that were to be added and are in it already, each with the name that it has there.
    """

    store: Path
    manifest: Manifest
    report: CorpusReport
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def set_aside(self) -> tuple[SetAside, ...]:
        """Sources that are not in the corpus, and why."""
        return self.manifest.set_aside

    @classmethod
    def of(cls, store: Path, *, skipped: tuple[tuple[str, str], ...] = ()) -> "BuildResult":
        """Read the result from a store."""
        return cls(
            store=store,
            manifest=Manifest.read(store),
            report=CorpusReport.read(store),
            skipped=skipped,
        )


def corpus_report(
    reports: Sequence[FileReport], manifest: Manifest, *, n_bytes: int, seconds: float
) -> CorpusReport:
    """Add up the reports of all sources."""
    curated = [report for report in reports if report.status == "curated"]
    n_in = sum(report.n_cells_in for report in curated)
    covered = sum((report.coverage or 0.0) * report.n_cells_in for report in curated)
    kept = {dataset.name: dataset.n_cells for dataset in manifest.datasets}
    return CorpusReport(
        n_sources=len(reports),
        n_curated=len(curated),
        n_set_aside=len(reports) - len(curated),
        n_cells_in=n_in,
        dropped={
            rule: sum(report.dropped.get(rule, 0) for report in curated) for rule in DROP_RULES
        },
        n_duplicates_within=sum(report.n_duplicates_within or 0 for report in curated),
        n_duplicates_across=sum(report.n_duplicates_across or 0 for report in curated),
        n_cells=manifest.n_cells,
        n_values=manifest.n_values,
        n_genes_per_cell=manifest.n_values / max(manifest.n_cells, 1),
        coverage=covered / max(n_in, 1),
        n_bytes=n_bytes,
        n_bytes_per_cell=n_bytes / max(manifest.n_cells, 1),
        seconds_curating=sum(report.seconds for report in reports),
        seconds=seconds,
        sources={
            report.name: {
                "status": report.status,
                "n_cells_in": report.n_cells_in,
                "n_cells": kept.get(report.name, 0),
                "coverage": report.coverage,
            }
            for report in reports
        },
    )


def read_reports(store: Path) -> list[FileReport]:
    """Read the reports of all sources of a store, by name."""
    reports = (FileReport.from_dict(read_json(path)) for path in (store / REPORTS).glob("*.json"))
    return sorted(reports, key=lambda report: report.name)


def n_bytes_of(store: Path, manifest: Manifest) -> int:
    """Space on disk that the cells of a store take."""
    folders = [store / part.path for part in manifest.parts]
    return sum(
        path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()
    )
