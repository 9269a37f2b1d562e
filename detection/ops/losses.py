"""Losses of dense predictions: focal losses of classes and distances, GIoU loss of boxes.

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
    is_class = labels < classes
    own = labels.clamp(0, classes - 1)[..., None]
    no = (1 - alpha) * logits.sigmoid() ** gamma * F.softplus(logits)
    # The sum of a no for every class, but for the own class, which wants a yes. No (..., K) targets are made.
    own_logit, own_no = logits.gather(-1, own).squeeze(-1), no.gather(-1, own).squeeze(-1)
    yes = alpha * (-own_logit).sigmoid() ** gamma * F.softplus(-own_logit)
    loss = no.sum(dim=-1) + torch.where(is_class, yes - own_no, 0)
    return loss.masked_fill(labels < 0, 0)


def quality_focal_loss(logits: Tensor, labels: Tensor, quality: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the quality focal loss of each prediction, summed over its classes (Li et al. 2020, equation 4).

    The score of the own class should be a number from 0 to 1, the quality; all other scores should be 0.

    Args:
        logits: (..., K) float32.
        labels: (...) int64: a class, or K for background. A negative label gives a loss of zero.
        quality: (...), 0 to 1; without effect where there is no class.
        gamma: how much less a good answer counts; 0 is cross entropy.

    Returns:
        (...) float32.

    Example:
        >>> quality_focal_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.5]), gamma=0.0)
        tensor([1.3863])
    """
    classes = logits.shape[-1]
    is_class = labels < classes
    own = labels.clamp(0, classes - 1)[..., None]
    no = logits.sigmoid() ** gamma * F.softplus(logits)
    own_logit, own_no = logits.gather(-1, own).squeeze(-1), no.gather(-1, own).squeeze(-1)
    entropy = F.binary_cross_entropy_with_logits(own_logit, quality, reduction="none")
    yes = (quality - own_logit.sigmoid()).abs() ** gamma * entropy
    loss = no.sum(dim=-1) + torch.where(is_class, yes - own_no, 0)
    return loss.masked_fill(labels < 0, 0)


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Return the distribution focal loss: the cross entropy with the two whole numbers beside each distance.

    Li et al. 2020 (Generalized Focal Loss), equation 6.

    Args:
        logits: (..., n) of the distances 0 to n - 1.
        distances: (...), limited to 0 to n - 1.

    Returns:
        (...).
    """
    last = logits.shape[-1] - 1
    distances = distances.clamp(0, last)
    lower = distances.floor()
    upper_weight = distances - lower
    log_p = logits.log_softmax(dim=-1)
    places = torch.stack([lower, (lower + 1).clamp(max=last)], dim=-1).long()
    return -(log_p.gather(-1, places) * torch.stack([1 - upper_weight, upper_weight], dim=-1)).sum(dim=-1)


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
