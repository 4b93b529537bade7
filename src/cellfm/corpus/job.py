"""``job.json``: what a corpus is, or is being, made of; tells whether a build is the same as another."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cellfm.corpus.curate import Rules
from cellfm.corpus.manifest import RuleValue, read_json, write_json
from cellfm.corpus.runs import Signature, digest_of, signature_of
from cellfm.corpus.sources import SourceEntry
from cellfm.errors import CellFMError, CorpusError

JOB = "job.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Sources, rules and gene list of a build.

    Attributes
    ----------
    vocabulary
        Hash of the gene list.
    rules
        Which cells are kept.
    sources
        Each source's entry in plain values, by name.
    files
        Signature and digest of each source that was read, by name.
    """

    vocabulary: str
    rules: Mapping[str, RuleValue]
    sources: Mapping[str, Mapping[str, object]]
    files: Mapping[str, tuple[Signature, str]]

    @classmethod
    def of(cls, sources: Sequence[SourceEntry], *, rules: Rules, vocabulary: str) -> "Job":
        """Make the job of a build that has read nothing yet."""
        return cls(
            vocabulary=vocabulary,
            rules=asdict(rules),
            sources={entry.name: _plain(entry) for entry in sources},
            files={},
        )

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """Read the job of a folder.

        Raises
        ------
        CorpusError
            It is missing or damaged.
        """
        said = read_json(folder / JOB)
        try:
            files = {
                name: (tuple((file, size, time) for file, size, time in signature), sha256)
                for name, (signature, sha256) in said["files"].items()
            }
            return cls(
                vocabulary=said["vocabulary"],
                rules=said["rules"],
                sources=said["sources"],
                files=files,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = f"{folder / JOB} is damaged ({error!r}). Restore it from a copy or build the corpus again."
            raise CorpusError(msg) from error

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        write_json(folder / JOB, asdict(self))

    def joined(self, other: "Job") -> "Job":
        """Return the job of a corpus after the sources of another were added to it."""
        added = {name: said for name, said in other.sources.items() if name in other.files}
        return replace(
            self,
            sources=dict(sorted({**self.sources, **added}.items())),
            files=dict(sorted({**self.files, **other.files}.items())),
        )

    def is_same(self, other: "Job") -> bool:
        """Whether sources, rules and gene list are the same."""
        return (self.vocabulary, self.rules, self.sources) == (
            other.vocabulary,
            other.rules,
            other.sources,
        )

    def differing_file(self, sources: Sequence[SourceEntry]) -> str:
        """Name of the first source whose files are not as they were; empty if there is none."""
        for entry in sources:
            signature, sha256 = self.files.get(entry.name, ((), ""))
            if signature_of(entry) != signature and not _has_digest(entry, sha256):
                return entry.name
        return ""


def _has_digest(entry: SourceEntry, sha256: str) -> bool:
    """Whether a source that was touched still has its content."""
    try:
        return bool(sha256) and digest_of(entry) == sha256
    except (OSError, CellFMError):
        return False


def _plain(entry: SourceEntry) -> dict[str, Any]:
    """Turn an entry into values that JSON gives back as they were."""
    said = asdict(entry)
    columns = {name: list(names) for name, names in entry.mapping.columns.items()}
    return {**said, "path": str(entry.path), "mapping": {**said["mapping"], "columns": columns}}
