"""Measure the time of a step by parts of the network, without timing code in the network."""

import time
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any

import torch
from torch import nn

BEGINS = {
    "dense": ("features",),
    "proposals": ("rpn.losses", "rpn.propose"),
    "box head": ("box_head.losses", "box_head.detect"),
    "mask head": ("mask_head.losses", "mask_head.detect", "point_head.losses", "point_head.detect"),
    "keypoint head": ("keypoint_head.losses", "keypoint_head.detect"),
    "head": ("head.losses", "head.candidates"),
}
"""Methods whose call begins a part. ``dense`` are the layers for whole images: backbone, pyramid and RPN head. ``head``
is the head of a one-stage detector."""


class Clock:
    """Measure the seconds of each part of the network inside a ``with`` block.

    A part begins when the network calls one of its methods, or with ``clock("backward")``. It lasts until the next
    part. Only :meth:`seconds` synchronises with the device; on CUDA, the seconds are those of the device.

    Example:
        >>> with Clock(model) as clock:  # doctest: +SKIP
        ...     losses = model.losses(batch)
        ...     clock("backward")
        ...     sum(losses.values()).backward()
        >>> clock.seconds()  # doctest: +SKIP
        {'dense': 0.61, 'proposals': 0.08, 'box head': 0.21, 'mask head': 0.19, 'backward': 1.1}
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._cuda = next(model.parameters()).device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._wrapped: list[tuple[Any, str]] = []

    def __enter__(self) -> "Clock":
        for part, methods in BEGINS.items():
            for path in methods:
                owner_name, _, name = path.rpartition(".")
                if owner_name and not hasattr(self._model, owner_name):
                    continue
                owner = self._model.get_submodule(owner_name)
                # On the instance, over the class's method; this does not change the call of a compiled module.
                owner.__dict__[name] = self._beginning(part, getattr(owner, name))
                self._wrapped.append((owner, name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for owner, name in self._wrapped:
            del owner.__dict__[name]
        self._wrapped.clear()
        self("")

    def __call__(self, part: str) -> None:
        """Begin a part; an empty name ends the last one."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part, in the order of their first begin; exclude time outside of the parts."""
        if self._cuda and self._marks:
            self._marks[-1][1].synchronize()
        found: dict[str, float] = {}
        for (part, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            if part:
                passed = start.elapsed_time(end) / 1000 if self._cuda else end - start
                found[part] = found.get(part, 0.0) + passed
        return found

    def _beginning(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            self(part)
            return method(*arguments, **options)

        return timed
