"""A server in this process, for tests: requests go to its application without a network."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from detection.serve.app import PATHS, Service, make_app
from detection.serve.batcher import Batcher, Queueing
from detection.serve.detecting import Detecting
from detection.serve.guard import Guard
from detection.serve.limits import Limits
from detection.serve.metrics import Metrics
from detection.serve.server import description


@dataclass
class Served:
    """An application, and what stands behind it."""

    app: Guard
    service: Service
    detecting: Detecting
    batches: list[int] = field(default_factory=list)
    """Number of images of each run of the detector."""

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send a request, and return the response of httpx."""
        return asyncio.run(self.send(method, path, body, **options))

    async def send(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send a request from a running event loop."""
        import httpx

        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, content=body, timeout=60, **options)

    def predict(self, body: Any, query: str = "") -> dict[str, Any]:
        """Return the JSON of a request that must succeed."""
        answer = self.request("POST", f"/predict{query}", body)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.content)


@contextmanager
def served(model: Any, run: Any = None, hosts: Any = None, origins: Any = (), **options: Any) -> Iterator[Served]:
    """Serve a model.

    Args:
        run: function that replaces the detector's run; it gets the real one and the batch.
        options: fields of ``Limits`` and ``Queueing``; ``score`` as for ``Detecting``.
    """
    limits = Limits(**{name: options[name] for name in Limits.__dataclass_fields__ if name in options})
    sizes = Queueing(**{name: options[name] for name in Queueing.__dataclass_fields__ if name in options})
    names = model.categories.names if model.categories else map(str, range(model.num_classes))
    score = options.get("score", dict.fromkeys(names, 0.0))
    detecting, metrics, batches = Detecting(model, score, max_pixels=limits.pixels), Metrics(), []

    def seen(number: int, seconds: float) -> None:
        batches.append(number)
        metrics.batch(number, seconds)

    runs = detecting.run if run is None else lambda batch: run(detecting.run, batch)
    with Batcher(detecting.decode, runs, detecting.finish, sizes, seen) as batcher:
        about = description("runs/a", detecting, limits)
        service = Service(batcher, detecting.names, about, limits, metrics, sizes.most)
        yield Served(Guard(make_app(service, origins), metrics, PATHS, hosts, origins), service, detecting, batches)


def encoded(pixels: np.ndarray, format: str = ".png") -> bytes:
    """Return an RGB image as a file."""
    return cv2.imencode(format, pixels[..., ::-1])[1].tobytes()


async def in_parts(data: bytes, size: int, pause: float = 0.0, seen: list[int] | None = None) -> AsyncIterator[bytes]:
    """Yield a body in parts; ``seen`` gets their lengths."""
    for place in range(0, len(data), size):
        await asyncio.sleep(pause)
        part = data[place : place + size]
        if seen is not None:
            seen.append(len(part))
        yield part
