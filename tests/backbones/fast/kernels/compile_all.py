"""Compiles every kernel for the GPUs named on the command line (80 90), of which none need be there."""

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from backbones.fast.kernels import epilogue
from detection.fast.kernels import matching, nms, own_channel, paste, roi_align

KERNELS: list[tuple[Any, dict[str, str], dict[str, Any]]] = [
    (
        epilogue._finish,
        {"y": "*bf16", "bias": "*fp32", "residual": "*bf16", "cells": "i32", "channels": "i32"},
        {"BIAS": True, "RESIDUAL": True, "RELU": True, "ROWS": 32, "COLUMNS": 128},
    ),
    (
        nms._compare,
        {"boxes": "*fp32", "areas": "*fp32", "removes": "*i32", "length": "i32", "words": "i32", "threshold": "fp32"},
        {"ROWS": 32, "WORDS": 4},
    ),
    (
        nms._walk,
        {"removes": "*i32", "valid": "*i8", "keep": "*i8", "length": "i32", "words": "i32"},
        {"ALL": 64},
    ),
    (
        matching._best,
        {"boxes": "*fp32", "crowd": "*i8", "rows": "*fp32", "areas": "*fp32", "best": "*fp32", "covered": "*fp32"}
        | {"index": "*i64", "top": "*fp32", "objects": "i32", "number": "i32"},
        {"KEEP_BEST": True, "BLOCK": 512, "SHARED": True},
    ),
    (
        matching._claim,
        {"boxes": "*fp32", "crowd": "*i8", "rows": "*fp32", "areas": "*fp32", "top": "*fp32", "claimed": "*i8"}
        | {"objects": "i32", "number": "i32"},
        {"BLOCK": 512, "SHARED": False},
    ),
    (
        roi_align._pool,
        {"rows": "*bf16", "rois": "*fp32", "places": "*i64", "pooled": "*bf16", "channels": "i32"},
        {"BINS": 7, "SAMPLES": 2, "CHANNELS": 256},
    ),
    (
        roi_align._add_gradient,
        {"total": "*fp32", "rois": "*fp32", "places": "*i64", "grad": "*bf16", "channels": "i32"},
        {"BINS": 7, "SAMPLES": 2, "CHANNELS": 256},
    ),
    (
        own_channel._gradient,
        {"x": "*bf16", "weight": "*bf16", "grad": "*bf16", "channels": "i32"},
        {"SIDE": 14, "CHANNELS": 256},
    ),
    (
        paste._paste,
        {"masks": "*fp32", "boxes": "*fp64", "frames": "*i8", "height": "i32", "width": "i32", "threshold": "fp32"},
        {"SIDE": 28, "ROWS": 16, "COLUMNS": 128},
    ),
]


def compile_for(capability: int, kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> str:
    """The machine's instructions, as text."""
    place = {name: (kernel.arg_names.index(name),) for name in kernel.arg_names}
    # Tensors of PyTorch begin at multiples of 16 bytes, and channels are such multiples nearly always.
    aligned = [name for name, kind in types.items() if kind.startswith("*") or name == "channels"]
    source = ASTSource(
        fn=kernel,
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs={place[name]: value for name, value in constants.items()},
        attrs={place[name]: [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"enable_fp_fusion": False, "num_warps": 1 if "CHANNELS" in constants else 4}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return str(compiled.asm["ptx"])


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        for kernel, types, constants in KERNELS:
            ptx = compile_for(capability, kernel, types, constants)
            print(capability, kernel.__name__, "v4" if ".v4." in ptx else "", "fma" if "fma.rn" in ptx else "")
