"""The human genes and every name they go by (compiled from HGNC's public-domain complete set)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from cellfm.errors import DataError

COLUMNS = ("hgnc_id", "symbol", "ensembl_id", "aliases", "previous", "locus_group", "locus_type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One human gene; an unknown fact is an empty string."""

    symbol: str
    hgnc_id: str = ""
    ensembl_id: str = ""
    locus_group: str = ""
    locus_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneTable:
    """Approved genes in the order of their HGNC number, and maps from names to them.

    Attributes
    ----------
    genes
        Every approved gene.
    source_date
        Date of the HGNC file, as year-month-day.
    approved
        Gene of each approved symbol. The keys of this and of the other maps are upper case.
    ensembl
        Genes of each Ensembl id without version; a few ids are shared.
    previous
        Genes that once had a symbol.
    aliases
        Genes that have an alias.
    """

    genes: tuple[Gene, ...]
    source_date: str
    approved: Mapping[str, Gene]
    ensembl: Mapping[str, tuple[Gene, ...]]
    previous: Mapping[str, tuple[Gene, ...]]
    aliases: Mapping[str, tuple[Gene, ...]]

    @staticmethod
    def load() -> "GeneTable":
        """Read the table of the package; the second call returns the same object."""
        return _load()

    @staticmethod
    def parse(text: str, *, source_date: str) -> "GeneTable":
        """Read a table in the form that ``tools/build_gene_table.py`` writes."""
        header, *lines = text.removesuffix("\n").split("\n")
        if tuple(header.split("\t")) != COLUMNS:
            msg = (
                f"The gene table starts with {header[:80]!r}; the columns {', '.join(COLUMNS)} were "
                "expected. Install cellfm again, or rebuild it with tools/build_gene_table.py."
            )
            raise DataError(msg)
        genes: list[Gene] = []
        aliases: list[tuple[str, Gene]] = []
        previous: list[tuple[str, Gene]] = []
        for line in lines:
            number, symbol, ensembl, other, earlier, group, kind = line.split("\t")
            gene = Gene(
                symbol=symbol,
                hgnc_id=f"HGNC:{number}",
                ensembl_id=f"ENSG{ensembl:0>11}" if ensembl else "",
                locus_group=group,
                locus_type=kind,
            )
            genes.append(gene)
            if other:
                aliases.extend((name, gene) for name in other.split("|"))
            if earlier:
                previous.extend((name, gene) for name in earlier.split("|"))
        return GeneTable(
            genes=tuple(genes),
            source_date=source_date,
            approved={gene.symbol.upper(): gene for gene in genes},
            ensembl=_gather((gene.ensembl_id, gene) for gene in genes if gene.ensembl_id),
            previous=_gather(previous),
            aliases=_gather(aliases),
        )

    def candidates(self, name: str) -> tuple[Gene, ...]:
        """Genes that an upper-case previous symbol or alias can mean.

        A symbol that was approved once names its gene better than it names those that have it as an
        alias: ``SEPT2`` is SEPTIN2, although SEPTIN6 is called so too.
        """
        return self.previous.get(name) or self.aliases.get(name, ())

    def identify(self, symbol: str) -> Gene | None:
        """Gene that a symbol stands for or stood for when it was approved.

        Aliases do not count: a vocabulary is a list of symbols that were approved at its time, so
        a symbol with one earlier owner is that gene even if others have it as an alias.
        """
        name = symbol.upper()
        if name in self.approved:
            return self.approved[name]
        owners = self.previous.get(name, ())
        return owners[0] if len(owners) == 1 else None


def _gather(pairs: Iterable[tuple[str, Gene]]) -> dict[str, tuple[Gene, ...]]:
    """Genes of each name in upper case, in the order of the table."""
    gathered: dict[str, tuple[Gene, ...]] = {}
    for name, gene in pairs:
        key = name.upper()
        known = gathered.get(key)
        if known is None:
            gathered[key] = (gene,)
        elif known[-1] is not gene:  # the names of a gene come together
            gathered[key] = (*known, gene)
    return gathered


@cache
def _load() -> GeneTable:
    import lzma

    data = files("cellfm.genes") / "data"
    try:
        facts = json.loads((data / "hgnc.json").read_text(encoding="utf-8"))
        text = lzma.decompress((data / "hgnc.tsv.xz").read_bytes()).decode("utf-8")
    except (OSError, ValueError, lzma.LZMAError) as error:
        msg = f"The gene table of the package cannot be read ({error}). Install cellfm again."
        raise DataError(msg) from error
    return GeneTable.parse(text, source_date=facts["source_date"])
