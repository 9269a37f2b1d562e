"""Losses of dense predictions: focal loss of classes, GIoU loss of boxes.

K classes.  Boxes: XYXY.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.ops.boxes import area


def focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of each prediction, summed over its classes (Lin et al. 2017, equation 5).

    Each class is a yes or no of its own. A sure and right answer adds little, so that many easy negatives do not
    outweigh a few positives.

    Args:
        logits: (..., K) float32.
        labels: (...) int64: a class, or K for background. A negative label gives a loss of zero.
        alpha: weight of a yes; a no has 1 - alpha.
        gamma: how much less a sure answer counts; 0 is cross entropy.

    Returns:
        (...) float32.

    Example:
        >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]), alpha=0.5, gamma=0.0)
        tensor([0.6931])
    """
    classes = logits.shape[-1]
    is_class = (labels >= 0) & (labels < classes)
    own = labels.clamp(0, classes - 1)[..., None]
    no = (1 - alpha) * logits.sigmoid() ** gamma * F.softplus(logits)
    # The sum of a no for every class, but for the own class, which wants a yes. No (..., K) targets are made.
    own_logit, own_no = logits.gather(-1, own).squeeze(-1), no.gather(-1, own).squeeze(-1)
    yes = alpha * (-own_logit).sigmoid() ** gamma * F.softplus(-own_logit)
    loss = no.sum(dim=-1) + torch.where(is_class, yes - own_no, 0)
    return loss.masked_fill(labels < 0, 0)


def giou_loss(boxes: Tensor, truth: Tensor, eps: float = 1e-7) -> Tensor:
    """Return one minus the generalised IoU of each pair, 0 to 2 (Rezatofighi et al. 2019, algorithm 1).

    Args:
        boxes, truth: (..., 4); x1 <= x2 and y1 <= y2.
        eps: keeps boxes without area from a division by zero.

    Returns:
        (...).
    """
    shared = area(torch.cat([torch.maximum(boxes, truth)[..., :2], torch.minimum(boxes, truth)[..., 2:]], dim=-1))
    hull = area(torch.cat([torch.minimum(boxes, truth)[..., :2], torch.maximum(boxes, truth)[..., 2:]], dim=-1))
    union = area(boxes) + area(truth) - shared
    return 1 - shared / (union + eps) + (hull - union) / (hull + eps)
