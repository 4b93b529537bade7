"""Names that are not human genes, and the species prefixes of mixed references."""

import re
from collections.abc import Sequence

from cellfm.errors import GeneMatchError

# References of two species put the genome's name before the gene: GRCh38_ACTB, mm10___Actb.
_HUMAN_PREFIX = re.compile(r"^(?:GRCh3[78]|hg19|hg38)(?:-\d{4}-[A-Z])?_+(?=[^_])", re.IGNORECASE)
_MOUSE_PREFIX = re.compile(r"(?:GRCm3[89]|mm10|mm39)(?:-\d{4}-[A-Z])?_+(?=[^_])", re.IGNORECASE)
_OTHER_ENSEMBL = re.compile(r"ENS[A-Z]{3,4}G\d{11}", re.IGNORECASE)
# Actb, Cd3e, Gm1234, H2-Ab1, Hba-a1, 1700001C19Rik, mt-Nd1; human C1orf21 is no such name.
_MOUSE_SYMBOL = re.compile(
    r"(?!C(?:\d+|X|Y)orf)[A-Z](?=\d*[a-z])[a-z0-9.-]*$|mt-[A-Z][a-z]|H2-[A-Z][a-z0-9]*$|.*Rik$"
)


def strip_genome(name: str) -> str:
    """Return a name without the prefix of a human genome."""
    return _HUMAN_PREFIX.sub("", name) if "_" in name else name


def has_mouse_style(name: str) -> bool:
    """Tell whether a symbol is written as those of mouse and rat are: ``Actb``, ``mt-Nd1``."""
    return _MOUSE_SYMBOL.match(name) is not None


def is_other_species(name: str) -> bool:
    """Tell whether a name says itself that it is no human gene."""
    return _OTHER_ENSEMBL.match(name) is not None or _MOUSE_PREFIX.match(name) is not None


def check_human(names: Sequence[str]) -> None:
    """Refuse genes of which the majority is not human."""
    bare = [strip_genome(name) for name in names]
    foreign = [name for name in bare if is_other_species(name) or has_mouse_style(name)]
    if 2 * len(foreign) <= len(bare):
        return
    n_mouse = sum(
        name.upper().startswith("ENSMUSG") or not _OTHER_ENSEMBL.match(name) for name in foreign
    )
    species = "mouse" if 2 * n_mouse > len(foreign) else "another species"
    msg = (
        f"The genes look like those of {species}: {len(foreign):,} of {len(bare):,} input names, "
        f"such as {', '.join(foreign[:5])}. CellFM knows human genes only. Map one-to-one "
        "orthologues to human symbols first; if these are human genes in title case, pass the "
        "names in upper case."
    )
    raise GeneMatchError(msg)
