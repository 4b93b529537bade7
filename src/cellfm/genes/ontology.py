"""Ontologies of terms (OBO files), and the true-path rule: a gene of a term is a gene of everything the term is, or is part of."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from cellfm.errors import DataError
from cellfm.genes.text import read_text

PARENTS = ("is_a", "part_of")
"""Relations along which genes propagate."""
_ID = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]+:\d+)(?!\d)")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ontology:
    """Terms and what they are, or are part of.

    Attributes
    ----------
    names
        Name of each term that is not obsolete, most specific first: a term stands before all that it is or is part of.
    parents
        Terms that a term is, or is part of.
    alternatives
        Term of each secondary id.
    obsolete
        Ids of terms that are no longer used.
    """

    names: Mapping[str, str]
    parents: Mapping[str, tuple[str, ...]]
    alternatives: Mapping[str, str]
    obsolete: frozenset[str]

    def ancestors(self, term: str) -> frozenset[str]:
        """Return all terms that a term is or is part of, over any number of steps, without itself.

        Parameters
        ----------
        term
            Id.
        """
        found: set[str] = set()
        open_ = list(self.parents[term])
        while open_:
            if (parent := open_.pop()) not in found:
                found.add(parent)
                open_.extend(self.parents[parent])
        return frozenset(found)

    def term_of(self, name: str) -> str | None:
        """Return the id that a name holds, such as ``"protein folding (GO:0006457)"``, as the ontology writes it today; None without an id.

        Parameters
        ----------
        name
            Of a gene set; the last id counts.
        """
        ids = _ID.findall(name)
        return self.alternatives.get(ids[-1], ids[-1]) if ids else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Propagated:
    """Gene sets after the true-path rule.

    Attributes
    ----------
    sets
        Those that were given, under their names and in their order; then terms that came by their descendants alone.
    n_terms
        Given sets that are terms of the ontology.
    n_new
        Terms that came by their descendants.
    n_same
        Terms that would have come with just the genes of another set; they are not there.
    obsolete, unknown
        Names of sets whose term is obsolete, or is not in the ontology or not named at all; they stay as they were.
    """

    sets: Mapping[str, tuple[str, ...]]
    n_terms: int
    n_new: int
    n_same: int
    obsolete: tuple[str, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        """Say what was done, in a sentence."""
        text = f"Genes of {self.n_terms:,} terms were propagated along is_a and part_of; {self.n_new:,} terms came by that"
        text += f", {self.n_same:,} with just the genes of another were left out" * (
            self.n_same > 0
        )
        for names, what in ((self.obsolete, "obsolete"), (self.unknown, "not in the ontology")):
            if names:
                text += f"; {len(names):,} sets are {what} and stay as they are ({', '.join(names[:2])}{', …' * (len(names) > 2)})"
        return text + "."


def read_obo(path: str | Path) -> Ontology:
    """Read the terms of an OBO file: id, name, alt_id, is_a, part_of and is_obsolete; nothing else is looked at.

    Parameters
    ----------
    path
        Text file, such as ``go-basic.obo``, which may be gzipped.

    Raises
    ------
    DataError
        There is no such file, it holds no terms, a parent is missing, or a term is its own ancestor.
    """
    path = Path(path)
    text = read_text(path, "an ontology in OBO form, such as go-basic.obo")
    names: dict[str, str] = {}
    parents: dict[str, tuple[str, ...]] = {}
    alternatives: dict[str, str] = {}
    obsolete: set[str] = set()
    for term in _terms(text):
        key = term["id"][0]
        if key in names or key in obsolete:
            msg = f"{path} has the term {key} twice. Give a whole, unchanged OBO file."
            raise DataError(msg)
        if term["is_obsolete"] == ["true"]:
            obsolete.add(key)
            continue
        names[key] = term["name"][0] if term["name"] else key
        parents[key] = tuple(dict.fromkeys(term["is_a"] + term["part_of"]))
        alternatives |= dict.fromkeys(term["alt_id"], key)
    if not names:
        msg = f"{path} holds no terms; expected lines [Term], id: GO:0006457, is_a: GO:0044237. Give an OBO file, such as go-basic.obo."
        raise DataError(msg)
    order = _children_first(parents, path)
    return Ontology(
        names={key: names[key] for key in order},
        parents=parents,
        alternatives={old: new for old, new in alternatives.items() if old not in names},
        obsolete=frozenset(obsolete),
    )


def _terms(text: str) -> Iterator[dict[str, list[str]]]:
    """Yield the tags of each [Term] that has an id."""
    for stanza in re.split(r"^\[", text, flags=re.MULTILINE)[1:]:
        kind, _, body = stanza.partition("]")
        found: dict[str, list[str]] = {
            tag: [] for tag in ("id", "name", "alt_id", "is_a", "part_of", "is_obsolete")
        }
        for line in body.splitlines():
            tag, _, value = line.partition(":")
            # Behind the value may stand modifiers in braces and the name of the term behind "!".
            value = re.split(r"\s(?:!|\{)", value, maxsplit=1)[0].strip() if tag != "name" else value.strip()  # fmt: skip
            if tag == "relationship" and value.startswith("part_of "):
                found["part_of"].append(value.split()[1])
            elif tag in found and tag != "part_of":
                found[tag].append(value)
        if kind == "Term" and found["id"]:
            yield found


def _children_first(parents: Mapping[str, tuple[str, ...]], path: Path) -> list[str]:
    for key, own in parents.items():
        for parent in own:
            if parent not in parents:
                msg = f"{path}: {key} is, or is part of, {parent}, which is no term of the file (or obsolete). Give a whole OBO file."
                raise DataError(msg)
    try:
        parents_first = list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        msg = f"{path}: {' → '.join(error.args[1][::-1])}: a term is its own ancestor. Give an ontology without cycles, such as go-basic.obo."
        raise DataError(msg) from error
    return parents_first[::-1]


def propagate(sets: Mapping[str, Iterable[str]], ontology: Ontology) -> Propagated:
    """Give the genes of each term to all its ancestors (the true-path rule; Ashburner et al. 2000, doi:10.1038/75556).

    Parameters
    ----------
    sets
        Name → genes; a name holds the id of its term, as in ``"protein folding (GO:0006457)"``.
    ontology
        Of the terms.

    Raises
    ------
    DataError
        No set is a term of the ontology.
    """
    term = {name: ontology.term_of(name) for name in sets}
    known = {name: key for name, key in term.items() if key is not None and key in ontology.names}
    if not known:
        some = ", ".join(list(sets)[:3])
        msg = f"None of the {len(sets):,} labels is a term of the ontology; they begin with {some}. Labels must hold the id of a term, such as 'protein folding (GO:0006457)'. Name the labels in that form."
        raise DataError(msg)
    members: dict[str, dict[str, None]] = {}
    for name, key in known.items():
        for each in (key, *sorted(ontology.ancestors(key))):
            members.setdefault(each, {}).update(dict.fromkeys(sets[name]))
    made = {name: tuple(members[known[name]] if name in known else sets[name]) for name in sets}  # fmt: skip
    seen = {frozenset(genes) for genes in made.values()}
    given, n_same = set(known.values()), 0
    for key, name in ontology.names.items():
        if key not in members or key in given:
            continue
        if (genes := frozenset(members[key])) in seen:
            n_same += 1
            continue
        seen.add(genes)
        made[f"{name} ({key})"] = tuple(members[key])
    others = [name for name in sets if name not in known]
    obsolete = tuple(name for name in others if term[name] in ontology.obsolete)
    return Propagated(
        sets=made,
        n_terms=len(known),
        n_new=len(made) - len(sets),
        n_same=n_same,
        obsolete=obsolete,
        unknown=tuple(name for name in others if name not in obsolete),
    )
