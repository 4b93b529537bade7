"""What the page asks for, and the answers."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from cellfm.errors import CellFMError, DataError
from cellfm.view.colours import colour_by_column, colour_by_gene, framed
from cellfm.view.describe import describe_file
from cellfm.view.jobs import Job, message_of
from cellfm.view.options import ViewOptions
from cellfm.view.selection import as_selection, cell_table, composition
from cellfm.view.session import Opened, Session

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PAGE = Path(__file__).parent / "page"
BINARY = "application/octet-stream"


def make_app(session: Session) -> "ASGIApp":
    """Return the application; `Guard` stands before it.

    Parameters
    ----------
    session
        Files and work.
    """
    pages = _Pages()
    answers = _Answers(session)
    data = "/api/files/{file:int}"
    chosen = data + "/selections/{selection:int}"
    routes = [
        Route("/", pages.index),
        Route("/page/{name}", pages.asset),
        Route("/api/state", answers.state),
        Route("/api/jobs/{job:int}", answers.job),
        Route("/api/jobs/{job:int}", answers.stop_job, methods=["DELETE"]),
        Route("/api/upload", answers.upload, methods=["PUT"]),
        Route(data, answers.file),
        Route(data + "/points", answers.points),
        Route(data + "/obs", answers.obs),
        Route(data + "/gene", answers.gene),
        Route(data + "/genes", answers.genes),
        Route(data + "/cells/{cell:int}", answers.cell),
        Route(data + "/embed", answers.embed, methods=["POST"]),
        Route(data + "/download", answers.download),
        Route(data + "/selections", answers.select, methods=["POST"]),
        Route(chosen + "/composition", answers.composition),
        Route(chosen + "/markers", answers.markers, methods=["POST"]),
        Route(chosen + "/cells.csv", answers.csv),
    ]
    return Starlette(
        routes=routes, exception_handlers={CellFMError: _explained, OSError: _explained}
    )


async def _explained(_: Request, error: Exception) -> Response:
    """Say what is wrong in full, for the page to show."""
    return JSONResponse({"message": message_of(error)}, status_code=422)


class _Pages:
    """The page itself, and plotly.js of the installed package."""

    def __init__(self) -> None:
        import plotly

        self._files = {name: PAGE / name for name in ("view.js", "plot.js", "view.css")}
        self._files["plotly.js"] = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"

    async def index(self, _: Request) -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    async def asset(self, request: Request) -> Response:
        path = self._files.get(request.path_params["name"])
        if path is None:
            raise HTTPException(404)
        kind = "text/css" if path.suffix == ".css" else "text/javascript"
        return FileResponse(path, media_type=f"{kind}; charset=utf-8")


class _Answers:
    """One method a question; what reads files runs in threads."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _file(self, request: Request) -> Opened:
        return self._session.file(request.path_params["file"])

    def _chosen(self, request: Request) -> "tuple[Opened, np.ndarray]":
        opened = self._file(request)
        return opened, opened.selection(request.path_params["selection"])

    def state(self, _: Request) -> Response:
        return JSONResponse(self._session.described())

    def job(self, request: Request) -> Response:
        return JSONResponse(self._session.jobs.get(request.path_params["job"]).described())

    def stop_job(self, request: Request) -> Response:
        self._session.jobs.get(request.path_params["job"]).stop()
        return JSONResponse({})

    def file(self, request: Request) -> Response:
        return JSONResponse(describe_file(self._file(request), self._session.options))

    def points(self, request: Request) -> Response:
        """Float32 x of all cells, then y; or the job that computes them."""
        found = self._session.layout(self._file(request), _asked(request, "layout"))
        if isinstance(found, Job):
            return JSONResponse(found.described(), status_code=202)
        content = framed({"note": found.note}, np.asarray(found.points.T, np.float32, order="C"))
        return Response(content, media_type=BINARY)

    def obs(self, request: Request) -> Response:
        found = colour_by_column(self._file(request).cells, _asked(request, "name"))
        return Response(found.framed(), media_type=BINARY)

    def gene(self, request: Request) -> Response:
        found = colour_by_gene(self._file(request).cells, _asked(request, "name"))
        return Response(found.framed(), media_type=BINARY)

    def genes(self, request: Request) -> Response:
        return JSONResponse(
            {"names": self._file(request).cells.names.near(_asked(request, "text"))}
        )

    def cell(self, request: Request) -> Response:
        cells, number = self._file(request).cells, request.path_params["cell"]
        if not 0 <= number < cells.n_cells:
            raise HTTPException(404)
        row = cells.obs.iloc[number]
        values = {str(name): str(value) for name, value in row.items()}
        return JSONResponse({"name": str(cells.obs.index[number]), "values": values})

    def embed(self, request: Request) -> Response:
        opened = self._file(request)
        return JSONResponse(
            self._session.embed(opened.cells.path, opened.name, uploaded=False).described()
        )

    def download(self, request: Request) -> Response:
        opened = self._file(request)
        if not opened.written:
            raise HTTPException(404)
        return FileResponse(opened.cells.path, filename=opened.name, media_type=BINARY)

    async def select(self, request: Request) -> Response:
        opened = self._file(request)
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > 4 * opened.cells.n_cells:
                msg = f"A selection has more cells than the {opened.cells.n_cells:,} of the file. Select again."
                raise DataError(msg)
        rows = as_selection(bytes(content), opened.cells.n_cells)
        return JSONResponse({"selection": self._session.select(opened, rows), "n": len(rows)})

    def composition(self, request: Request) -> Response:
        opened, rows = self._chosen(request)
        parts = composition(opened.cells, rows, _asked(request, "name"))
        return JSONResponse({"parts": [asdict(part) for part in parts]})

    def markers(self, request: Request) -> Response:
        opened, rows = self._chosen(request)
        return JSONResponse(self._session.markers(opened, rows).described())

    def csv(self, request: Request) -> Response:
        opened, rows = self._chosen(request)
        key = request.query_params.get("layout", "")
        layout = opened.layouts.get(key)
        text = cell_table(opened.cells, rows, None if layout is None else layout.points, key)
        stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(opened.name).stem)
        stem = stem.encode("ascii", "replace").decode().replace("?", "_")
        name = f'attachment; filename="{stem}_{len(rows)}_cells.csv"'
        return Response(text, media_type="text/csv", headers={"content-disposition": name})

    async def upload(self, request: Request) -> Response:
        """Take a file in pieces, and begin to embed it."""
        name = Path(_asked(request, "name")).name
        path, options = self._session.upload_path(name), self._session.options
        try:
            await _save(request, path, name, options)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return JSONResponse(self._session.embed(path, name, uploaded=True).described())


async def _save(request: Request, path: Path, name: str, options: ViewOptions) -> None:
    said = request.headers.get("content-length", "0")
    done = 0
    try:
        with path.open("wb") as file:
            async for piece in request.stream():
                done += len(piece)
                if max(done, int(said) if said.isdigit() else 0) > options.upload_bytes:
                    raise _too_large(name, options.max_upload)
                await run_in_threadpool(file.write, piece)
    except ClientDisconnect as error:
        msg = f"{name} did not come whole ({done:,} bytes). Drop it again."
        raise DataError(msg) from error


def _too_large(name: str, gib: float) -> DataError:
    return DataError(
        f"{name} is larger than the {gib:g} GiB that an upload may have. Start with --max-upload, or run `cellfm embed` on it and view the result."
    )


def _asked(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if value is None:
        msg = f"The request has no {name!r}. Load the page again."
        raise DataError(msg)
    return value
