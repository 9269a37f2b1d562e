"""PointRend's mask head for exporters: bilinear samples are one operator that every engine has.

N maps   B images   D detections   R = B * D regions   A regions of a map   P points   C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.models.point_head import PointHead, own_class
from detection.ops.points import cell_centres, on_canvas
from detection.structures import IGNORE, Detections


def sample_grid(maps: Tensor, points: Tensor) -> Tensor:
    """Return bilinear samples, as :func:`~detection.ops.points.sample_maps`.

    Args:
        maps: (N, C, H, W).
        points: (N, A, P, 2) x, y in cells of the same map.

    Returns:
        (N, A, P, C).
    """
    x = points[..., 0] * (2 / maps.shape[3]) - 1
    y = points[..., 1] * (2 / maps.shape[2]) - 1
    found = F.grid_sample(maps, torch.stack([x, y], dim=3), align_corners=False)  # (N, C, A, P)
    return found.permute(0, 2, 3, 1)


class ExportedPointHead(PointHead):
    """:class:`~detection.models.point_head.PointHead` at test time.

    The argument ``image`` of its methods is a tensor (B, D): the regions of each image.
    """

    def detect(self, features: Sequence[Tensor], detections: Detections) -> Detections:
        labels = detections.labels
        logits = self(features, detections.boxes.flatten(0, 1), labels, labels.flatten().clamp(min=0))
        masks = logits.sigmoid().unflatten(0, labels.shape)
        return detections._replace(masks=masks.masked_fill((labels == IGNORE)[..., None, None], 0))

    def coarse_masks(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        resolution = self.config.resolution
        x = self.fine(features, boxes, image, cell_centres(resolution, boxes.device))
        return self.coarse(x.transpose(1, 2).unflatten(2, (resolution, resolution)))  # type: ignore[no-any-return]

    def point_logits(
        self, features: Sequence[Tensor], boxes: Tensor, image: Tensor, coarse: Tensor, points: Tensor, own: Tensor
    ) -> Tensor:
        rough = sample_grid(coarse, (points * self.config.coarse)[:, None]).squeeze(1)
        return own_class(self.point(self.fine(features, boxes, image, points), rough).transpose(1, 2), own)

    def fine(self, features: Sequence[Tensor], boxes: Tensor, image: Tensor, points: Tensor) -> Tensor:
        """Return the features (R, P, C) at points in fractions of the sides of their boxes."""
        places = (on_canvas(points, boxes) / self.stride).unflatten(0, image.shape)
        return sample_grid(features[0], places).flatten(0, 1)
