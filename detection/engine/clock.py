"""The time of a step by the parts of the network, which itself knows nothing of it."""

import time
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any

import torch

from detection.models.detector import Detector

BEGINS = {
    "dense": ("features",),
    "proposals": ("rpn.losses", "rpn.propose"),
    "box head": ("box_head.losses", "box_head.detect"),
    "mask head": ("mask_head.losses", "mask_head.detect"),
    "head": ("head.losses", "head.candidates"),
}
"""The methods at which a part begins. ``dense`` is what works on whole images: backbone, pyramid and RPN head.
``head`` is that of a one-stage detector."""


class Clock:
    """Seconds by part, while it is open.

    A part begins when the network comes to it, or with ``clock("backward")``, and lasts until the next one. Nothing
    waits for the device before :meth:`seconds` is called: on CUDA the time is that of the device.

    Example:
        >>> with Clock(model) as clock:  # doctest: +SKIP
        ...     losses = model.losses(batch)
        ...     clock("backward")
        ...     sum(losses.values()).backward()
        >>> clock.seconds()  # doctest: +SKIP
        {'dense': 0.61, 'proposals': 0.08, 'box head': 0.21, 'mask head': 0.19, 'backward': 1.1}
    """

    def __init__(self, model: Detector) -> None:
        self._model = model
        self._cuda = model.pixel_mean.device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []
        self._wrapped: list[tuple[Any, str]] = []

    def __enter__(self) -> "Clock":
        for part, methods in BEGINS.items():
            for path in methods:
                owner_name, _, name = path.rpartition(".")
                if owner_name and not hasattr(self._model, owner_name):
                    continue
                owner = self._model.get_submodule(owner_name)
                # On the instance, over the class's method; a compiled module's own call stays untouched.
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
        """From now on the time is that of ``part``."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """By part, in the order in which they first began; what came before the first or after the last is left out."""
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
