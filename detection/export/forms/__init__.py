"""Forms of the plain heads whose shapes an exporter can follow: the same results from the same parameters.

The plain code asks how many anchors a level has, and does less where there are few. An exporter needs a program that
does the same for every image. A new head with such questions gets a file here, and a line in :data:`FORMS`.
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from detection.export.forms.dense import Candidates, ExportedFCOS, ExportedRetinaNet, ExportedTaskAligned
from detection.export.forms.keypoints import ExportedKeypointHead
from detection.export.forms.points import ExportedPointHead
from detection.export.forms.regions import CandidateBoxHead, ExportedBoxHead, ExportedMaskHead, ExportedObjectMasks
from detection.export.forms.rpn import ExportedRPN
from detection.models.box_head import BoxHead
from detection.models.cascade import CascadeHead
from detection.models.detector import Detector
from detection.models.fcos import FCOSHead
from detection.models.keypoint_head import KeypointHead
from detection.models.mask_head import MaskHead
from detection.models.object_masks import ObjectMasks
from detection.models.one_stage import OneStage
from detection.models.point_head import PointHead
from detection.models.retinanet import RetinaNetHead
from detection.models.rpn import RPN
from detection.models.task_aligned import TaskAlignedHead

FORMS: Mapping[type[nn.Module], type[nn.Module]] = {
    RPN: ExportedRPN,
    BoxHead: ExportedBoxHead,
    MaskHead: ExportedMaskHead,
    RetinaNetHead: ExportedRetinaNet,
    FCOSHead: ExportedFCOS,
    TaskAlignedHead: ExportedTaskAligned,
    ObjectMasks: ExportedObjectMasks,
    KeypointHead: ExportedKeypointHead,
    PointHead: ExportedPointHead,
}
"""The exportable class of each plain class."""

M = TypeVar("M", bound=nn.Module)
D = TypeVar("D", bound=Detector)


def to_exportable(model: M) -> M:
    """Give each part of a plain detector its exportable class, in place, and return the detector."""
    for module in model.modules():
        module.__class__ = FORMS.get(type(module), type(module))
    return model


def to_candidates(model: D) -> D:
    """Let an exportable detector return the candidates of its last NMS, in place, and return the detector."""
    head = model.last_head
    if isinstance(model, OneStage):
        model.__class__ = Candidates  # type: ignore[assignment]  # it is a one-stage detector
    else:
        last = head.heads()[-1] if isinstance(head, CascadeHead) else head
        last.__class__ = CandidateBoxHead
    return model
