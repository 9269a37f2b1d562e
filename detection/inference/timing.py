"""Measure the inference speed of a detector on this machine."""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detection.device import inference_device
from detection.inference.api import load_detector, predict_batch
from detection.inference.sources import batches, sources
from detection.memory import most_resident
from detection.models.detector import Detector
from detection.shapes import draw_scene

SIDES = (480, 640)
"""(height, width) of a synthetic image."""


def time_model(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a model at the given batch sizes.

    Args:
        options: options of ``rcnn benchmark``.

    Returns:
        One row per batch size: images per second, the time of a batch from images to detections in milliseconds, and
        the time of only the network.
    """
    device = inference_device(options.device)
    model = load_detector(options.model, options.trust_code).to(device)
    if options.size is not None:
        model.test_size = tuple(options.size)
    images = _images(options, model, max(options.batch))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")
    rows = []
    with autocast:
        for batch in options.batch:
            some = [images[k % len(images)] for k in range(batch)]
            rows.append(_row(model, some, options.rounds))
    return rows


def _row(model: Detector, images: Sequence[np.ndarray], rounds: int) -> dict[str, Any]:
    """Measure one batch; ignore the first run, which compiles and allocates memory."""
    network: list[float] = []
    forward = model.forward

    def timed(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        found = forward(*given, **named)
        _wait(model)
        network.append(time.perf_counter() - start)
        return found

    whole = []
    model.forward = timed  # type: ignore[method-assign]
    try:
        for _ in range(rounds + 1):
            network.append(0.0)
            start = time.perf_counter()
            predict_batch(model, list(images))
            whole.append(time.perf_counter() - start)
    finally:
        del model.forward
    shares = _per_round(network)[1:]
    whole = whole[1:]
    on_gpu = model.pixel_mean.is_cuda
    return {
        "batch": len(images),
        "images_per_second": len(images) / statistics.median(whole),
        "median_ms": 1e3 * statistics.median(whole),
        "slowest_ms": 1e3 * max(whole),
        "network_ms": 1e3 * statistics.median(shares),
        "memory_gb": (torch.cuda.max_memory_allocated() if on_gpu else most_resident()) / 1e9,
    }


def _per_round(marked: Sequence[float]) -> list[float]:
    """Return the sum per round: a zero marks each start, and images of several shapes make several calls."""
    sums: list[float] = []
    for value in marked:
        if value == 0:
            sums.append(0.0)
        sums[-1] += value
    return sums


def _wait(model: Detector) -> None:
    if model.pixel_mean.is_cuda:
        torch.cuda.synchronize()


def _images(options: argparse.Namespace, model: Detector, number: int) -> list[np.ndarray]:
    """Read images from a folder, or create synthetic images."""
    if options.images is None:
        rng = np.random.default_rng(0)
        return [draw_scene(k, *SIDES, rng)[0] for k in range(number)]
    unread: list[str] = []
    found = sources([str(options.images)], [])[:number]
    some = [image for part in batches(found, number, unread, len(model.pixel_mean), model.depth) for _, image in part]
    if not some:
        raise ValueError(f"{options.images}: contains no readable image; give a folder with images")
    return some
