"""The former import path of the annotation reader, which is now in :mod:`detection.coco`."""

from detection.coco.annotations import Annotations, check_same_categories, load_annotations

__all__ = ["Annotations", "check_same_categories", "load_annotations"]
