"""Measure the time of a bfloat16 step outside convolutions and matrix products.

A CPU without bfloat16 emulates convolutions and products, which is many times slower, but runs everything else at full
speed. This module replaces them by float32 versions whose time does not count. So any CPU can measure the rest.
"""

import statistics
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from detection.structures import Batch
from tools.benchmark.contestants import equalise, pair


class Replaced:
    """Context in which convolutions and products run in float32; ``seconds`` is their total time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> "Replaced":
        self._libraries = [torch.library.Library(name, "IMPL") for name in ("aten", "mkldnn")]
        aten, mkldnn = self._libraries
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about replaced kernels
            for kernel in (convolution, convolution_backward, addmm, mm):
                aten.impl(kernel.__name__, self._timed(kernel), "CPU")
            aten.impl("mm.out", self._timed(mm_out), "CPU")
            if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
                mkldnn.impl("_convolution_pointwise", self._timed(convolution_relu), "CPU")
                mkldnn.impl("_convolution_pointwise.binary", self._timed(convolution_sum_relu), "CPU")
        return self

    def __exit__(self, *_: object) -> None:
        for library in self._libraries:
            library._destroy()

    def _timed(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(kernel)
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = kernel(*arguments, **options)
            self.seconds += time.perf_counter() - start
            return result

        return timed


def rest_rows(options: Namespace, batch: Batch, label: str) -> list[dict[str, Any]]:
    """Measure training and inference of this toolkit on a CPU."""
    ours, peer = pair(options.backbone, torch.device("cpu"), "bf16", "fp32")
    equalise(ours, peer, batch)
    rows = []
    for what, step in (("inference", ours.infer), ("training step", ours.train)):
        with Replaced() as replaced:
            step(batch)
            seconds = []
            for _ in range(options.rounds):
                replaced.seconds, start = 0.0, time.perf_counter()
                step(batch)
                seconds.append(time.perf_counter() - start - replaced.seconds)
        rows.append(
            {
                "what": f"all but convolutions and products, {what}, {label}, bf16",
                "seconds": {"ours": round(statistics.median(seconds), 4)},
                "rounds": {"ours": [round(s, 4) for s in seconds]},
            }
        )
    return rows


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *more: Any,
) -> Tensor:
    """Convolution like PyTorch's; transposed convolutions only with kernel 2 and stride 2."""
    added = None if bias is None else bias.float()
    if not transposed:
        y = torch.ops.aten.mkldnn_convolution(x.float(), weight.float(), added, padding, stride, dilation, more[-1])
        return y.to(x.dtype, memory_format=torch.channels_last)  # type: ignore[no-any-return]
    n, inputs, height, width = x.shape
    rows, kernel = x.float().permute(0, 2, 3, 1).reshape(1, -1, inputs), weight.float().permute(0, 2, 3, 1)
    y = torch.bmm(rows, kernel.reshape(1, inputs, -1)).view(n, height, width, 2, 2, -1)
    y = y.permute(0, 1, 3, 2, 4, 5).reshape(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
    return (y if added is None else y + added[:, None, None]).to(x.dtype, memory_format=torch.channels_last)


def convolution_relu(
    x: Tensor, weight: Tensor, bias: Tensor, padding: Any, stride: Any, dilation: Any, groups: int, after: str, *_: Any
) -> Tensor:
    """Fused convolution and ReLU, as :mod:`backbones.fast.fused` calls it."""
    y = convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)
    return y.relu_() if after == "relu" else y


def convolution_sum_relu(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    """Fused convolution, sum and ReLU, as :mod:`backbones.fast.fused` calls it."""
    padding, stride, dilation, groups, _, _, after, *_ = rest
    y = convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups).add_(residual)
    return y.relu_() if after == "relu" else y


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> list[Tensor | None]:
    """Return gradients with the right shapes and layouts; their values do not influence the time."""
    transposed, wanted = rest[4], rest[-1]
    like = (x, weight, weight.new_empty(weight.shape[1 if transposed else 0]))
    return [torch.full_like(one, 1e-6) if want else None for one, want in zip(like, wanted, strict=True)]


def addmm(bias: Tensor, x: Tensor, weight: Tensor, **_: Any) -> Tensor:
    """``torch.addmm`` without factors."""
    return (torch.bmm(x.float()[None], weight.float()[None])[0] + bias.float()).to(x.dtype)


def mm(x: Tensor, weight: Tensor) -> Tensor:
    """``torch.mm``."""
    return torch.bmm(x.float()[None], weight.float()[None])[0].to(x.dtype)


def mm_out(x: Tensor, weight: Tensor, *, out: Tensor) -> Tensor:
    """``torch.mm`` with ``out``."""
    return out.copy_(mm(x, weight))
