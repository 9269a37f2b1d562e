"""Settings and checkpoints that do not fit, refused before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

import backbones
from backbones import BackboneConfig
from detection.models.rcnn import build_detector
from detection.structures import Categories


def check_configs(configs: Mapping[str, Any]) -> None:
    """Refuse settings that no detector can have, before any data are read.

    Raises:
        ValueError: an unknown backbone, anchors that do not fit the pyramid, ...
    """
    backbone: BackboneConfig = configs["backbone"]
    backbones.check_name(backbone.name)
    if backbone.name in backbones.available():  # others may do anything when built
        with torch.device("meta"):
            build_detector(1, **{**configs, "backbone": replace(backbone, weights=None)})


def check_categories(theirs: Mapping[str, Sequence[Any]] | None, ours: Categories | None) -> None:
    """Refuse a checkpoint of other classes.

    Raises:
        ValueError: naming what differs.
    """
    if theirs is None or ours is None:
        return
    names = dict(zip(theirs["ids"], theirs["names"], strict=True)), dict(zip(ours.ids, ours.names, strict=True))
    if names[0] == names[1]:
        return
    lines = [
        f"id {key}: {names[0].get(key, 'none')} in the checkpoint, {names[1].get(key, 'none')} in the annotations"
        for key in sorted({*names[0], *names[1]})
        if names[0].get(key) != names[1].get(key)
    ]
    shown = "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")
    raise ValueError(f"the checkpoint knows other classes than the annotations: {shown}")
