"""Count file in, count file with embeddings out: constant memory, resumable."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from cellfm._version import __version__
from cellfm.corpus.counts import Scale
from cellfm.corpus.missing import refuse_no_file
from cellfm.corpus.rows import RowSource, h5ad_source
from cellfm.errors import OutputExistsError, ResumeError
from cellfm.genes import GeneReport
from cellfm.nn.kernels.cell_state import Precision
from cellfm.tl._embed import Progress, groups_of, match_genes
from cellfm.tl._states import (
    BLOCK,
    EmbedOptions,
    Empty,
    Pool,
    StateEncoder,
    as_model,
    check_key,
    provenance,
)
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import h5py

SAMPLE = 1 << 20  # bytes at both ends of the input that make its fingerprint
SUMS_EVERY = 20.0  # seconds between two savings of the sums of gene states, which can be large
COPY_ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSummary:
    """What `embed_file` did."""

    target: Path
    n_cells: int
    dim: int
    resumed_from: int
    """Cells that an earlier, interrupted run had done."""
    seconds: float
    report: GeneReport

    @property
    def cells_per_second(self) -> float:
        """Speed of this run, reading included."""
        return (self.n_cells - self.resumed_from) / self.seconds if self.seconds else 0.0


def embed_file(  # noqa: PLR0913 - the arguments of a user's question
    source: Path | str,
    target: Path | str,
    model: Pretrained | str | Path | None = None,
    *,
    key_added: str = "X_cellfm",
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    empty: Empty = "error",
    max_genes: int | None = None,
    genes: bool | str = False,
    pool: Pool = "cls",
    precision: Precision = "fp32",
    device: str | None = None,
    token_budget: int | None = None,
    min_matched: float = 0.3,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> EmbedSummary:
    """Embed an h5ad file of any size in constant memory; the target is a copy of it with the embedding added.

    Work in progress is in the folder ``<target>.partial``; after an interruption the same call goes on from there
    and the result is identical. The input is never changed.

    Parameters
    ----------
    source, target
        h5ad files.
    model, key_added, layer, use_raw, gene_names, scale, empty, max_genes, genes, pool, precision, device, token_budget, min_matched
        As in `embed`.
    overwrite
        Replace an existing target, an existing embedding of that name, and unfinished work of another job.
    progress
        Called with (cells done, cells in all).

    Returns
    -------
    What was done. The target has ``obsm[key_added]``, with `genes` also ``varm``, and ``uns["cellfm"][key_added]``.

    Raises
    ------
    OutputExistsError
        The target, or the key in the source, exists.
    ResumeError
        The partial folder belongs to another job.
    DataError, GeneMatchError, CountsError
        As in `embed`.

    Examples
    --------
    >>> cellfm.tl.embed_file("pbmc3k.h5ad", "pbmc3k.cellfm.h5ad", "my-model")  # doctest: +SKIP
    """
    source, target = Path(source), Path(target)
    options = EmbedOptions(
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        empty=empty,
        max_genes=max_genes,
        genes=genes,
        pool=pool,
        precision=precision,
        token_budget=token_budget,
        min_matched=min_matched,
    )
    check_key(key_added)
    _refuse_target(source, target, overwrite=overwrite)
    started = time.perf_counter()
    pretrained = as_model(model, device)
    job = _fingerprint(source, pretrained, options, key_added)
    with (
        _Work(target, job, overwrite=overwrite) as work,
        h5ad_source(source, layer=layer, use_raw=use_raw, scratch=work.folder) as (rows, obs, var),
    ):
        _refuse_key(source, key_added, overwrite=overwrite)
        match = match_genes(var, pretrained.vocabulary, options)
        n_cells, groups = rows.n_rows, groups_of(obs, genes=genes)
        encoder = StateEncoder(
            pretrained, match, options, n_cells=n_cells, groups=groups, routed=work.routed
        )
        resumed = work.restore(encoder)
        _encode(rows, encoder, work, progress)
        _write(source, target, work, encoder, key=key_added)
    return EmbedSummary(
        target=target,
        n_cells=n_cells,
        dim=encoder.dim,
        resumed_from=resumed,
        seconds=time.perf_counter() - started,
        report=encoder.report,
    )


def _encode(
    rows: RowSource, encoder: StateEncoder, work: "_Work", progress: Progress | None
) -> None:
    """Encode the blocks that are not done yet."""
    n_done = work.n_done
    with work.states.open("r+b" if n_done else "w+b") as file:
        file.seek(n_done * encoder.dim * 4)
        while n_done < rows.n_rows:
            stop = min(n_done + BLOCK, rows.n_rows)
            file.write(encoder.encode(rows.read(n_done, stop), n_done).tobytes())
            file.flush()
            n_done = stop
            work.save(encoder, n_done, last=n_done == rows.n_rows)
            if progress is not None:
                progress(n_done, rows.n_rows)


class _Work:
    """The partial folder: states so far, sums so far, and how far that is."""

    def __init__(self, target: Path, job: Mapping[str, object], *, overwrite: bool) -> None:
        self.folder = folder = target.with_name(target.name + ".partial")
        self.job = json.loads(json.dumps(job))
        self.states, self.sums = folder / "states.f32", folder / "sums.npz"
        self.note = folder / "progress.json"
        self.n_done = 0
        self.routed: bool | None = None
        self.covered: list[float] = []
        self._saved = time.monotonic()
        note = self._read_note(damaged_is_nothing=overwrite)
        if overwrite and note.get("job") != self.job:
            shutil.rmtree(folder, ignore_errors=True)
            note = {}
        folder.mkdir(parents=True, exist_ok=True)
        if note and note["job"] != self.job:
            theirs = note["job"]
            different = sorted(key for key in self.job if theirs.get(key) != self.job[key])
            msg = (
                f"{folder} holds unfinished work of another job: {', '.join(different)} differ. Finish that one with its own "
                "arguments, or delete the folder (overwrite does so too)."
            )
            raise ResumeError(msg)
        if note:
            self.n_done, self.routed, self.covered = note["n_done"], note["routed"], note["covered"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind when the work is written or was never begun."""
        if not self.note.is_file():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read_note(self, *, damaged_is_nothing: bool) -> dict[str, Any]:
        if not self.note.is_file():
            return {}
        try:
            note = json.loads(self.note.read_text())
        except ValueError as error:
            if damaged_is_nothing:
                return {}
            msg = f"{self.note} is damaged ({error}). Delete the folder {self.folder} and start again."
            raise ResumeError(msg) from error
        return note if isinstance(note, dict) else {}

    def restore(self, encoder: StateEncoder) -> int:
        """Give the encoder the sums of the earlier run; return how many cells that did."""
        if not self.n_done:
            return 0
        if self.states.stat().st_size < self.n_done * encoder.dim * 4:
            msg = f"{self.states} is shorter than the {self.n_done:,} cells noted. Delete the folder {self.folder} and start again."
            raise ResumeError(msg)
        encoder.covered = np.array(self.covered, dtype=np.float64)
        if encoder.sums is not None:
            with np.load(self.sums, allow_pickle=False) as saved:
                if int(saved["n_done"]) != self.n_done:
                    self.n_done, encoder.covered = int(saved["n_done"]), saved["covered"]
                encoder.sums.total = torch.from_numpy(saved["total"])
                encoder.sums.count = torch.from_numpy(saved["count"])
        return self.n_done

    def save(self, encoder: StateEncoder, n_done: int, *, last: bool) -> None:
        """Note how far the work is; sums of gene states only now and then, and first."""
        if encoder.sums is not None:
            if not last and time.monotonic() - self._saved < SUMS_EVERY:
                return
            self._save_sums(encoder, n_done)
            self._saved = time.monotonic()
        note = {
            "job": self.job,
            "n_done": n_done,
            "routed": encoder.routed,
            "covered": encoder.covered.tolist(),
        }
        partial = self.note.with_suffix(".new")
        partial.write_text(json.dumps(note))
        partial.replace(self.note)

    def _save_sums(self, encoder: StateEncoder, n_done: int) -> None:
        assert encoder.sums is not None
        partial = self.folder / "sums.new.npz"
        np.savez(
            partial,
            n_done=n_done,
            covered=encoder.covered,
            total=encoder.sums.total.numpy(),
            count=encoder.sums.count.numpy(),
        )
        partial.replace(self.sums)


def _fingerprint(
    source: Path, model: Pretrained, options: EmbedOptions, key_added: str
) -> dict[str, object]:
    """Return what must be equal for a partial result to be gone on with."""
    size = source.stat().st_size
    with source.open("rb") as file:
        head = file.read(SAMPLE)
        file.seek(max(0, size - SAMPLE))
        ends = hashlib.sha256(head + file.read()).hexdigest()
    return {
        "input": f"{size} bytes, ends {ends}",
        "weights": model.hash,
        "vocabulary": model.vocabulary.hash,
        "key_added": key_added,
        "block": BLOCK,
        "device": model.network.cls.device.type,
        "cellfm": __version__,
    } | asdict(options)


def _write(source: Path, target: Path, work: _Work, encoder: StateEncoder, *, key: str) -> None:
    """Copy the source and add the results; the target appears at once, whole."""
    import h5py
    from anndata.io import write_elem

    copy = work.folder / "target.h5ad"
    shutil.copyfile(source, copy)
    states = np.memmap(work.states, np.float32, "r", shape=(encoder.n_cells, encoder.dim))
    with h5py.File(copy, "r+") as file:
        _add_array(file, "obsm", key, states)
        for name, table in (encoder.sums.means() if encoder.sums else {}).items():
            _add_array(file, "varm", f"{key}_{name}", table)
        notes = _mapping(_mapping(file, "uns"), "cellfm")
        if key in notes:
            del notes[key]
        write_elem(notes, key, provenance(encoder, version=__version__))
    del states
    copy.replace(target)
    work.note.unlink()  # done: the folder goes


def _mapping(parent: "h5py.Group", name: str) -> "h5py.Group":
    """Return a group that AnnData reads as a dict, made if it is missing."""
    from anndata.io import write_elem

    if name not in parent:
        write_elem(parent, name, {})
    return parent[name]


def _add_array(file: "h5py.File", where: str, name: str, values: np.ndarray) -> None:
    """Write a two-dimensional array as AnnData does, some rows at a time."""
    group = _mapping(file, where)
    if name in group:
        del group[name]
    stored = group.create_dataset(name, shape=values.shape, dtype=values.dtype)
    stored.attrs["encoding-type"], stored.attrs["encoding-version"] = "array", "0.2.0"
    for start in range(0, len(values), COPY_ROWS):
        stored[start : start + COPY_ROWS] = values[start : start + COPY_ROWS]


def _refuse_target(source: Path, target: Path, *, overwrite: bool) -> None:
    refuse_no_file(source)
    if target.resolve() == source.resolve():
        msg = f"Input and output are the same file, {source}; the input is never changed. Give the output another name."
        raise OutputExistsError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already. Choose another name, or say overwrite."
        raise OutputExistsError(msg)
    target.parent.mkdir(parents=True, exist_ok=True)  # now, and not after minutes of work


def _refuse_key(source: Path, key_added: str, *, overwrite: bool) -> None:
    import h5py

    with h5py.File(source, "r") as file:
        if not overwrite and key_added in file.get("obsm", {}):
            msg = f"{source} has obsm[{key_added!r}] already. Choose another key_added, or say overwrite."
            raise OutputExistsError(msg)
