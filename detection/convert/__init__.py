"""Convert detectors of other toolkits: their weights, and the settings that reproduce their predictions."""

from typing import TYPE_CHECKING

from detection.lazy import lazy_names

if TYPE_CHECKING:
    from detection.convert.detectron2 import from_detectron2
    from detection.convert.mmdetection import from_mmdetection
    from detection.convert.settings import DetectorConfig, torchvision_config
    from detection.convert.torchvision import from_torchvision, to_torchvision

__all__ = [
    "DetectorConfig",
    "from_detectron2",
    "from_mmdetection",
    "from_torchvision",
    "to_torchvision",
    "torchvision_config",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DetectorConfig": "detection.convert.settings",
        "from_detectron2": "detection.convert.detectron2",
        "from_mmdetection": "detection.convert.mmdetection",
        "from_torchvision": "detection.convert.torchvision",
        "to_torchvision": "detection.convert.torchvision",
        "torchvision_config": "detection.convert.settings",
    },
)
