"""Files that are open, how they are laid out, and what is done with new ones."""

import os
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import DataError
from cellfm.view.cells import HDF5, Cells
from cellfm.view.describe import PCA_OF, UMAP_OF
from cellfm.view.jobs import Job, Jobs
from cellfm.view.layout import Layout, pca_layout, umap_layout
from cellfm.view.options import ViewOptions
from cellfm.view.selection import marker_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.tl import Annotator

KEPT_SELECTIONS = 16


@dataclass(slots=True, kw_only=True, eq=False)
class Opened:
    """A file and what has been found out about it."""

    number: int
    name: str
    cells: Cells
    written: bool = False
    """Whether this session has made it."""
    layouts: dict[str, Layout] = field(default_factory=dict)
    selections: "dict[int, NDArray[np.int64]]" = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    """Jobs that make layouts, by name of the layout."""

    def selection(self, number: int) -> "NDArray[np.int64]":
        """Return selected cells.

        Parameters
        ----------
        number
            Of the selection.

        Raises
        ------
        DataError
            It is gone.
        """
        if number not in self.selections:
            msg = f"Selection {number} of {self.name} is gone; the last {KEPT_SELECTIONS} are kept. Select again."
            raise DataError(msg)
        return self.selections[number]


class Session:
    """Everything the server holds; one for all pages.

    Parameters
    ----------
    options
        What the user chose.
    folder
        For uploads and what is made of them; of this session alone.
    """

    def __init__(self, options: ViewOptions, folder: Path) -> None:
        self.options, self.folder, self.jobs = options, folder, Jobs()
        # read at once: a wrong one is better known now than after the first file
        self.annotator = None if options.annotator is None else _annotator(options)
        self._files: list[Opened] = []
        self._lock = threading.Lock()
        self._n_uploads = 0

    def open(self, path: Path, name: str, *, written: bool = False) -> Opened:
        """Open a file for the page.

        Parameters
        ----------
        path
            h5ad file.
        name
            To show.
        written
            Whether this session has made it.
        """
        cells = Cells(path, self.options)
        with self._lock:
            opened = Opened(number=len(self._files), name=name, cells=cells, written=written)
            self._files.append(opened)
        return opened

    def file(self, number: int) -> Opened:
        """Return an open file.

        Parameters
        ----------
        number
            As `open` gave it.

        Raises
        ------
        DataError
            There is none of that number.
        """
        if not 0 <= number < len(self._files):
            msg = f"There is no file {number}; the server was started anew. Load the page again."
            raise DataError(msg)
        return self._files[number]

    def described(self) -> dict[str, object]:
        """Return what the page needs to begin."""
        options = self.options
        return {
            "files": [{"file": one.number, "name": one.name} for one in self._files],
            "annotator": None if options.annotator is None else Path(options.annotator).name,
            "model": "mini" if options.model is None else str(options.model),
            "max_upload": options.upload_bytes,
        }

    def close(self) -> None:
        """Stop all work and close all files."""
        self.jobs.stop_all(seconds=5.0)
        for opened in self._files:
            opened.cells.close()

    def select(self, opened: Opened, rows: "NDArray[np.int64]") -> int:
        """Keep a selection and return its number.

        Parameters
        ----------
        opened
            The file.
        rows
            Its cells.
        """
        with self._lock:
            number = max(opened.selections, default=-1) + 1
            opened.selections[number] = rows
            for old in sorted(opened.selections)[:-KEPT_SELECTIONS]:
                del opened.selections[old]
        return number

    def upload_path(self, name: str) -> Path:
        """Return where an upload goes: a new folder of its own.

        Parameters
        ----------
        name
            What its owner calls it.
        """
        with self._lock:
            self._n_uploads += 1
            folder = self.folder / f"upload-{self._n_uploads}"
        folder.mkdir()
        kept = "".join(c if c.isalnum() or c in " ._-+()" else "_" for c in Path(name).name)
        return folder / (kept.lstrip(".")[-120:] or "cells.h5ad")

    def layout(self, opened: Opened, name: str) -> Layout | Job:
        """Return where cells are drawn, or the job that finds out.

        Parameters
        ----------
        opened
            The file.
        name
            Key of obsm, ``"PCA of KEY"`` or ``"UMAP of KEY"``.
        """
        with self._lock:
            if name in opened.layouts:
                return opened.layouts[name]
            if name in opened.running:
                job = self.jobs.get(opened.running[name])
                if job.state == "running":
                    return job
        if not name.startswith(UMAP_OF):
            opened.layouts[name] = _quick_layout(opened.cells, name)
            return opened.layouts[name]
        states = opened.cells.states(name.removeprefix(UMAP_OF))

        def work(job: Job) -> None:
            opened.layouts[name] = umap_layout(states, job.advance)

        with self._lock:
            job = self.jobs.start(name, work)
            opened.running[name] = job.number
        return job

    def markers(self, opened: Opened, rows: "NDArray[np.int64]") -> Job:
        """Begin to compare some cells with all others.

        Parameters
        ----------
        opened
            The file.
        rows
            Its cells.
        """

        def work(job: Job) -> object:
            table = marker_table(opened.cells, rows, job.advance)
            table = table.replace([np.inf, -np.inf], np.nan).astype(object)
            records: object = table.where(table.notna(), None).to_dict("records")
            return records

        return self.jobs.start("marker genes", work, heavy=False)

    def embed(self, path: Path, name: str, *, uploaded: bool) -> Job:
        """Begin to embed a file, to annotate it if there is an annotator, and to open the result.

        Parameters
        ----------
        path
            h5ad file with counts.
        name
            To show.
        uploaded
            Whether the file is a copy of this session, which goes when it is not needed.
        """
        private = f"{path.parent}{os.sep}" if uploaded else ""
        work = self._embed_upload if uploaded else self._embed
        return self.jobs.start(name, lambda job: work(job, path, name), private=private)

    def _embed_upload(self, job: Job, path: Path, name: str) -> dict[str, object]:
        kept = False
        try:
            made = self._embed(job, path, name)
            kept = not self.file(int(str(made["file"]))).written
            return made
        finally:
            if not kept:
                shutil.rmtree(path.parent, ignore_errors=True)

    def _embed(self, job: Job, path: Path, name: str) -> dict[str, object]:
        job.advance("reading the file", 0, 0)
        check_upload(path, name)
        cells = Cells(path, self.options)
        has_states = self.options.embedding in cells.keys
        cells.close()
        if self.annotator is None and has_states:
            opened = self.open(path, name)
            return {"file": opened.number, "said": f"{name} has an embedding already."}
        made = f"{Path(name).stem}.{'embedded' if self.annotator is None else 'annotated'}.h5ad"
        target = self.upload_path(made)
        job.advance("loading the model", 0, 0)
        try:
            said = self._write(job, path, target, has_states=has_states)
            opened = self.open(target, made, written=True)
        except BaseException:
            shutil.rmtree(target.parent, ignore_errors=True)
            raise
        return {"file": opened.number, "said": said}

    def _write(self, job: Job, path: Path, target: Path, *, has_states: bool) -> str:
        """Make the embedded, or embedded and annotated copy; return the report on its genes."""
        from cellfm import tl

        options, said = self.options, ""
        read = {
            "layer": options.layer,
            "use_raw": options.use_raw,
            "gene_names": options.gene_names,
            "device": options.device,
        }
        key = free_key(path, options)
        embedded = path
        # an annotator writes the states it goes by
        if not has_states and (self.annotator is None or options.embedding != f"X_{key}"):
            embedded = target if self.annotator is None else target.with_name("states.h5ad")
            summary = tl.embed_file(
                path,
                embedded,
                options.model if self.annotator is None else self.annotator.model,
                key_added=options.embedding,
                progress=job.stage_progress("embedding"),
                **read,  # type: ignore[arg-type]
            )
            said = summary.report.to_text()
        if self.annotator is not None:
            result = tl.annotate_file(
                embedded,
                target,
                annotator=self.annotator,
                key_added=key,
                progress=job.stage_progress("annotating"),
                **read,  # type: ignore[arg-type]
            )
            said = "\n".join([result.gene_report, *result.notes])
            if embedded != path:
                embedded.unlink()
        return said


def _annotator(options: ViewOptions) -> "Annotator":
    from cellfm.tl import Annotator

    assert options.annotator is not None
    return Annotator.load(options.annotator, options.model, device=options.device)


def _quick_layout(cells: Cells, name: str) -> Layout:
    if name.startswith(PCA_OF):
        return pca_layout(cells.states(name.removeprefix(PCA_OF)))
    return Layout(points=cells.states(name)[:, :2], note=f"{name} as it is in the file")


def check_upload(path: Path, name: str) -> None:
    """Refuse what is no HDF5 file before anything reads it.

    Parameters
    ----------
    path
        The file.
    name
        What its owner calls it.

    Raises
    ------
    DataError
        It does not begin as HDF5 does.
    """
    with path.open("rb") as file:
        head = file.read(len(HDF5))
    if head != HDF5:
        size = path.stat().st_size
        msg = f"{name} ({size:,} bytes) is no h5ad file: it does not begin as HDF5 does. Expected raw counts written by adata.write_h5ad(…); a compressed file must be unpacked first. Give the h5ad file itself."
        raise DataError(msg)


def free_key(path: Path, options: ViewOptions) -> str:
    """Return a name for labels that no column of the file has yet.

    Parameters
    ----------
    path
        h5ad file.
    options
        How it is read.
    """
    cells = Cells(path, options)
    cells.close()
    number, key = 1, "cellfm"
    while any(str(column).startswith(key) for column in cells.obs.columns):
        number += 1
        key = f"cellfm{number}"
    return key
