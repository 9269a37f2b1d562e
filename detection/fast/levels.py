"""A feature pyramid as one table of vectors, from which RoIs and windows are gathered.

B images, C channels, H_l x W_l cells of level l.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor


class GradientSum:
    """The gradient of a table as far as its readers have computed it: they add to one tensor.

    Autograd would have each make a tensor as large as the table, and add these.
    """

    total: Tensor | None = None
    """(cells, C); None before the first of them."""
    backward: int = -1
    """PyTorch's number of the backward pass that ``total`` belongs to: one may end before the table's turn comes."""


class Levels(NamedTuple):
    """All cells of all levels; made once for all that is gathered from it, so that gradients meet in one tensor."""

    vectors: Tensor
    """(cells, C): level by level, image by image, row by row."""
    grids: tuple[tuple[int, int], ...]
    """H_l, W_l."""
    images: int
    """B."""
    gradient: GradientSum | None = None
    """Where readers leave their gradients; None: with autograd."""

    @property
    def starts(self) -> list[int]:
        """The row of ``vectors`` at which each level begins."""
        starts = [0]
        for height, width in self.grids[:-1]:
            starts.append(starts[-1] + self.images * height * width)
        return starts

    @property
    def maps(self) -> list[Tensor]:
        """The pyramid again, (B, C, H_l, W_l) per level, channels last: views, for which nothing is copied."""
        cells = [self.images * height * width for height, width in self.grids]
        return [
            part.view(self.images, height, width, -1).permute(0, 3, 1, 2)
            for part, (height, width) in zip(self.vectors.split(cells), self.grids, strict=True)
        ]


class Pyramid(list[Tensor]):
    """The maps P2.. of a pyramid, for whoever wants a list of them, with the table that they are views of."""

    levels: Levels
    rpn_outputs: tuple[list[Tensor], list[Tensor]] | None
    """Logits and deltas of the RPN at all anchors, without gradient."""

    def __init__(self, levels: Levels, rpn_outputs: tuple[list[Tensor], list[Tensor]] | None = None) -> None:
        super().__init__(levels.maps)
        self.levels, self.rpn_outputs = levels, rpn_outputs


def levels_of(features: Sequence[Tensor]) -> Levels:
    """Return the table of a pyramid; a list of maps is copied into one."""
    return features.levels if isinstance(features, Pyramid) else as_levels(features)


def as_levels(features: Sequence[Tensor]) -> Levels:
    """The table of a pyramid, (B, C, H_l, W_l) per level, best channels last.

    The maps are copied: who keeps the table alone, with its :attr:`Levels.maps`, saves their memory.
    """
    vectors = torch.cat([x.permute(0, 2, 3, 1).flatten(0, 2) for x in features])
    return Levels(vectors, tuple((x.shape[2], x.shape[3]) for x in features), len(features[0]))


def summing(levels: Levels) -> Levels:
    """The levels of a training step, whose readers add up their gradients in one tensor.

    It reaches what the table was made of; asked for the gradient of the new ``vectors``, autograd knows of none.
    """
    if not (torch.is_grad_enabled() and levels.vectors.requires_grad):
        return levels
    gradient = GradientSum()
    return levels._replace(vectors=_Summed.apply(levels.vectors, gradient), gradient=gradient)


def leave(gradient: GradientSum | None, whole: Callable[[], Tensor], add: Callable[[Tensor], object]) -> Tensor | None:
    """What the backward pass of a reader returns for the table: its gradient; None if it is left in ``gradient``.

    Args:
        whole: makes a tensor (cells, C) of it.
        add: adds it to such a tensor.
    """
    if gradient is None:
        return whole()
    backward = torch._C._current_graph_task_id()
    if gradient.total is None or gradient.backward != backward:
        gradient.total, gradient.backward = whole(), backward
    else:
        add(gradient.total)
    return None


def summed_in(grad: Tensor) -> torch.dtype:
    """The precision of such a sum: on a GPU, which adds one number after the other, at least float32."""
    return torch.promote_types(grad.dtype, torch.float32) if grad.is_cuda else grad.dtype


class _Summed(torch.autograd.Function):
    """The table itself; its backward pass comes after that of all who read it."""

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
    """``values[level]``, float32 or int64; a CUDA device waits for the values the first time only."""
    table = _table if torch.compiler.is_compiling() else _kept_table
    return table(tuple(values), level.device)[level]


def _table(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may ask for it after an evaluation
        return torch.tensor(values).to(device)


_kept_table = lru_cache(maxsize=4096)(_table)  # a few hundred canvases have a handful each
