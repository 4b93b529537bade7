"""The list of sources that a corpus is made of."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cellfm.corpus.metadata import METADATA, MetadataMap, check_known, read_metadata_map
from cellfm.corpus.readers.damage import reading
from cellfm.corpus.readers.registry import accepting_reader, check_format
from cellfm.corpus.readers.table import SUFFIXES
from cellfm.corpus.readers.tenx_mtx import BARCODES, FEATURES, SUFFIX
from cellfm.corpus.readers.text import plain_name
from cellfm.errors import ConfigError

COLUMNS = ("path", "name", "format", "layer", "use_raw", "gene_names", "licence", "url")
"""Columns of a list of sources besides those of `METADATA`; only the first is required."""

LONGEST_NAME = 100

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_ENDINGS = (".h5ad", ".h5", ".hdf5", ".mtx", *SUFFIXES)
_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0", ""})
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEntry:
    """One source and how to read it.

    Attributes
    ----------
    name
        Its name in the corpus; unique and fit for a file name.
    path
        File or folder.
    format
        Name of a reader; None to find it by the file.
    layer, use_raw
        Where the counts of an h5ad file are; neither tries the usual places.
    gene_names
        Column of the genes' table with symbols or Ensembl ids, instead of its index.
    licence, url
        Kept in the manifest.
    metadata
        Value of each harmonised column; ``@NAME`` is the column NAME of `obs`, anything else a constant.
    mapping
        Columns and values of all sources.
    """

    name: str
    path: Path
    format: str | None = None
    layer: str | None = None
    use_raw: bool = False
    gene_names: str | None = None
    licence: str = ""
    url: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    mapping: MetadataMap = field(default_factory=MetadataMap)


def read_sources(paths: Sequence[Path], *, metadata: Path | None = None) -> tuple[SourceEntry, ...]:
    """Collect the sources of a corpus; the order of `paths` does not matter.

    Parameters
    ----------
    paths
        Lists of sources (a tsv file whose header has the column ``path``), folders, which are searched for count files of any
        known format, and count files. Paths in a list are relative to it. A file that is not there stays in the list: it is
        set aside when it is its turn.
    metadata
        YAML map of columns and values; see `read_metadata_map`.

    Returns
    -------
    Sources sorted by name. A source without a name gets that of its file, or, where two are the same, that of the folders above
    before it.

    Raises
    ------
    ConfigError
        A list or the map has a mistake, nothing was found, or names clash.
    """
    mapping = MetadataMap() if metadata is None else read_metadata_map(metadata)
    listed: list[SourceEntry] = []
    found: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            msg = f"There is no {path}; expected a list of sources, a folder or a count file. Check the path."
            raise ConfigError(msg)
        if _is_list(path):
            listed += _read_list(path)
        else:
            found.update(_search(path) if path.is_dir() else [_absolute(path)])
    known = {entry.path for entry in listed}
    entries = [*listed, *(SourceEntry(name="", path=path) for path in found - known)]
    if not entries:
        given = ", ".join(map(str, paths)) or "nothing"
        msg = f"No source was found in {given}; expected h5ad, 10x h5, 10x mtx folders, csv or tsv, or a list of sources with the column path. Check the paths."
        raise ConfigError(msg)
    return tuple(
        sorted(
            (replace(entry, mapping=mapping) for entry in _named(entries)),
            key=lambda entry: entry.name,
        )
    )


def digest(files: Sequence[Path], root: Path) -> tuple[str, int]:
    """SHA-256 and size of a source.

    Parameters
    ----------
    files
        Files that it is made of.
    root
        The source; a file's own digest is taken if it is the only one, else that of the sorted lines
        ``relative name, tab, digest``.

    Raises
    ------
    SourceError
        A file cannot be read.
    """
    folder = root if root.is_dir() else root.parent
    sums, n_bytes = {}, 0
    for path in files:
        with reading(path):
            sums[path.relative_to(folder).as_posix()] = _sha256(path)
            n_bytes += path.stat().st_size
    if len(sums) == 1:
        return next(iter(sums.values())), n_bytes
    lines = "".join(f"{name}\t{digest}\n" for name, digest in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest(), n_bytes


def is_url(path: Path) -> bool:
    """Whether a path was written as an address of the network."""
    return _URL.match(str(path)) is not None


def _sha256(path: Path) -> str:
    """Digest of a file, read in pieces."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            sha.update(piece)
    return sha.hexdigest()


def _absolute(path: Path) -> Path:
    """Full path; links are kept, as their names mean something."""
    return path if is_url(path) else path.absolute()


def _is_list(path: Path) -> bool:
    """Whether a file is a list of sources: tab-separated, with a column named ``path``, or with no other than ours."""
    if path.suffix != ".tsv" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            header = file.readline(1 << 16).decode("utf-8-sig", errors="replace")
    except OSError:
        return False  # set aside when it is its turn
    names = set(header.strip().split("\t"))
    return "path" in names or names <= {*COLUMNS, *METADATA}


def _read_list(path: Path) -> list[SourceEntry]:
    """Read a list of sources."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The list of sources {path} cannot be read ({error}). A tab-separated text file in UTF-8 was expected. Save it in that form."
        raise ConfigError(msg) from error
    rows = text.replace("\r\n", "\n").split("\n")
    header, *lines = csv.reader(rows, delimiter="\t", quoting=csv.QUOTE_NONE)
    check_known(header, (*COLUMNS, *METADATA), f"{path}: there is no column")
    if len(set(header)) != len(header):
        msg = f"{path}: a column is there twice ({', '.join(header)}). Keep one of each."
        raise ConfigError(msg)
    entries = []
    for number, line in enumerate(lines, start=2):
        if not any(cell.strip() for cell in line) or line[0].startswith("#"):
            continue
        if len(line) > len(header):
            msg = f"Line {number} of {path} has {len(line)} fields, but the header {len(header)}. Separate the columns by one tab each."
            raise ConfigError(msg)
        cells = (cell.strip() for cell in line)
        entries.append(_entry(dict(zip(header, cells, strict=False)), path, number))
    return entries


def _entry(cells: Mapping[str, str], path: Path, number: int) -> SourceEntry:
    """Make the entry of one line."""
    where = f"Line {number} of {path}"
    location, name = cells.get("path", ""), cells.get("name", "")
    if not location:
        msg = f"{where} has no path. Give the file, relative to the folder of the list or absolute."
        raise ConfigError(msg)
    use_raw = cells.get("use_raw", "").lower()
    if use_raw not in _TRUE | _FALSE:
        msg = f"{where}: use_raw is {use_raw!r}; expected true or false. Correct the line."
        raise ConfigError(msg)
    if name and name != _safe(name):
        msg = f"{where}: the name {name!r} is not fit for a file name; use letters, digits, dot, dash and underscore, such as {_safe(name)!r}."
        raise ConfigError(msg)
    if cells.get("format"):
        check_format(cells["format"], where)
    return SourceEntry(
        name=name,
        path=Path(location) if is_url(Path(location)) else _absolute(path.parent / location),
        format=cells.get("format") or None,
        layer=cells.get("layer") or None,
        use_raw=use_raw in _TRUE,
        gene_names=cells.get("gene_names") or None,
        licence=cells.get("licence", ""),
        url=cells.get("url", ""),
        metadata={key: cells[key] for key in METADATA if cells.get(key)},
    )


def _search(folder: Path) -> Iterable[Path]:
    """Find the count files below a folder; those with a dot before their name, and text files ``.txt``, are passed over."""
    try:
        paths = sorted(_absolute(folder).iterdir())
    except OSError as error:
        msg = f"The folder {folder} cannot be searched ({error}). Change its mode, or list the sources."
        raise ConfigError(msg) from error
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _search(path)
        elif plain_name(path) == SUFFIX:
            yield path.parent
        elif not _is_companion(path) and accepting_reader(path) is not None:
            yield path


def _is_companion(path: Path) -> bool:
    """Whether a file is the features or barcodes of a matrix, notes, or a list of sources."""
    name = plain_name(path)
    return name.endswith((*FEATURES, BARCODES, ".txt")) or _is_list(path)


def _named(entries: Sequence[SourceEntry]) -> list[SourceEntry]:
    """Give names to those without; of equal ones all get the name of one more folder above."""
    depth = dict.fromkeys(range(len(entries)), 0)
    deepest = max(len(entry.path.parts) for entry in entries)
    for _ in range(deepest):
        names = [
            entry.name or _default_name(entry.path, depth[i]) for i, entry in enumerate(entries)
        ]
        folded = [name.casefold() for name in names]  # some file systems know no case
        number = Counter(folded)
        clashes = [i for i, name in enumerate(folded) if number[name] > 1]
        movable = [i for i in clashes if not entries[i].name]
        if not clashes:
            return [replace(entry, name=name) for entry, name in zip(entries, names, strict=True)]
        if not movable:
            break
        for i in movable:
            depth[i] += 1
    first = names[clashes[0]]
    shown = ", ".join(str(entries[i].path) for i in clashes if folded[i] == first.casefold())
    msg = f"Several sources are named {first!r}: {shown}. Give each a name of its own in the list of sources."
    raise ConfigError(msg)


def _default_name(path: Path, n_folders: int) -> str:
    """Name of a file without its ending, after the names of the folders above it."""
    stem = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    ending = next((end for end in _ENDINGS if stem.lower().endswith(end)), "")
    stem = stem[: len(stem) - len(ending)]
    if ending == ".mtx":
        stem = stem.removesuffix("matrix").rstrip("._-") or path.parent.name
    folders = [part for part in path.parts[:-1] if part != path.anchor]
    return _safe("_".join([*folders[len(folders) - min(n_folders, len(folders)) :], stem]))


def _safe(name: str) -> str:
    """Name with nothing in it that a file system or a shell minds."""
    return _UNSAFE.sub("_", name).lstrip(".-_")[-LONGEST_NAME:] or "source"
