"""Our detectors for others: torchvision's layout, or one safetensors file that suffices on its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from detection.checkpoint import check_rebuilt, describe_model, replacing
from detection.convert.torchvision import to_torchvision
from detection.models.rcnn import FasterRCNN
from detection.models.roi_linear import as_linear


def save_safetensors(path: str | Path, model: FasterRCNN, configs: Mapping[str, Any]) -> None:
    """Write a detector to a safetensors file with its settings, class names, category ids and preprocessing.

    They lie as JSON under ``rcnn`` in the file's metadata, as :func:`~detection.checkpoint.describe_model` gives
    them; :func:`~detection.convert.pretrained.load_pretrained` reads the file back.

    Args:
        configs: what the detector was built from, by the names of ``build_detector``'s arguments.

    Raises:
        ValueError: configs of another model, from which it could not be rebuilt.
        OSError: as :func:`~detection.checkpoint.replacing`.
    """
    info = describe_model(model, configs)
    check_rebuilt(model, info, path)
    tensors = {name: value.contiguous() for name, value in as_linear(model.state_dict()).items()}
    content = save(tensors, metadata={"rcnn": json.dumps(info)})
    with replacing(Path(path)) as file:
        file.write(content)


def save_torchvision(path: str | Path, model: FasterRCNN) -> None:
    """Write a detector's weights in the layout of torchvision's ``*_resnet50_fpn`` or, with norms, ``*_v2``.

    The classes are in our order behind the background; build torchvision's model with ``num_classes`` one larger.

    Raises:
        ValueError: parts that torchvision's layout has no place for.
        OSError: as :func:`~detection.checkpoint.replacing`.
    """
    state = model.state_dict()
    converted = to_torchvision(state, 2 if "box_head.convs.1.weight" in state else 1)
    with replacing(Path(path)) as file:
        torch.save(converted, file)
