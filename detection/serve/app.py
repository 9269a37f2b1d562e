"""The routes of the server."""

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from detection import __version__
from detection.foreign import shown
from detection.inference.thresholds import check_known
from detection.serve.batcher import Batcher, Full
from detection.serve.limits import Limits, Rejected, Room, read_body
from detection.serve.messages import Answer, Asked, Format
from detection.serve.metrics import Metrics
from detection.serve.page import page, policy

PATHS = ("/", "/predict", "/picture", "/model", "/health", "/ready", "/metrics", "/openapi.json")
"""All paths of the server."""
IMAGE = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}
"""What the OpenAPI description says about the body."""

Score = Query(None, ge=0, le=1, description="smallest score of a detection")
Classes = Query("", description="names of the classes to keep, with commas between them")


class Service:
    """What the routes share.

    Args:
        batcher: runs the detector.
        names: class names.
        about: content of ``/model``.
        limits: limits of a request.
        metrics: counts everything.
        most: largest number of requests that wait or are being computed.
    """

    def __init__(
        self,
        batcher: Batcher[Asked, Any, Any, Answer],
        names: Sequence[str],
        about: dict[str, Any],
        limits: Limits,
        metrics: Metrics,
        most: int,
    ) -> None:
        self.batcher, self.names, self.about, self.limits, self.metrics = batcher, names, about, limits, metrics
        self._room = Room(most * limits.bytes)

    async def answer(self, request: Request, score: float | None, classes: str, picture: Format | None) -> Response:
        """Read the image of a request, wait for its answer, and return it.

        Raises:
            Rejected: the request is wrong, too large or too slow, or the queue is full.
            ClientDisconnect: the client closed the connection.
        """
        began = time.monotonic()
        wanted = self._classes(classes)
        if not self.batcher.has_room():
            raise self._full()
        with self._room.holding() as held:
            data = await read_body(request, self.limits, held)
            try:
                future = self.batcher.submit(Asked(data, began, score, wanted, picture))
            except Full as error:
                raise self._full() from error
            del data
            answer = await self._wait(request, future)
        return Response(answer.body, media_type=answer.media)

    async def _wait(self, request: Request, future: "Future[Answer]") -> Answer:
        """Wait for an answer; cancel its computation if the client leaves or the time ends."""
        answer = asyncio.wrap_future(future)
        left = asyncio.ensure_future(request.receive())  # after the body, only the end of the connection comes
        try:
            both: set[asyncio.Future[Any]] = {answer, left}
            await asyncio.wait(both, timeout=self.limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if left.done():
                raise ClientDisconnect
            raise Rejected(504, f"no answer after {self.limits.seconds:g} s; try again later, or send a smaller image")
        finally:
            answer.cancel()
            left.cancel()

    def _classes(self, text: str) -> tuple[str, ...]:
        """Return the class names of a query."""
        if not text or text in self.names:  # a name may have a comma
            return (text,) if text else ()
        classes = tuple(text.split(","))
        try:
            check_known(classes, self.names, "classes")
        except ValueError as error:
            raise Rejected(422, str(error)) from error
        return classes

    def _full(self) -> Rejected:
        seconds = max(1, min(60, math.ceil(self.batcher.seconds())))
        return Rejected(503, "the queue is full; try again later", {"Retry-After": str(seconds)})


def make_app(service: Service, origins: Sequence[str] = ()) -> FastAPI:
    """Return the application with all routes.

    Args:
        origins: other sites whose pages may read answers, such as ``https://example.org``.
    """
    app = FastAPI(title="rcnn serve", version=__version__, docs_url=None, redoc_url=None)
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"])
    _add_errors(app)

    @app.post("/predict", openapi_extra=IMAGE)
    async def predict(request: Request, score: float | None = Score, classes: str = Classes) -> Response:
        """Detect the objects in the image of the body. Returns JSON, or with Accept: image/png a drawn image."""
        return await service.answer(request, score, classes, picture_of(request.headers.get("accept", "")))

    @app.post("/picture", openapi_extra=IMAGE)
    async def picture(request: Request, score: float | None = Score, classes: str = Classes) -> Response:
        """Draw the detected objects into the image of the body. Returns a JPEG, or with Accept: image/png a PNG."""
        return await service.answer(request, score, classes, picture_of(request.headers.get("accept", "")) or ".jpg")

    @app.get("/model")
    async def model() -> dict[str, Any]:
        """Describe the model: classes, score thresholds and limits."""
        return service.about

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answer with 200 while the server and the thread of the model run."""
        if not service.batcher.is_alive():
            raise Rejected(503, "the thread of the model has ended; start the server again")
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Answer with 200 while there is room for another image, else with 503."""
        if not service.batcher.has_room():
            raise service._full()
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return numbers for Prometheus."""
        text = service.metrics.text(len(service.batcher))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page(), media_type="text/html", headers={"Content-Security-Policy": policy()})

    return app


def picture_of(accept: str) -> Format | None:
    """Return the format of a drawn image that a client names before JSON in ``Accept``; None: JSON."""
    for kind in accept.lower().split(","):
        match kind.partition(";")[0].strip():
            case "image/png":
                return ".png"
            case "image/jpeg":
                return ".jpg"
            case "application/json":
                return None
    return None


def _add_errors(app: FastAPI) -> None:
    """Answer every error with one line of JSON."""

    @app.exception_handler(Rejected)
    async def rejected(_: Request, error: Rejected) -> Response:
        return _error(error.status, error.message, error.headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        words = {404: f"no such page; the server has {', '.join(PATHS)}", 405: "wrong method; see /openapi.json"}
        return _error(error.status_code, words.get(error.status_code, str(error.detail)), error.headers)

    @app.exception_handler(RequestValidationError)
    async def query(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name, given = first["loc"][-1], shown(first.get("input"))
        return _error(422, f"{shown(name)}={given}: {first['msg'][:1].lower()}{first['msg'][1:]}")

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _error(500, "the server failed; its log says where")  # Starlette raises the error again for the log

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it


def _error(status: int, message: str, headers: Any = None) -> Response:
    return Response(orjson.dumps({"error": message}), status, headers, "application/json")
