"""The reader of annotation files, by the name that it had before :mod:`detection.coco` came."""

from detection.coco.annotations import Annotations, check_same_categories, load_annotations

__all__ = ["Annotations", "check_same_categories", "load_annotations"]
