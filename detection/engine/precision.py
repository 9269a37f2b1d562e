"""In which precision a device trains best: bfloat16 where it computes in it fast, float32 where it does not."""

from functools import cache, partial

import torch
import torch.nn.functional as F

from backbones.timing import best_seconds

PAYS = 1.5
"""A processor trains in bfloat16 if it computes a convolution so many times as fast; less would not make up for
:mod:`backbones.winograd`, of which float32 has more. Those seen are far from it on either side: 0.5 to 0.7 (Sapphire
Rapids whose AMX is hidden) and 2 (Zen 4)."""


def best_precision(accelerator: str) -> str:
    """Lightning's word for the precision that pays: ``bf16-mixed`` or ``32-true``.

    A processor without bfloat16 instructions takes 6 times as long for a convolution in bfloat16 as in float32, and 16
    times for its backward pass (AMD Zen 3); a GPU older than Ampere has no units for it. Instructions alone say little,
    so where a processor has them, it is asked how fast they are.

    Args:
        accelerator: ``cpu``, ``gpu``, ``cuda``, ``auto`` or another of Lightning's.
    """
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    known = torch.cpu.get_capabilities() if accelerator in ("cpu", "auto") else {}
    able = any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    return "bf16-mixed" if able and bf16_gain() >= PAYS else "32-true"


@cache
def bf16_gain() -> float:
    """How many times as fast as in float32 this processor computes a convolution in bfloat16.

    1.2 GFLOP, channels last; the best of five, in turn, which takes a tenth of a second.
    """
    shapes = (1, 256, 32, 32), (256, 256, 3, 3)
    with torch.inference_mode():
        ways = []
        for dtype in (torch.float32, torch.bfloat16):
            x, kernel = (torch.ones(shape, dtype=dtype).to(memory_format=torch.channels_last) for shape in shapes)
            ways.append(partial(F.conv2d, x, kernel, padding=1))
        float32, bfloat16 = best_seconds(ways, rounds=5)
    return float32 / bfloat16
