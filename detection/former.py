"""Former module names, which still import: with a DeprecationWarning that says the new name.

Python asks :class:`_Finder` only for names that it finds nowhere else.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FORMER = {
    "backbones.autocast": "backbones.fast.autocast",
    "backbones.compiled": "backbones.fast.compiled",
    "backbones.conv": "backbones.fast.conv",
    "backbones.fused": "backbones.fast.fused",
    "backbones.kernels": "backbones.fast.kernels",
    "backbones.winograd": "backbones.fast.winograd",
    "detection.models.finest": "detection.fast.finest",
    "detection.models.folding": "detection.fast.folding",
    "detection.ops.anchor_matching": "detection.fast.matching",
    "detection.ops.kernels": "detection.fast.kernels",
    "detection.ops.levels": "detection.fast.levels",
    "detection.ops.pasting": "detection.fast.pasting",
    "detection.predict_tool": "detection.inference",
    "detection.predict_tool.command": "detection.inference.folders",
    "detection.predict_tool.outputs": "detection.inference.outputs",
    "detection.predict_tool.sources": "detection.inference.sources",
    "detection.predicting": "detection.inference",
    "detection.predicting.find": "detection.inference.detect",
    "detection.predicting.options": "detection.inference.options",
    "detection.predicting.tiles": "detection.inference.tiles",
    "detection.report.command": "detection.report.scoring",
}
"""The new name of each module that the documentation named."""

RENAMED = {
    "detection.predicting.find": {
        "Found": "detection.structures:Detections",
        "find": "detection.inference.detect:detect",
        "find_in_views": "detection.inference.views:detect_in_views",
        "merge": "detection.inference.views:merge_views",
    },
    "detection.predicting.tiles": {"find_in_tiles": "detection.inference.tiles:detect_in_tiles"},
    "detection.report.command": {"_parser": "detection.former:evaluate_parser"},
}
"""Former names in these modules, where they are called otherwise now."""

GONE = {
    "detection.benchmark": "it is not installed any more; run tools/benchmark.py of a checkout, or rcnn benchmark",
}


def evaluate_parser() -> Any:
    """Return the parser of ``rcnn evaluate``."""
    return importlib.import_module("detection.commands.main").parser_of("evaluate")


class _Finder:
    """Finds the modules of :data:`FORMER`, and those of :data:`GONE` only to say what to use instead."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in GONE:
            raise ModuleNotFoundError(f"{name}: {GONE[name]}", name=name)
        return ModuleSpec(name, self, is_package=True) if name in FORMER else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(f"{name} is {FORMER[name]} now; the old name still works", DeprecationWarning, stacklevel=2)
        new, renamed = importlib.import_module(FORMER[name]), RENAMED.get(name, {})

        def find(attribute: str) -> Any:
            if attribute in renamed:
                place, _, attribute = renamed[attribute].partition(":")
                return getattr(importlib.import_module(place), attribute)
            if attribute.startswith("__") or not hasattr(new, attribute):
                raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
            return getattr(new, attribute)

        module.__doc__ = f"The former name of :mod:`{FORMER[name]}`."
        vars(module)["__getattr__"] = find


def install() -> None:
    """Let Python find former names, once."""
    if not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.append(_Finder())
