"""What decides which images a detector's training sees, as plain values: files, sizes, transforms."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from detection.coco.annotations import Annotations
from detection.engine.data_config import DataConfig, StrongConfig
from detection.provenance import checksum


def ingredients_of(config: DataConfig, annotations: Mapping[str, Annotations]) -> dict[str, Any]:
    """Return settings of the data and descriptions of the images, by the names of the settings.

    Args:
        annotations: annotations by split.
    """
    found: dict[str, Any] = {"seed_everything": config.seed}
    for split in ("train", "val"):
        if split in annotations:
            found |= {f"data.{split}.{key}": value for key, value in images_of(annotations[split]).items()}
    settings = {
        "short_side": config.short_sides,
        "long_side": config.long_side,
        "resize": config.resize,
        "flip": config.flip,
        "crop": config.crop,
        "augment": [_described(transform) for transform in config.augment or []],
        **{field.name: _setting(getattr(config, field.name)) for field in fields(StrongConfig)},
        "bad_images": config.bad_images,
        "depth": config.depth,
    }
    return found | {f"data.{key}": value for key, value in settings.items()}


def _setting(value: Any) -> Any:
    """Return a setting, or a dataclass of settings, as plain values."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def images_of(annotations: Annotations) -> dict[str, Any]:
    """Return the number of images, a checksum of their order and sizes, and a checksum of the annotation file."""
    listed = hashlib.sha256(annotations.sizes.tobytes())
    for i in range(len(annotations)):
        listed.update(annotations.file_name(i).encode(errors="surrogatepass") + b"\0")
    return {"images": len(annotations), "list": listed.hexdigest(), "annotations": checksum(annotations.path)}


def _described(transform: object) -> str:
    """Return the ``repr`` of a transform without memory addresses, which differ between processes."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform))
