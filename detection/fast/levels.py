"""A feature pyramid as one table of feature vectors, which RoIAlign and the RPN loss read.

B images, C channels, H_l x W_l cells of level l.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor


class GradientSum:
    """The gradient of a table, to which the backward pass of each reader adds its part.

    Without it, autograd would allocate a tensor as large as the table for each reader, and add these.
    """

    total: Tensor | None = None
    """(cells, C); None before the first reader's backward pass."""
    backward: int = -1
    """PyTorch's number of the backward pass of ``total``; a pass can end before it reaches the table."""


class Levels(NamedTuple):
    """A table with all cells of all levels; all readers use the same one, so their gradients add up in one tensor."""

    vectors: Tensor
    """(cells, C), sorted by level, image and row."""
    grids: tuple[tuple[int, int], ...]
    """H_l, W_l of each level."""
    images: int
    """B."""
    gradient: GradientSum | None = None
    """Sum to which readers add their gradients; None: they return them to autograd."""

    @property
    def starts(self) -> list[int]:
        """The first row of each level in ``vectors``."""
        starts = [0]
        for height, width in self.grids[:-1]:
            starts.append(starts[-1] + self.images * height * width)
        return starts

    @property
    def maps(self) -> list[Tensor]:
        """The maps of the pyramid, (B, C, H_l, W_l) per level, channels last, as views without a copy."""
        cells = [self.images * height * width for height, width in self.grids]
        return [
            part.view(self.images, height, width, -1).permute(0, 3, 1, 2)
            for part, (height, width) in zip(self.vectors.split(cells), self.grids, strict=True)
        ]


class Pyramid(list[Tensor]):
    """The list of the maps P2.. of a pyramid, with the table of which they are views."""

    levels: Levels
    rpn_outputs: tuple[list[Tensor], list[Tensor]] | None
    """Logits and deltas of the RPN for all anchors, without gradient."""

    def __init__(self, levels: Levels, rpn_outputs: tuple[list[Tensor], list[Tensor]] | None = None) -> None:
        super().__init__(levels.maps)
        self.levels, self.rpn_outputs = levels, rpn_outputs


def levels_of(features: Sequence[Tensor]) -> Levels:
    """Return the table of a pyramid; copy a plain list of maps into a new table."""
    return features.levels if isinstance(features, Pyramid) else levels_from_maps(features)


def levels_from_maps(features: Sequence[Tensor]) -> Levels:
    """Copy maps (B, C, H_l, W_l), best in channels-last layout, into a table.

    To save memory, callers should then drop the maps and use :attr:`Levels.maps`.
    """
    vectors = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in features])
    return Levels(vectors, tuple((x.shape[2], x.shape[3]) for x in features), len(features[0]))


def with_gradient_sum(levels: Levels) -> Levels:
    """Return levels whose readers add their gradients to one tensor, for a training step.

    The sum flows to the maps from which the table was made. Autograd has no gradient for the new ``vectors``.
    """
    if not (torch.is_grad_enabled() and levels.vectors.requires_grad):
        return levels
    gradient = GradientSum()
    return levels._replace(vectors=_Summed.apply(levels.vectors, gradient), gradient=gradient)


def collect_gradient(
    gradient: GradientSum | None, whole: Callable[[], Tensor], add: Callable[[Tensor], object]
) -> Tensor | None:
    """Return the gradient of the table for a reader's backward pass, or add it to ``gradient`` and return None.

    Args:
        gradient: the sum of all readers, if there is one.
        whole: returns the reader's gradient as a new tensor (cells, C).
        add: adds the reader's gradient to such a tensor.
    """
    if gradient is None:
        return whole()
    backward = torch._C._current_graph_task_id()
    if gradient.total is None or gradient.backward != backward:
        gradient.total, gradient.backward = whole(), backward
    else:
        add(gradient.total)
    return None


def sum_dtype(grad: Tensor) -> torch.dtype:
    """Return the dtype of a :class:`GradientSum`; at least float32 on a GPU, which adds single numbers."""
    return torch.promote_types(grad.dtype, torch.float32) if grad.is_cuda else grad.dtype


class _Summed(torch.autograd.Function):
    """The identity of the table; its backward pass runs after that of all readers and returns their sum."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, gradient: GradientSum) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.gradient = gradient
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, other: Tensor | None) -> tuple[Tensor | None, None]:
        total, ctx.gradient.total = ctx.gradient.total, None
        if ctx.gradient.backward != torch._C._current_graph_task_id():
            total = None
        if total is None or other is None:
            return other if total is None else total, None
        return total.add_(other), None


def pick(values: Sequence[float], level: Tensor) -> Tensor:
    """Return ``values[level]``, float32 or int64; copies the values to a GPU only the first time."""
    table = _table if torch.compiler.is_compiling() else _cached_table
    return table(tuple(values), level.device)[level]


def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may use the cached tensor after an evaluation
        return torch.tensor(values).to(device)


_cached_table = lru_cache(maxsize=4096)(_table)  # a few entries for each of some hundred canvases
