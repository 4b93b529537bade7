"""The server: loopback only, a new token each time, nothing left behind."""

import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cellfm.errors import ConfigError
from cellfm.optional import require
from cellfm.view.options import ViewOptions

if TYPE_CHECKING:
    from uvicorn import Server

LOOPBACK = "127.0.0.1"
TOKEN_BYTES = 32
GRACE = 2
"""Seconds that open requests are waited for at the end."""


def serve(
    path: Path | None,
    options: ViewOptions,
    *,
    browser: bool = True,
    ready: "Callable[[str, Server], None] | None" = None,
) -> None:
    """Serve the page until the process is interrupted.

    Parameters
    ----------
    path
        h5ad file to show first; None begins with an empty page.
    options
        What the user chose.
    browser
        Open the page in the user's browser.
    ready
        Called with the address, token included, and the server when the port is bound.

    Raises
    ------
    DataError
        The file cannot be shown.
    ConfigError
        The port is taken.
    MissingDependencyError
        starlette, uvicorn or plotly is not installed.
    """
    require("starlette", "uvicorn", "plotly", extra="serve")
    from uvicorn import Config, Server

    from cellfm.view.app import make_app
    from cellfm.view.guard import Guard
    from cellfm.view.session import Session

    with TemporaryDirectory(prefix="cellfm-view-", ignore_cleanup_errors=True) as folder:
        session = Session(options, Path(folder))
        try:
            if path is not None:
                session.open(path, path.name)
            with _listening(options.port) as listener:
                port, token = listener.getsockname()[1], secrets.token_urlsafe(TOKEN_BYTES)
                app = Guard(make_app(session), token=token, port=port)
                config = Config(
                    app,
                    log_level="warning",
                    access_log=False,
                    lifespan="off",
                    server_header=False,
                    timeout_graceful_shutdown=GRACE,
                )
                server = Server(config)
                address = f"http://{LOOPBACK}:{port}/?token={token}"
                if ready is not None:
                    ready(address, server)
                if browser:
                    webbrowser.open(address)
                with _terminated_as_interrupted():
                    server.run(sockets=[listener])
        finally:
            session.close()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that the folder of uploads goes; uvicorn raises it again when it is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number))

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        msg = f"Port {port} of {LOOPBACK} cannot be used ({error}). Choose another with --port, or leave it out for a free one."
        raise ConfigError(msg) from error
    listener.listen()
    return listener
