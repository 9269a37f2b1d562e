"""Object detection and instance segmentation with Faster R-CNN and Mask R-CNN.

The package imports each name at its first use, so that ``import detection`` is quick and needs neither Lightning nor
albumentations.
"""

from typing import TYPE_CHECKING

from detection import former
from detection.lazy import lazy_names

if TYPE_CHECKING:
    from detection.checkpoint import save_model
    from detection.classifier_files import load_classifier
    from detection.convert.zoo import list_models
    from detection.engine.configs import list_configs
    from detection.inference import (
        Detection,
        Prediction,
        Predictor,
        load_model,
        model_info,
        predict,
        predict_batch,
    )
    from detection.models.build import build_detector
    from detection.models.cascade import CascadeMaskRCNN, CascadeRCNN
    from detection.models.detector import Detector
    from detection.models.factories import (
        cascade_mask_rcnn,
        cascade_rcnn,
        faster_rcnn,
        fcos,
        keypoint_rcnn,
        mask_rcnn,
        panoptic_fpn,
        pointrend,
        retinanet,
        semantic_fpn,
        task_aligned,
    )
    from detection.models.keypoint_head import KeypointRCNN
    from detection.models.one_stage import OneStage
    from detection.models.panoptic import PanopticFPN, SemanticFPN
    from detection.models.point_head import PointRend
    from detection.models.rcnn import FasterRCNN, MaskRCNN
    from detection.scoring import Evaluation, compare, evaluate
    from detection.training import TrainResult, train

__version__ = "0.1.0"

_HOMES = {
    "CascadeMaskRCNN": "detection.models.cascade",
    "CascadeRCNN": "detection.models.cascade",
    "Detection": "detection.inference",
    "Detector": "detection.models.detector",
    "Evaluation": "detection.scoring",
    "FasterRCNN": "detection.models.rcnn",
    "KeypointRCNN": "detection.models.keypoint_head",
    "MaskRCNN": "detection.models.rcnn",
    "OneStage": "detection.models.one_stage",
    "PanopticFPN": "detection.models.panoptic",
    "PointRend": "detection.models.point_head",
    "Prediction": "detection.inference",
    "Predictor": "detection.inference",
    "SemanticFPN": "detection.models.panoptic",
    "TrainResult": "detection.training",
    "build_detector": "detection.models.build",
    "cascade_mask_rcnn": "detection.models.factories",
    "cascade_rcnn": "detection.models.factories",
    "compare": "detection.scoring",
    "evaluate": "detection.scoring",
    "faster_rcnn": "detection.models.factories",
    "fcos": "detection.models.factories",
    "keypoint_rcnn": "detection.models.factories",
    "list_configs": "detection.engine.configs",
    "list_models": "detection.convert.zoo",
    "load_classifier": "detection.classifier_files",
    "load_model": "detection.inference",
    "mask_rcnn": "detection.models.factories",
    "model_info": "detection.inference",
    "panoptic_fpn": "detection.models.factories",
    "pointrend": "detection.models.factories",
    "predict": "detection.inference",
    "predict_batch": "detection.inference",
    "retinanet": "detection.models.factories",
    "save_model": "detection.checkpoint",
    "semantic_fpn": "detection.models.factories",
    "task_aligned": "detection.models.factories",
    "train": "detection.training",
}

__all__ = [
    "CascadeMaskRCNN",
    "CascadeRCNN",
    "Detection",
    "Detector",
    "Evaluation",
    "FasterRCNN",
    "KeypointRCNN",
    "MaskRCNN",
    "OneStage",
    "PanopticFPN",
    "PointRend",
    "Prediction",
    "Predictor",
    "SemanticFPN",
    "TrainResult",
    "__version__",
    "build_detector",
    "cascade_mask_rcnn",
    "cascade_rcnn",
    "compare",
    "evaluate",
    "faster_rcnn",
    "fcos",
    "keypoint_rcnn",
    "list_configs",
    "list_models",
    "load_classifier",
    "load_model",
    "mask_rcnn",
    "model_info",
    "panoptic_fpn",
    "pointrend",
    "predict",
    "predict_batch",
    "retinanet",
    "save_model",
    "semantic_fpn",
    "task_aligned",
    "train",
]


__getattr__, __dir__ = lazy_names(__name__, _HOMES)

former.install()
