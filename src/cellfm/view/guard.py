"""Who may ask: this machine's user with the address that was printed, and no web page of another origin."""

import secrets
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Scripts come from this server's files only, none stands in the page. plotly.js makes its WebGL programs by ``Function`` ('unsafe-eval') and puts styles
into the page ('unsafe-inline'); no text of a file ever becomes script or markup."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
REFUSED = (
    "403: this page needs the token of the running `cellfm view`.\n\n"
    "Open the whole address that the terminal shows, which ends in ?token=…; each start of the command has a new one."
)
WRONG_HOST = "400: this server answers to 127.0.0.1 and localhost only, on its own port.\n\nOpen the address that the terminal shows."
WRONG_ORIGIN = (
    "403: the request was made by another web page.\n\nOpen the address that the terminal shows."
)


class Guard:
    """Checks each request before the application sees it, and puts the page's policy on each answer.

    Parameters
    ----------
    app
        The application.
    token
        Secret in the address, later in a cookie.
    port
        That the server listens on.
    """

    def __init__(self, app: "ASGIApp", *, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        # Cookies do not know ports: two servers of one user must not overwrite each other's.
        self._cookie = f"cellfm_view_{port}"

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets here
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        app = self._app if refusal is None else refusal
        by_address = refusal is None and self._has_token(QueryParams(scope["query_string"]))
        await app(scope, receive, self._sender(send, set_cookie=by_address))

    def _refusal(self, scope: "Scope", headers: Headers) -> PlainTextResponse | None:
        if headers.get("host", "").lower() not in self._hosts:  # DNS rebinding
            return PlainTextResponse(WRONG_HOST, status_code=400)
        origins = [f"http://{host}" for host in self._hosts]
        origin = headers.get("origin")
        changes = scope["method"] not in ("GET", "HEAD")
        if (origin is not None or changes) and origin not in origins:
            return PlainTextResponse(WRONG_ORIGIN, status_code=403)
        query = QueryParams(scope["query_string"])
        # a token in the address must be the right one, whatever the cookie says
        given = query.get("token", Request(scope).cookies.get(self._cookie, ""))
        return None if self._is_token(given) else PlainTextResponse(REFUSED, status_code=403)

    def _has_token(self, query: QueryParams) -> bool:
        return self._is_token(query.get("token", ""))

    def _is_token(self, value: str) -> bool:
        return secrets.compare_digest(value.encode(), self._token.encode())

    def _sender(self, send: "Send", *, set_cookie: bool) -> "Callable[[Message], Awaitable[None]]":
        async def sender(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if set_cookie:
                    cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
                    headers.append("set-cookie", cookie)
            await send(message)

        return sender
