"""Convert detectors of other toolkits: their weights, and the settings that reproduce their predictions."""

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
