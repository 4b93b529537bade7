"""Whether a file, a donor or a cell is in a corpus: what a model was trained on must not be what it is tested on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.curate import CuratedCells, Rules, curate_file
from cellfm.corpus.part import positions
from cellfm.corpus.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.part import Part
    from cellfm.corpus.sources import SourceEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainsResult:
    """What of a source is in a corpus.

    Attributes
    ----------
    name, sha256
        Of the source.
    known_as
        Name of the dataset that is the same file; empty if there is none.
    n_cells_in, n_cells
        Cells of the source, and those that pass the rules of the corpus: only these can be in it.
    n_found
        Those that are in the corpus, with just these counts on the genes of the corpus.
    by_dataset
        The same by dataset of the corpus.
    donors
        Cells in the corpus of each donor that is named by the source, or was asked for, and is named there, too.
    """

    name: str
    sha256: str
    known_as: str
    n_cells_in: int
    n_cells: int
    n_found: int
    by_dataset: Mapping[str, int]
    donors: Mapping[str, int]

    @property
    def fraction(self) -> float:
        """Fraction of the cells that are in the corpus; 0 without cells."""
        return self.n_found / self.n_cells if self.n_cells else 0.0

    @property
    def is_free(self) -> bool:
        """Whether neither the file nor a cell nor a donor of it is in the corpus."""
        return not (self.known_as or self.n_found or self.donors)


def contains(
    store: Store | Path | str, source: "SourceEntry", *, donors: Sequence[str] = ()
) -> ContainsResult:
    """Look for a source in a corpus: as a file, cell by cell, and by the names of its donors.

    The source is curated by the rules of the corpus; 16 bytes for each of its cells are kept, and one part of the corpus is
    looked at after another. Cells of which any count differs are not found; donors are found by exact name only.

    Parameters
    ----------
    store
        The corpus.
    source
        The source.
    donors
        Names to look for besides those in the source.

    Raises
    ------
    SourceError
        The source cannot be used.
    CorpusError
        The corpus is damaged.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    seen: list[NDArray[np.uint64]] = []
    names = set(donors)

    def keep(cells: CuratedCells) -> None:
        seen.append(cells.fingerprint)
        names.update(map(str, np.unique(cells.obs["donor"].astype(str))))

    rules = Rules(**store.manifest.rules)  # type: ignore[arg-type]
    report = curate_file(source, vocabulary=store.vocabulary, rules=rules, sink=keep)
    wanted = np.concatenate(seen) if seen else np.zeros((0, 2), dtype=np.uint64)
    by_dataset, found_donors = _found(store, wanted, names - {""})
    same = [dataset.name for dataset in store.datasets if dataset.sha256 == report.sha256]
    return ContainsResult(
        name=source.name,
        sha256=report.sha256,
        known_as=same[0] if same else "",
        n_cells_in=report.n_cells_in,
        n_cells=len(wanted),
        n_found=sum(by_dataset.values()),
        by_dataset=by_dataset,
        donors=found_donors,
    )


def donors_in(store: Store | Path | str, donors: Sequence[str]) -> dict[str, int]:
    """Return the cells in a corpus of each of these donors that is named there.

    Raises
    ------
    CorpusError
        The corpus is damaged.
    """
    store = store if isinstance(store, Store) else Store.open(store)
    return _found(store, np.zeros((0, 2), dtype=np.uint64), set(donors) - {""})[1]


def _found(
    store: Store, wanted: "NDArray[np.uint64]", donors: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Cells that were found by dataset, and cells of the donors."""
    by_dataset: Counter[str] = Counter()
    by_donor: Counter[str] = Counter()
    for part in store.parts:
        if len(wanted):
            by_dataset.update(_datasets(part, wanted))
        if donors:
            column = part.labels("donor")
            cells = np.bincount(column.codes, minlength=len(column.categories)).tolist()
            pairs = zip(column.categories, cells, strict=True)
            by_donor.update({name: n for name, n in pairs if name in donors and n})
    return dict(sorted(by_dataset.items())), dict(sorted(by_donor.items()))


def _datasets(part: "Part", wanted: "NDArray[np.uint64]") -> Counter[str]:
    """Count the cells that are in a part, by dataset."""
    place = positions(wanted, part.fingerprints())
    label = part.labels("dataset")
    codes, counts = np.unique(label.codes[place[place >= 0]], return_counts=True)
    return Counter({label.categories[c]: int(n) for c, n in zip(codes, counts, strict=True)})
