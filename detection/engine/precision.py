"""In which precision a device trains best: bfloat16 where it computes in it, float32 where it would imitate it."""

import torch


def best_precision(accelerator: str) -> str:
    """Lightning's word for the precision that pays: ``bf16-mixed`` or ``32-true``.

    A processor without bfloat16 instructions takes 6 times as long for a convolution in bfloat16 as in float32, and 16
    times for its backward pass (AMD Zen 3); a GPU older than Ampere has no units for it.

    Args:
        accelerator: ``cpu``, ``gpu``, ``cuda``, ``auto`` or another of Lightning's.
    """
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    known = torch.cpu.get_capabilities() if accelerator in ("cpu", "auto") else {}
    return "bf16-mixed" if any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "sve_bf16")) else "32-true"
