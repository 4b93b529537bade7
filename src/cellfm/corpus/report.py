"""What became of one source: the account that the build keeps of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from cellfm.errors import CorpusError

if TYPE_CHECKING:
    from cellfm.corpus.sources import SourceEntry

DROP_RULES = ("empty", "min_genes", "max_genes", "min_counts", "max_counts", "max_mito")
"""Rules in their order; a cell is counted under the first that it breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A matrix that was tried for counts.

    Attributes
    ----------
    matrix
        Its place in the file, such as ``layers/counts``.
    taken
        Whether it became the source of the counts.
    reason
        Why it was taken or not.
    """

    matrix: str
    taken: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """Account of one source, fit for JSON; nothing in it but `seconds` and `path` depends on when or where it was read.

    Attributes
    ----------
    name, path, licence, url
        As in the list of sources.
    sha256, n_bytes, format
        Of the file, or of all files that the source is made of; the reader's name.
    matrix, trials
        Matrix that was taken, and every one that was tried in order.
    recovered
        How the counts were proved when they were recovered from normalised values; empty otherwise.
    genes_from
        Which names the genes were found by.
    n_cells_in, dropped, n_cells_curated
        Rows of the file; those dropped, by rule; those handed on. The first is the sum of the others.
    n_values
        Stored (cell, gene) pairs of the cells handed on.
    n_duplicates_within, n_duplicates_across
        Cells handed on of which a copy stays in this source, or in another; None until the build has merged.
    genes, coverage
        Account of the gene names; fraction of all counts of the file that are on vocabulary genes.
    metadata
        Where each harmonised column came from.
    notes
        What else a reader should know, such as features left out.
    seconds
        Wall time of reading and curating.
    status, reason
        ``"curated"``, or ``"set aside"`` and why.
    """

    name: str
    path: str
    licence: str = ""
    url: str = ""
    sha256: str = ""
    n_bytes: int = 0
    format: str = ""
    matrix: str = ""
    trials: tuple[Trial, ...] = ()
    recovered: str = ""
    genes_from: str = ""
    n_cells_in: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_RULES, 0))
    n_cells_curated: int = 0
    n_values: int = 0
    n_duplicates_within: int | None = None
    n_duplicates_across: int | None = None
    genes: Mapping[str, object] = field(default_factory=dict)
    coverage: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    status: Literal["curated", "set aside"] = "curated"
    reason: str = ""

    @staticmethod
    def of_set_aside(entry: "SourceEntry", reason: str, *, seconds: float = 0.0) -> "FileReport":
        """Make the report of a source that could not be used."""
        return FileReport(
            name=entry.name,
            path=str(entry.path),
            licence=entry.licence,
            url=entry.url,
            format=entry.format or "",
            seconds=seconds,
            status="set aside",
            reason=reason,
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, object]) -> "FileReport":
        """Make a report of what `to_dict` gave.

        Raises
        ------
        CorpusError
            Keys are missing or not known.
        """
        known = {entry.name for entry in fields(FileReport)}
        if set(data) != known:
            wrong = ", ".join(sorted(known ^ set(data)))
            msg = f"The report of a source has other fields than this version of cellfm writes ({wrong}). Build the corpus again."
            raise CorpusError(msg)
        values = dict(data)
        values["trials"] = tuple(Trial(**trial) for trial in data["trials"])  # type: ignore[attr-defined]
        values["notes"] = tuple(data["notes"])  # type: ignore[arg-type]
        return FileReport(**values)  # type: ignore[arg-type]
