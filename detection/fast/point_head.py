"""PointRend's mask head that computes only the RoIs that count, and only the logit of each RoI's class.

R RoIs   P points   C channels   K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.fast.conv import is_plain
from detection.fast.keypoint_head import slots_of
from detection.models.point_head import PointHead, PointMasks
from detection.ops.points import on_canvas, sample_maps


class FastPointHead(PointHead):
    """:class:`~detection.models.point_head.PointHead` that skips unused RoIs on a CPU, and joins no tensors.

    A layer of the point head reads features and coarse logits. Two products that add up need no joined input.
    """

    def slots(self, used: Tensor) -> Tensor:
        return slots_of(used)

    def point_logits(
        self, features: Sequence[Tensor], boxes: Tensor, image: Tensor, coarse: Tensor, points: Tensor, own: Tensor
    ) -> Tensor:
        layers = [*self.point.layers, self.point.logits]
        if not (is_plain(self.point, PointMasks) and all(is_plain(layer, nn.Linear) for layer in layers)):
            return super().point_logits(features, boxes, image, coarse, points, own)
        x = sample_maps(features[0], on_canvas(points, boxes) / self.stride, image).flatten(0, 1)
        rough = sample_maps(coarse, points * self.config.coarse, torch.arange(len(coarse), device=coarse.device))
        rough, shape, classes = rough.flatten(0, 1), points.shape[:2], self.num_classes
        for layer in self.point.layers:
            added = F.linear(rough, layer.weight[:, -classes:], layer.bias)  # type: ignore[index, arg-type]
            # In place, which autocast does not see.
            x = added.addmm_(x.to(added.dtype), layer.weight[:, :-classes].t().to(added.dtype)).relu_()  # type: ignore[index]
        weight, bias = (values.index_select(0, own) for values in (self.point.logits.weight, self.point.logits.bias))
        of_x = torch.bmm(x.unflatten(0, shape), weight[:, :-classes, None].to(x.dtype))  # (R, P, 1)
        of_rough = torch.bmm(rough.unflatten(0, shape), weight[:, -classes:, None].to(rough.dtype))
        return (of_x.float() + of_rough.float()).squeeze(2) + bias[:, None]
