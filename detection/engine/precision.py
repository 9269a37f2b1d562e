"""In which precision a run trains: bfloat16 where the CPU or GPU computes in it fast, float32 where it does not.

The choice follows from the instruction set and the vendor of the CPU alone. Nothing is timed: on a busy machine two
timings of the same CPU differ by a factor of four, and two equal runs would train in different precisions.
"""

import os
from typing import Any, NamedTuple

import torch

from backbones.fast import cpu
from detection.engine.errors import InputError

KNOWN = ("32-true", "bf16-mixed", "16-mixed", "64-true")
"""Precisions that a checkpoint may name."""

BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "sve_bf16", "arm_bf16", "bf16")
"""PyTorch's names of instructions that multiply bfloat16."""

AMX_LIMITS = ("", "ALL", "DEFAULT", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "AVX10_2_512_AMX_2")
BF16_LIMITS = (*AMX_LIMITS, "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2_512")
"""Values of ``ONEDNN_MAX_CPU_ISA`` that leave oneDNN, which computes the convolutions, its AMX or its AVX512-BF16."""


class Choice(NamedTuple):
    """A precision and why it was chosen."""

    precision: str
    """Lightning's word: ``bf16-mixed`` or ``32-true``."""
    reason: str


def best_precision(accelerator: str) -> Choice:
    """The precision that pays on this machine.

    - AMX (Sapphire Rapids and later): bf16-mixed, since a convolution takes a quarter of the time
    - AVX512-BF16, AMD (Zen 4 and later): bf16-mixed, since a convolution takes half the time
    - AVX512-BF16, Intel, no AMX: 32-true, since a convolution takes 1.4 to 2 times as long
    - AVX512-BF16, another vendor: 32-true, as nobody has measured it
    - ARM with bfloat16 (SVE, NEON): 32-true, as nobody has measured it here
    - all others: 32-true, since PyTorch imitates it, 6 to 16 times as slowly

    A GPU trains in bfloat16 if it has units for it (Ampere and later).

    Args:
        accelerator: ``cpu``, ``gpu``, ``cuda``, ``auto`` or another of Lightning's, which all train in float32.
    """
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16-mixed", "this GPU has units for bfloat16")
        return Choice("32-true", "this GPU has no units for bfloat16")
    if accelerator not in ("cpu", "auto"):
        return Choice("32-true", f"accelerator {accelerator or 'unknown'}")
    return for_cpu(torch.cpu.get_capabilities(), cpu.vendor(), os.environ.get("ONEDNN_MAX_CPU_ISA", ""))


def for_cpu(capabilities: Any, vendor: str, onednn_limit: str = "") -> Choice:
    """The table of :func:`best_precision` for one CPU.

    Args:
        capabilities: instruction sets by PyTorch's names, true where the CPU has them.
        vendor: as :func:`backbones.fast.cpu.vendor` gives it.
        onednn_limit: of ``ONEDNN_MAX_CPU_ISA``, by which a user hides instructions from oneDNN.
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
        return Choice("32-true", f"nobody has measured bfloat16 on CPUs like this one ({able[0]}); {advice}")
    return Choice("32-true", "this CPU has no bfloat16 instructions")


def precision_of(checkpoint: Any) -> str | None:
    """The precision that a checkpoint was trained in; None if it does not say.

    Args:
        checkpoint: its content.

    Raises:
        InputError: it says something that is no precision.
    """
    found = checkpoint.get("precision")
    if found is None or (isinstance(found, str) and found in KNOWN):
        return found
    raise InputError(
        f"the checkpoint says precision {str(found)[:40]!r}, which is none of {', '.join(KNOWN)}; "
        "give one with --trainer.precision"
    )
