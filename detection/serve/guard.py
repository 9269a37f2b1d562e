"""What holds for every request: headers, counting, errors in one line, and the rest of a body that was rejected."""

import asyncio
import sys
import time
import traceback
from collections.abc import Callable, Collection
from typing import Any

import orjson

from detection.serve.metrics import Metrics

Message = dict[str, Any]
App = Callable[[Message, Any, Any], Any]
"""An ASGI application."""

HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Headers of every response that does not have its own."""
LINGER = 5.0
"""Longest time for which the server reads and drops the rest of a body that it rejected, in seconds. Without this,
some clients would not see the error, as the system resets a connection with unread bytes."""


class Guard:
    """An ASGI application around another one.

    Args:
        app: the inner application.
        metrics: what counts the requests.
        paths: known paths; requests of all others count as ``other``.
        hosts: names that a request may have in ``Host``; None: any. A name of another site would show that its page
            points its own name to this machine, to read the answers (DNS rebinding).
        origins: other sites whose pages may send images.
        verbose: print a line for each request.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        paths: Collection[str],
        hosts: Collection[str] | None = None,
        origins: Collection[str] = (),
        verbose: bool = False,
    ) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)
        self._hosts, self._origins, self._verbose = hosts, origins, verbose

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, exchange = time.monotonic(), _Exchange(scope, receive, send)
        try:
            if (error := self._unwanted(scope)) is not None:
                await exchange.reject(*error)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            if not exchange.gone:
                traceback.print_exc()
            if exchange.status is None and not exchange.gone:
                await exchange.reject(500, "the server failed; its log says where")
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            status, seconds = exchange.status or CLOSED, time.monotonic() - begin
            self._metrics.request(path, status, seconds)
            if self._verbose:
                print(f"{scope['method'][:10]} {path}: {status}, {1e3 * seconds:.0f} ms", file=sys.stderr)

    def _unwanted(self, scope: Message) -> tuple[int, str] | None:
        """Return the error for a request that another site's page sends through the user's browser."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self._hosts is not None and host and _name(host) not in self._hosts:
            return 421, "this server answers only for the address that it printed at its start"
        crosses = headers.get(b"sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if crosses and not {headers.get(b"origin"), "*"} & {*self._origins}:
            return 403, "the page of another site may not send images; start the server with --allow-origin"
        return None


CLOSED = 499
"""Status by which metrics count requests whose client closed the connection before the response."""


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Message, receive: Any, send: Any) -> None:
        self._receive, self._send = receive, send
        headers = dict(scope["headers"])
        self._whole = b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"
        self.gone = False
        self.status: int | None = None

    async def receive(self) -> Message:
        message: Message = await self._receive()
        self.gone |= message["type"] == "http.disconnect"
        self._whole |= message["type"] == "http.request" and not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = CLOSED if self.gone else message["status"]
            own = {name.lower() for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
            if self._must_drain():
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *more]}
        elif not message.get("more_body", False) and self._must_drain():
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def reject(self, status: int, error: str) -> None:
        """Send an error."""
        body = orjson.dumps({"error": error})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _must_drain(self) -> bool:
        return not self._whole and not self.gone

    async def _drain(self) -> None:
        """Read and drop the rest of the body, for a while."""
        try:
            async with asyncio.timeout(LINGER):
                while self._must_drain():
                    await self.receive()
        except TimeoutError:
            pass


def _name(host: str) -> str:
    """Return a host without its port."""
    return host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
