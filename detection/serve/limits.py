"""Limits of a request, the body within them, and the errors that clients see."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request

from detection.wording import plural


class Rejected(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: one line for the client: what happened, and how to correct it.
        headers: further headers of the response.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


@dataclass(frozen=True)
class Limits:
    """What one request may take."""

    bytes: int = 20_000_000
    """Largest body."""
    pixels: int = 50_000_000
    """Largest number of pixels of an image."""
    seconds: float = 30.0
    """Longest time for the body to arrive, and then for its answer."""


class Room:
    """Count the bytes of all bodies in memory, and limit their sum."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    @contextmanager
    def holding(self) -> Iterator["Held"]:
        """Free the bytes of one body at the end of the block."""
        one = Held(self)
        try:
            yield one
        finally:
            self.held -= one.bytes


class Held:
    """The bytes of one body."""

    def __init__(self, room: Room) -> None:
        self._room, self.bytes = room, 0

    def add(self, number: int) -> None:
        """Count further bytes.

        Raises:
            Rejected: the bodies of all requests take too much memory.
        """
        self._room.held += number
        self.bytes += number
        if self._room.held > self._room.most:
            raise Rejected(503, "too many large requests at the same time; try again later", {"Retry-After": "1"})


async def read_body(request: Request, limits: Limits, held: Held) -> bytes:
    """Read the body of a request; count its bytes while they arrive.

    Raises:
        Rejected: it is empty, too large or too slow, or it is a form.
        ClientDisconnect: the client closed the connection.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        raise Rejected(415, "the body is a form; send the bytes of the image alone: curl --data-binary @street.jpg")
    too_large = Rejected(413, f"the body has more than {plural(limits.bytes, 'byte')}; send a smaller image")
    if int(request.headers.get("content-length", "0")) > limits.bytes:
        raise too_large
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                held.add(len(part))
                if held.bytes > limits.bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise Rejected(408, f"the body did not arrive in {limits.seconds:g} s; send it faster") from error
    if not held.bytes:
        raise Rejected(422, "the body is empty; send the bytes of an image")
    return b"".join(parts)
