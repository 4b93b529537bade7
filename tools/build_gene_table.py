"""Compile the gene table of the package from HGNC's complete set (public domain).

::

    python tools/build_gene_table.py hgnc_complete_set.txt[.gz] [FOLDER]

The complete set is published at https://www.genenames.org/download/archive/ . Two files are
written to FOLDER (default: the data folder of the package), both byte for byte the same for the
same input: ``hgnc.tsv.xz`` (the facts the resolver needs) and ``hgnc.json`` (where they are from).
"""

import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "src" / "cellfm" / "genes" / "data"
GZIP_MAGIC = b"\x1f\x8b"
# Column of our table -> column of HGNC's.
COLUMNS = {
    "hgnc_id": "hgnc_id",
    "symbol": "symbol",
    "ensembl_id": "ensembl_gene_id",
    "aliases": "alias_symbol",
    "previous": "prev_symbol",
    "locus_group": "locus_group",
    "locus_type": "locus_type",
}


def read_source(path: Path) -> bytes:
    """Return the text of HGNC's file, unpacked when it is a gzip file."""
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content


def read_rows(source: bytes) -> list[dict[str, str]]:
    """Return HGNC's approved genes in the order of their number."""
    rows = csv.DictReader(io.StringIO(source.decode("utf-8"), newline=""), delimiter="\t")
    wanted = {*COLUMNS.values(), "status", "date_modified"}
    missing = sorted(wanted - set(rows.fieldnames or ()))
    if missing:
        sys.exit(f"This is not HGNC's complete set: the columns {', '.join(missing)} are missing.")
    approved = [row for row in rows if row["status"] == "Approved"]
    return sorted(approved, key=lambda row: number(row["hgnc_id"]))


def number(identifier: str) -> int:
    """Return 5 for ``HGNC:5``."""
    return int(identifier.removeprefix("HGNC:"))


def names(field: str, symbol: str) -> str:
    """Return the distinct names of a field, without the gene's own symbol."""
    distinct = dict.fromkeys(name.strip() for name in field.split("|"))
    return "|".join(name for name in distinct if name and name != symbol)


def table_text(rows: list[dict[str, str]]) -> str:
    """Return our table: one line a gene, numbers instead of full identifiers."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        ensembl = row["ensembl_gene_id"].removeprefix("ENSG").lstrip("0")
        aliases, previous = (
            names(row[key], row["symbol"]) for key in ("alias_symbol", "prev_symbol")
        )
        fields = [str(number(row["hgnc_id"])), row["symbol"], ensembl, aliases, previous]
        lines.append("\t".join([*fields, row["locus_group"], row["locus_type"]]))
    return "\n".join(lines) + "\n"


def facts(source: bytes, rows: list[dict[str, str]]) -> dict[str, str | int]:
    """Return where the table is from and how to make it anew."""
    return {
        "source": "HGNC complete set (HUGO Gene Nomenclature Committee, genenames.org)",
        "source_date": max(row["date_modified"] for row in rows),
        "source_sha256": hashlib.sha256(source).hexdigest(),
        "source_sha256_of": "the unpacked text",
        "n_genes": len(rows),
        "licence": "CC0-1.0",
        "rebuild": "python tools/build_gene_table.py hgnc_complete_set.txt.gz",
    }


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def build(source_path: Path, folder: Path) -> dict[str, str | int]:
    """Write ``hgnc.tsv.xz`` and ``hgnc.json`` to a folder."""
    source = read_source(source_path)
    rows = read_rows(source)
    told = facts(source, rows)
    packed = lzma.compress(
        table_text(rows).encode(), format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME
    )
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "hgnc.tsv.xz", packed)
    write(folder / "hgnc.json", (json.dumps(told, indent=2) + "\n").encode())
    return told


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if not 1 <= len(arguments) <= 2:
        sys.exit("usage: python tools/build_gene_table.py HGNC.txt[.gz] [FOLDER]")
    folder = Path(arguments[1]) if len(arguments) == 2 else DATA
    told = build(Path(arguments[0]), folder)
    print(f"{told['n_genes']:,} genes of {told['source_date']} written to {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
