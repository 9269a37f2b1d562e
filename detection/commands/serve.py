"""Serve a detector over HTTP: images in, JSON or drawn images out, and a page to try it in a browser."""

import argparse
from importlib.util import find_spec
from typing import Any

from detection.commands.options import MODEL, add_shared, repeat_score

EPILOG = """\
paths: POST /predict, POST /picture; GET / (the page), /model, /health, /ready, /metrics, /openapi.json
exit codes: 0 after SIGINT or SIGTERM, when all accepted images have their answers; 2 a wrong option

example:
  rcnn serve runs/first
  curl --data-binary @street.jpg http://127.0.0.1:8000/predict"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="port (default 8000); 0: any free one")
    score = "drop detections with a lower score (default 0.5); by class, as person=0.6; model: those that it holds"
    parser.add_argument("--score", action="append", metavar="S", help=score)
    batch = {"default": 4, "help": "largest number of images at a time"}
    workers = {"default": 2, "help": "threads that decode and draw images"}
    precision = {"choices": ("fp32", "bf16"), "default": "fp32"}
    add_shared(parser, "batch", "size", "workers", batch=batch, workers=workers)
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    wait = "longest time for which an image waits for others, in milliseconds (default 5)"
    parser.add_argument("--wait-ms", default=5, help=wait, **number)
    queue = "images that wait or are being computed; above it, clients get status 503 (default 32)"
    parser.add_argument("--max-queue", default=32, help=queue, **number)
    parser.add_argument("--max-bytes", default=20_000_000, help="largest image file (default 20000000)", **number)
    parser.add_argument("--max-pixels", default=50_000_000, help="largest image (default 50000000)", **number)
    seconds = "longest time for a body to arrive, and then for its answer, in seconds (default 30)"
    parser.add_argument("--timeout", type=float, default=30, metavar="S", help=seconds)
    origin = "another site whose pages may send images and read the answers; repeat it for several"
    parser.add_argument("--allow-origin", action="append", metavar="URL", help=origin)
    verbose = {"help": "print a line for each request"}
    add_shared(parser, "device", "precision", "trust_code", "verbose", precision=precision, verbose=verbose)


prepare = repeat_score


def run(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"{name} is not installed: pip install 'rcnn-toolkit[serve]'", name=name)
    from detection.serve.server import serve

    return serve(options)
