"""Load a model, listen, and end at a signal when all accepted requests have their answers."""

import argparse
import asyncio
import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from detection import __version__
from detection.device import inference_device
from detection.foreign import printable
from detection.inference.api import load_detector
from detection.inference.info import kind_of
from detection.inference.options import check_least
from detection.inference.thresholds import class_names, read_thresholds
from detection.models.detector import Detector
from detection.serve.app import PATHS, Service, make_app
from detection.serve.batcher import Batcher, Queueing
from detection.serve.detecting import Detecting
from detection.serve.guard import Guard
from detection.serve.limits import Limits
from detection.serve.metrics import Metrics
from detection.visualize import palette
from detection.wording import plural

LEAST = {"batch": 1, "size": 1, "workers": 1, "max_bytes": 1, "max_pixels": 1, "max_queue": 1, "wait_ms": 0, "port": 0}
"""Smallest value of each option."""
CONNECTIONS = 1000
"""Largest number of open connections."""


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal, and return the exit code.

    Args:
        options: options of ``rcnn serve``.

    Raises:
        ValueError: an option is wrong, or the address is in use.
    """
    check_least(options, LEAST)
    if not 0 < options.timeout < 1e6:
        raise ValueError(f"--timeout {options.timeout:g}: must be above 0")
    if options.port > 65535:  # the system would use its last 16 bits
        raise ValueError(f"--port {options.port}: must be at most 65535")
    listener = listen(options.host, options.port)
    with listener:
        device = inference_device(options.device)
        model = load_detector(options.model, options.trust_code)
        model.to(device)
        names = class_names(model)
        score = read_thresholds(options.score or (), names)
        size = None if options.size is None else (options.size[0], options.size[1])
        detecting = Detecting(model, score, size, options.precision == "bf16", options.max_pixels)
        detecting.warm_up()
        limits, metrics = Limits(options.max_bytes, options.max_pixels, options.timeout), Metrics()
        sizes = Queueing(options.max_queue, options.batch, options.wait_ms / 1e3, options.workers)
        with Batcher(detecting.decode, detecting.run, detecting.finish, sizes, metrics.batch) as batcher:
            about = description(options.model, detecting, limits)
            service = Service(batcher, names, about, limits, metrics, options.max_queue)
            origins = options.allow_origin or []
            hosts = _hosts(options.host) if is_local(options.host) else None
            app = Guard(make_app(service, origins), metrics, PATHS, hosts, origins, options.verbose)
            where = _address(options.host, listener.getsockname()[1])
            line = f"{kind_of(model)}, {plural(len(names), 'class')}, {device.type}: {where}"
            run(app, listener, options.timeout, f"{line} (Ctrl-C ends the server)")
    return 0


def description(source: str, detecting: Detecting, limits: Limits) -> dict[str, Any]:
    """Return the content of ``/model``. It has no path of this machine."""
    model: Detector = detecting.model
    ids = model.categories.ids if model.categories else range(len(detecting.names))
    colours = (f"#{r:02x}{g:02x}{b:02x}" for r, g, b in palette(len(detecting.names)))
    rows = zip(detecting.names, ids, detecting.shown_limits().tolist(), colours, strict=True)
    return {
        "model": Path(source).name or source,
        "kind": kind_of(model),
        "version": __version__,
        "size": list(detecting.size or model.test_size),
        "classes": [
            {"name": name, "id": id, "score": round(score, 5), "color": colour} for name, id, score, colour in rows
        ],
        "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "seconds": limits.seconds},
    }


def run(app: Any, listener: socket.socket, seconds: float, started: str) -> None:
    """Answer requests until SIGINT or SIGTERM, and then those that came before.

    Args:
        seconds: longest time for a body, and again for its answer.
        started: line to print when clients can connect.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(2 * seconds) + 5,
    )
    _Server(config, started).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that ends with code 0 after a signal."""

    def __init__(self, config: uvicorn.Config, started: str) -> None:
        super().__init__(config)
        self._line = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._line, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at a signal, without raising it again afterwards."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Protocol(H11Protocol):
    """HTTP that closes a connection without the header of a request after a while."""

    SECONDS = 10.0
    _header: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock where a header is due, and stop it when the header is complete."""
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._header is None:
            self._header = self.loop.call_later(self.SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._header is not None:
            self._header.cancel()
            self._header = None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, and print a warning if other machines can reach it.

    Raises:
        ValueError: the address does not exist or is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: end connections whose client reads nothing
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"--host {host} --port {port}: {reason}; choose another port with --port") from error
    if not is_local(host):
        warning = f"warning: every machine that reaches {host} can use this server: it has no authentication and no TLS"
        print(printable(warning), file=sys.stderr)
    return listener


def is_local(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hosts(host: str) -> frozenset[str]:
    return frozenset({"localhost", "127.0.0.1", "[::1]", host})


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
