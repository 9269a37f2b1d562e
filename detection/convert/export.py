"""Our detectors for others: torchvision's layout, or one safetensors file that suffices on its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from detection.checkpoint import describe_model
from detection.convert.torchvision import to_torchvision
from detection.models.rcnn import FasterRCNN


def save_safetensors(path: str | Path, model: FasterRCNN, configs: Mapping[str, Any]) -> None:
    """Write a detector to a safetensors file with its settings, class names, category ids and preprocessing.

    They lie as JSON under ``rcnn`` in the file's metadata, as :func:`~detection.checkpoint.describe_model` gives
    them; :func:`~detection.convert.pretrained.load_pretrained` reads the file back.

    Args:
        configs: what the detector was built from, by the names of ``build_detector``'s arguments.
    """
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(tensors, partial, metadata={"rcnn": json.dumps(describe_model(model, configs))})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_torchvision(path: str | Path, model: FasterRCNN) -> None:
    """Write a detector's weights in the layout of torchvision's ``*_resnet50_fpn`` or, with norms, ``*_v2``.

    The classes are in our order behind the background; build torchvision's model with ``num_classes`` one larger.

    Raises:
        ValueError: parts that torchvision's layout has no place for.
    """
    state = model.state_dict()
    torch.save(to_torchvision(state, 2 if "box_head.convs.1.weight" in state else 1), path)
