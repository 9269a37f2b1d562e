"""Choose the precision of a run: bfloat16 if the CPU or GPU is faster with it, otherwise float32.

On a CPU, the choice depends only on its instruction set and vendor, not on a measurement. On a busy machine, two
measurements of the same CPU differ by a factor of four, and two equal runs would train in different precisions.
"""

import os
from typing import Any, NamedTuple

import torch

from backbones.fast import cpu
from detection.engine.errors import InputError

KNOWN = ("32-true", "bf16-mixed", "16-mixed", "64-true")
"""Precisions that a checkpoint may record."""

BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "sve_bf16", "arm_bf16", "bf16")
"""PyTorch's names of instructions that multiply bfloat16."""

AMX_LIMITS = ("", "ALL", "DEFAULT", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "AVX10_2_512_AMX_2")
BF16_LIMITS = (*AMX_LIMITS, "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2_512")
"""Values of ``ONEDNN_MAX_CPU_ISA`` with which oneDNN, which computes convolutions, may use AMX or AVX512-BF16."""


class Choice(NamedTuple):
    """A precision, and the reason for choosing it."""

    precision: str
    """Lightning's name: ``bf16-mixed`` or ``32-true``."""
    reason: str


def best_precision(accelerator: str) -> Choice:
    """Return the fastest precision for training on this machine.

    - AMX (Sapphire Rapids and later): bf16-mixed, since a convolution takes a quarter of the time
    - AVX512-BF16, AMD (Zen 4 and later): bf16-mixed, since a convolution takes half the time
    - AVX512-BF16, Intel, no AMX: 32-true, since a convolution takes 1.4 to 2 times as long with bfloat16
    - AVX512-BF16, another vendor: 32-true, since there are no measurements
    - ARM with bfloat16 (SVE, NEON): 32-true, since there are no measurements
    - all others: 32-true, since PyTorch emulates bfloat16, which takes 6 to 16 times as long

    A GPU trains in bfloat16 if it has units for it (Ampere and later).

    Args:
        accelerator: Lightning's name: ``cpu``, ``gpu``, ``cuda`` or ``auto``. Any other trains in float32.
    """
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16-mixed", "this GPU has units for bfloat16")
        return Choice("32-true", "this GPU has no units for bfloat16")
    if accelerator not in ("cpu", "auto"):
        return Choice("32-true", f"accelerator {accelerator or 'unknown'}")
    return for_cpu(torch.cpu.get_capabilities(), cpu.vendor(), os.environ.get("ONEDNN_MAX_CPU_ISA", ""))


def for_cpu(capabilities: Any, vendor: str, onednn_limit: str = "") -> Choice:
    """Return the entry of :func:`best_precision`'s table for a CPU.

    Args:
        capabilities: instruction sets by PyTorch's names; true if the CPU has them.
        vendor: result of :func:`backbones.fast.cpu.vendor`.
        onednn_limit: value of ``ONEDNN_MAX_CPU_ISA``, with which a user hides instructions from oneDNN.
    """
    able = [name for name in BF16_INSTRUCTIONS if capabilities.get(name)]
    limit = onednn_limit.upper()
    if "amx_bf16" in able and limit in AMX_LIMITS:
        return Choice("bf16-mixed", "this CPU has AMX")
    if "avx512_bf16" in able and limit not in BF16_LIMITS:
        return Choice("32-true", f"ONEDNN_MAX_CPU_ISA {onednn_limit} hides the bfloat16 instructions of this CPU")
    if "avx512_bf16" in able and vendor == "AMD":
        return Choice("bf16-mixed", "this AMD CPU has AVX512-BF16")
    if "avx512_bf16" in able and vendor == "Intel":
        return Choice("32-true", "Intel's AVX512-BF16 without AMX is slower than float32")
    if able:
        advice = "try --trainer.precision bf16-mixed and compare images/s"
        return Choice("32-true", f"there are no measurements of bfloat16 on such CPUs ({able[0]}); {advice}")
    return Choice("32-true", "this CPU has no bfloat16 instructions")


def precision_of(checkpoint: Any) -> str | None:
    """Return the precision in which a checkpoint was trained; None if it does not record it.

    Args:
        checkpoint: content of the checkpoint.

    Raises:
        InputError: the recorded value is not a known precision.
    """
    found = checkpoint.get("precision")
    if found is None or (isinstance(found, str) and found in KNOWN):
        return found
    raise InputError(
        f"the checkpoint records precision {str(found)[:40]!r}, which is none of {', '.join(KNOWN)}; "
        "set one with --trainer.precision"
    )
