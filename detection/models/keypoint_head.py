"""The keypoint head, which predicts where the keypoints of a RoI's object are, and Keypoint R-CNN.

B images   S RoI samples   D detections   N keypoints   m heatmap side.
He et al. 2017 (Mask R-CNN), section 5, in detectron2's form: one heatmap per keypoint, for all classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from detection.models.conv_stack import ConvStack
from detection.models.detector import Detector
from detection.models.rcnn import FasterRCNN, TwoStage
from detection.ops.keypoints import decode_keypoints, keypoint_cells
from detection.ops.roi_align import roi_align
from detection.structures import IGNORE, Batch, Detections, RoISamples, Targets

if TYPE_CHECKING:
    from detection.models.box_head import BoxHead
    from detection.models.fpn import FPN
    from detection.models.rpn import RPN


@dataclass(frozen=True)
class KeypointHeadConfig:
    """Layers of the keypoint head."""

    keypoints: int = 17
    """Number of keypoints of an object; a training takes it from its annotations."""
    convs: int = 8
    """Number of 3x3 convolutions before the upsampling."""
    channels: int = 512
    """Channels of these convolutions."""
    norm: Literal["batch", "sync", "group"] | None = None
    """Norm after each of these convolutions."""
    resolution: int = 14
    """Side of the pooled RoI features, in cells; a heatmap has four times this side."""
    sampling_ratio: int = 2
    """Samples of RoIAlign per bin and axis; 0: one per feature cell that the bin covers (detectron2)."""
    aligned: bool = True
    """Shift RoIs by half a pixel, so that features belong to pixel centres; torchvision does not."""
    loss_weight: float = 1.0
    """Factor of the loss."""
    pixel_corners: bool = False
    """Whether the weights learned keypoints half a pixel of the file to the upper left, as torchvision's did."""


class KeypointHead(nn.Module):
    """Predict keypoints of RoIs: a loss in training, x, y and score at test time. Arguments as for the box head."""

    loss_names = ("loss_keypoint",)
    needs = ("keypoints",)
    """Fields of the targets that the loss needs."""
    missing = "the keypoint head needs keypoints; load them with CocoDataset(..., partners=partners(categories))"
    """Error message if the targets lack these fields."""

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: KeypointHeadConfig) -> None:
        super().__init__()
        self.num_classes, self.strides, self.config = num_classes, tuple(strides), config
        self.convs = ConvStack(channels, [config.channels] * config.convs, config.norm)
        width = config.channels if config.convs else channels
        self.heatmaps = nn.ConvTranspose2d(width, config.keypoints, 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.heatmaps.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.heatmaps.bias)  # type: ignore[arg-type]

    @property
    def side(self) -> int:
        """Side of a heatmap, in cells."""
        return 4 * self.config.resolution

    def forward(self, features: Sequence[Tensor], rois: Tensor, used: Tensor) -> Tensor:
        """Return the heatmaps of RoIs.

        Args:
            features: P2...
            rois: (B, S, 4).
            used: (B, S) bool; the heatmaps of other RoIs are meaningless.

        Returns:
            (B, S, N, m, m) float32 logits.
        """
        config = self.config
        x = roi_align(features, self.strides, rois, config.resolution, config.sampling_ratio, config.aligned)
        return self.upsampled(self.convs(x.flatten(0, 1))).unflatten(0, rois.shape[:2])

    def upsampled(self, x: Tensor) -> Tensor:
        """Return heatmaps (R, N, m, m) float32 from features (R, C, r, r): a deconvolution, then twice the side."""
        return F.interpolate(self.heatmaps(x).float(), scale_factor=2, mode="bilinear", align_corners=False)

    def losses(self, features: Sequence[Tensor], samples: RoISamples, targets: Targets) -> dict[str, Tensor]:
        """Return ``loss_keypoint``: cross-entropy over the cells of a heatmap, averaged over labelled keypoints.

        Only keypoints inside a positive RoI of their object count.
        """
        assert targets.keypoints is not None
        rois, matched, labels = (x[:, : samples.positives] for x in (samples.boxes, samples.matched, samples.labels))
        index = matched[..., None, None].expand(-1, -1, *targets.keypoints.shape[2:])
        cells = keypoint_cells(targets.keypoints.gather(1, index), rois, self.side)  # (B, S, N)
        cells = cells.masked_fill(((labels < 0) | (labels >= self.num_classes))[..., None], IGNORE)
        loss = self.cross_entropy(features, rois, cells) / (cells != IGNORE).sum().clamp(min=1)
        return {"loss_keypoint": self.config.loss_weight * loss}

    def cross_entropy(self, features: Sequence[Tensor], rois: Tensor, cells: Tensor) -> Tensor:
        """Return the sum of cross-entropies of heatmaps with the right cells, (B, S, N) int64 or IGNORE."""
        used = (cells != IGNORE).any(dim=2)
        # Not a product with zero: an unused entry may be Inf in float16, and 0 * Inf is NaN.
        heatmaps = self(features, rois, used).masked_fill(~used[..., None, None, None], 0)
        return F.cross_entropy(heatmaps.flatten(3).flatten(0, 2), cells.flatten(), ignore_index=IGNORE, reduction="sum")

    def detect(self, features: Sequence[Tensor], detections: Detections) -> Detections:
        """Return the detections with keypoints (B, D, N, 3): x, y, score; zero on padding."""
        real = detections.labels != IGNORE
        heatmaps = self(features, detections.boxes, real).masked_fill(~real[..., None, None, None], 0)
        found = decode_keypoints(heatmaps.flatten(0, 1), detections.boxes.flatten(0, 1).float())
        return detections._replace(keypoints=found.unflatten(0, real.shape).masked_fill(~real[..., None, None], 0))


class KeypointRCNN(FasterRCNN):
    """Faster R-CNN with keypoints for each detection."""

    keypoint_head: KeypointHead

    def __init__(
        self, backbone: Backbone, fpn: "FPN", rpn: "RPN", box_head: "BoxHead", keypoint_head: KeypointHead
    ) -> None:
        TwoStage.__init__(self, backbone, fpn, rpn, box_head, {"keypoint_head": keypoint_head})

    def check_targets(self, batch: Batch) -> None:
        """Raise a ValueError if this detector cannot train on a batch."""
        super().check_targets(batch)
        assert batch.targets is not None
        assert batch.targets.keypoints is not None
        found, own = batch.targets.keypoints.shape[2], self.keypoint_head.config.keypoints
        if found != own:
            raise ValueError(f"targets have {found} keypoints, the detector {own}; set model.keypoint_head.keypoints")


def keypoint_config(model: Detector) -> KeypointHeadConfig | None:
    """Return the config of the keypoint head; None for a detector without one."""
    return model.keypoint_head.config if isinstance(model, KeypointRCNN) else None
