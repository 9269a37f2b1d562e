"""Our detectors for others: torchvision's layout, or one safetensors file that suffices on its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from detection.checkpoint import description
from detection.checkpoint_files import replacing
from detection.convert.torchvision import to_torchvision
from detection.models.rcnn import FasterRCNN
from detection.models.roi_linear import as_linear


def save_safetensors(model: FasterRCNN, path: str | Path, configs: Mapping[str, Any] | None = None) -> None:
    """Write a detector to a safetensors file with its settings, class names, category ids and preprocessing.

    They lie as JSON under ``rcnn`` in the file's metadata, as :func:`~detection.checkpoint.describe_model` gives
    them; :func:`~detection.convert.pretrained.load_pretrained` reads the file back.

    Args:
        configs: as for :func:`~detection.checkpoint.save_model`.

    Raises:
        ValueError: as :func:`~detection.checkpoint.description`.
        OSError: as :func:`~detection.checkpoint_files.replacing`.
    """
    info = description(model, path, configs)
    tensors = {name: value.contiguous() for name, value in as_linear(model.state_dict()).items()}
    content = save(tensors, metadata={"rcnn": json.dumps(info)})
    with replacing(Path(path)) as file:
        file.write(content)


def save_torchvision(model: FasterRCNN, path: str | Path) -> None:
    """Write a detector's weights in the layout of torchvision's ``*_resnet50_fpn`` or, with norms, ``*_v2``.

    The classes are in our order behind the background; build torchvision's model with ``num_classes`` one larger.

    Raises:
        ValueError: parts that torchvision's layout has no place for.
        OSError: as :func:`~detection.checkpoint_files.replacing`.
    """
    state = model.state_dict()
    converted = to_torchvision(state, 2 if "box_head.convs.1.weight" in state else 1)
    with replacing(Path(path)) as file:
        torch.save(converted, file)
