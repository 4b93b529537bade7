"""Known regulatory networks and lists of regulators, from files, under the symbols of a vocabulary."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cellfm.errors import DataError
from cellfm.genes import GeneTable, Vocabulary
from cellfm.genes.lookup import Lookup
from cellfm.genes.species import check_human
from cellfm.genes.text import read_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADS = ("source", "tf"), ("target", "gene"), ("mode", "effect", "sign")
"""What the columns of a table with a header may be called."""
WHAT = "a text file of genes, or a table with tabs or commas"
N_SHOWN = 5


class Edge(NamedTuple):
    """A source acts on a target; `mode` is as the file has it, such as ``Activation``."""

    source: str
    target: str
    mode: str


def read_known_network(path: str | Path) -> tuple[Edge, ...]:
    """Read a known network.

    Parameters
    ----------
    path
        Tab- or comma-separated text, which may be gzipped: source, target and, if there is one, the mode. Either with a header that names ``source`` (or
        ``tf``) and ``target`` (or ``gene``), or without one in this order, as TRRUST is written.

    Raises
    ------
    DataError
        There is no such file, or a line has no two names.
    """
    path = Path(path)
    lines = [
        line
        for line in read_text(path, WHAT).splitlines()
        if line.strip() and not line.startswith("#")
    ]
    separator = "\t" if lines and "\t" in lines[0] else ","
    rows = [[entry.strip() for entry in row] for row in csv.reader(lines, delimiter=separator)]
    places = _header(rows[0]) if rows else (0, 1, 2)
    if places is None:
        places = (0, 1, 2)
    else:
        rows = rows[1:]
    edges = []
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(places[:2]) or not row[places[0]] or not row[places[1]]:
            msg = f"Row {number} of {path} is {separator.join(row)[:60]!r}; expected a source, a target and perhaps a mode, with tabs or commas between. Correct it."
            raise DataError(msg)
        mode = row[places[2]] if 0 <= places[2] < len(row) else ""
        edges.append(Edge(row[places[0]], row[places[1]], mode))
    if not edges:
        msg = f"{path} holds no edges; expected lines such as SPI1<tab>CD14<tab>Activation. Convert the file to that form."
        raise DataError(msg)
    return tuple(edges)


def read_names(path: str | Path) -> tuple[str, ...]:
    """Read names of genes, one a line; what follows a tab or comma is passed over.

    Parameters
    ----------
    path
        Text file, which may be gzipped.

    Raises
    ------
    DataError
        There is no such file, or it is empty.
    """
    lines = (
        line.replace(",", "\t").split("\t")[0].strip()
        for line in read_text(Path(path), WHAT).splitlines()
    )
    names = tuple(dict.fromkeys(name for name in lines if name and not name.startswith("#")))
    if not names:
        msg = f"{path} holds no names; expected a symbol or Ensembl id in each line. Check the path, or write the names into it."
        raise DataError(msg)
    return names


def _header(row: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the places of source, target and mode (−1 for none) if the row is a header."""
    names = [entry.lower() for entry in row]
    places = [next((names.index(name) for name in choice if name in names), -1) for choice in HEADS]
    # TF and GENE alone could be symbols (TF is transferrin): both must be there.
    return (places[0], places[1], places[2]) if places[0] >= 0 and places[1] >= 0 else None


def tokens_of(names: Iterable[str], vocabulary: Vocabulary) -> Mapping[str, int]:
    """Return the token of each name, 0 for none.

    Parameters
    ----------
    names
        Symbols, earlier symbols, aliases or Ensembl ids.
    vocabulary
        Of the model.

    Raises
    ------
    GeneMatchError
        Most of them are those of another species.
    """
    every = list(dict.fromkeys(names))
    check_human(every)
    lookup = Lookup(vocabulary, GeneTable.load())
    return {name: lookup.find(name).token for name in every}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownNetwork:
    """The part of a known network that data can test: sources with at least one true target × the targets present.

    Attributes
    ----------
    sources, targets
        Symbols.
    true
        (source, target): whether there is an edge.
    allowed
        (source, target): False for a gene and itself.
    n_edges_read
        Different edges of the whole known network.
    """

    sources: "NDArray[np.object_]"
    targets: "NDArray[np.object_]"
    true: "NDArray[np.bool_]"
    allowed: "NDArray[np.bool_]"
    n_edges_read: int

    @property
    def n_edges(self) -> int:
        """True edges among the pairs."""
        return int(self.true.sum())

    @property
    def n_pairs(self) -> int:
        """Pairs that could be edges."""
        return int(self.allowed.sum())

    def of_sources(self, rows: "NDArray[np.integer]") -> "KnownNetwork":
        """Return the network of some of the sources.

        Parameters
        ----------
        rows
            Places of the sources.
        """
        return KnownNetwork(
            sources=self.sources[rows],
            targets=self.targets,
            true=self.true[rows],
            allowed=self.allowed[rows],
            n_edges_read=self.n_edges_read,
        )

    def of_targets(self, columns: "NDArray[np.integer]") -> "KnownNetwork":
        """Return the network of some of the targets; sources that lose all their edges go too.

        Parameters
        ----------
        columns
            Places of the targets.
        """
        rows = np.flatnonzero(self.true[:, columns].any(axis=1))
        return KnownNetwork(
            sources=self.sources[rows],
            targets=self.targets[columns],
            true=self.true[np.ix_(rows, columns)],
            allowed=self.allowed[np.ix_(rows, columns)],
            n_edges_read=self.n_edges_read,
        )


def known_among(
    edges: Sequence[Edge],
    sources: "NDArray[np.object_]",
    targets: "NDArray[np.object_]",
    vocabulary: Vocabulary,
    *,
    least: int = 10,
) -> KnownNetwork:
    """Return what of a known network lies among genes.

    Parameters
    ----------
    edges
        Of the known network, under any names.
    sources, targets
        Symbols of the genes that are present.
    vocabulary
        Of the model: its symbols are those of `sources` and `targets`.
    least
        Fewer edges are refused.

    Raises
    ------
    DataError
        There are fewer edges than `least`.
    GeneMatchError
        The names are those of another species.
    """
    token = tokens_of((name for edge in edges for name in edge[:2]), vocabulary)
    symbol = {name: vocabulary.symbols[number - 1] for name, number in token.items() if number}
    pairs = {
        (symbol.get(edge.source, edge.source), symbol.get(edge.target, edge.target))
        for edge in edges
    }
    row = {name: place for place, name in enumerate(sources.tolist())}
    column = {name: place for place, name in enumerate(targets.tolist())}
    true = np.zeros((len(sources), len(targets)), bool)
    for source, target in pairs:
        if source in row and target in column and source != target:
            true[row[source], column[target]] = True
    if true.sum() < least:
        names = sorted({source for source, _ in pairs})
        n_there = sum(name in row for name in names)
        msg = (
            f"The known network has {int(true.sum())} edges among the genes that these cells express, of {len(pairs):,}; at least {least} are needed. {n_there} of its "
            f"{len(names):,} sources, such as {', '.join(names[:N_SHOWN])}, are among them. Give more cells or genes, or a network of these genes."
        )
        raise DataError(msg)
    kept = np.flatnonzero(true.any(axis=1))
    return KnownNetwork(
        sources=sources[kept],
        targets=targets,
        true=true[kept],
        allowed=sources[kept][:, None] != targets[None, :],
        n_edges_read=len(pairs),
    )
