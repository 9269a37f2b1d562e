"""What a step in bfloat16 takes around its convolutions and matrix products.

A processor without bfloat16 imitates those, many times slower than they would be, but does everything else as others
do. Here they are replaced by ones in float32 whose time is not counted, so that the rest can be measured anywhere.
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
    """While it is open, convolutions and products are computed in float32; ``seconds`` counts what they take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> "Replaced":
        self._libraries = [torch.library.Library(name, "IMPL") for name in ("aten", "mkldnn")]
        aten, mkldnn = self._libraries
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a kernel is replaced
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
    """Ours alone, training and inference; on a processor."""
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
    """As PyTorch's; transposed ones of kernel 2 and stride 2 only."""
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
    """As :mod:`backbones.fast.fused` asks for it."""
    y = convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups)
    return y.relu_() if after == "relu" else y


def convolution_sum_relu(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
    """As :mod:`backbones.fast.fused` asks for it."""
    padding, stride, dilation, groups, _, _, after, *_ = rest
    y = convolution(x, weight, bias, stride, padding, dilation, False, (0, 0), groups).add_(residual)
    return y.relu_() if after == "relu" else y


def convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> list[Tensor | None]:
    """Gradients of the right shapes and layouts; their values decide about nothing that is timed."""
    transposed, wanted = rest[4], rest[-1]
    like = (x, weight, weight.new_empty(weight.shape[1 if transposed else 0]))
    return [torch.full_like(one, 1e-6) if want else None for one, want in zip(like, wanted, strict=True)]


def addmm(bias: Tensor, x: Tensor, weight: Tensor, **_: Any) -> Tensor:
    """As PyTorch's without factors."""
    return (torch.bmm(x.float()[None], weight.float()[None])[0] + bias.float()).to(x.dtype)


def mm(x: Tensor, weight: Tensor) -> Tensor:
    """As PyTorch's."""
    return torch.bmm(x.float()[None], weight.float()[None])[0].to(x.dtype)


def mm_out(x: Tensor, weight: Tensor, *, out: Tensor) -> Tensor:
    """As PyTorch's."""
    return out.copy_(mm(x, weight))
