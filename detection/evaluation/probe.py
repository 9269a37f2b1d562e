"""Judge frozen features of images by two simple classifiers: nearest neighbours and a linear layer.

n training images   m tested images   C channels   K classes
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Neighbours that vote, and the temperature of their weights (Wu et al. 2018, section 3.4)."""
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weight decays that the linear probe tries."""
ROWS = 1024
"""Tested images whose similarities are in memory at a time."""


def nearest_neighbours(
    features: Tensor, labels: Tensor, tested: Tensor, neighbours: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> Tensor:
    """Classify images by a weighted vote of their nearest training images.

    The weight of a neighbour is exp(cosine similarity / temperature) (Wu et al. 2018, "Unsupervised feature learning
    via non-parametric instance discrimination", section 3.4).

    Args:
        features: (n, C) float, of the training images.
        labels: (n,) int64.
        tested: (m, C) float.
        neighbours: number of neighbours; at most n are used.

    Returns:
        (m,) int64, the class with the largest vote.
    """
    known = F.normalize(features, dim=1)
    found = [_vote(rows @ known.T, labels, neighbours, temperature) for rows in F.normalize(tested, dim=1).split(ROWS)]
    return torch.cat(found) if found else labels.new_zeros(0)


def leave_one_out(
    features: Tensor, labels: Tensor, neighbours: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> Tensor:
    """Classify each image by a weighted vote of the nearest others, as :func:`nearest_neighbours` does.

    Args:
        features: (n, C) float, n at least 2.
        labels: (n,) int64.
        neighbours: number of neighbours; at most n - 1 are used.

    Returns:
        (n,) int64, the class with the largest vote.
    """
    known, found = F.normalize(features, dim=1), []
    for begin in range(0, len(known), ROWS):
        similarity = known[begin : begin + ROWS] @ known.T
        similarity.diagonal(begin).fill_(-math.inf)
        found.append(_vote(similarity, labels, min(neighbours, len(known) - 1), temperature))
    return torch.cat(found)


def _vote(similarity: Tensor, labels: Tensor, neighbours: int, temperature: float) -> Tensor:
    """Return the class (r,) with the largest vote of the most similar images, for similarities (r, n)."""
    similarity, nearest = similarity.topk(min(neighbours, len(labels)), dim=1)
    # Less the largest similarity, so that no weight overflows; this changes no comparison.
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = weights.new_zeros(len(similarity), int(labels.max()) + 1).scatter_add_(1, labels[nearest], weights)
    return votes.argmax(dim=1)


def linear_probe(features: Tensor, labels: Tensor, tested: Tensor) -> Tensor:
    """Classify images by multinomial logistic regression on features with mean 0 and standard deviation 1.

    A fifth of the training images of each class chooses the weight decay from :data:`DECAYS`. Then all of them train.

    Args:
        features: (n, C) float, of the training images.
        labels: (n,) int64.
        tested: (m, C) float.

    Returns:
        (m,) int64, the class with the largest logit.
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0, unbiased=False)
    deviation = torch.where(deviation > 0, deviation, 1)
    features, tested = ((values - mean) / deviation for values in (features, tested))
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[labels.argsort(stable=True)[4::5]] = True
    decay = DECAYS[len(DECAYS) // 2]
    if held.any():
        layers = [fit(features[~held], labels[~held], one) for one in DECAYS]
        rights = [
            int((features[held] @ weight.T + bias).argmax(dim=1).eq(labels[held]).sum()) for weight, bias in layers
        ]
        decay = DECAYS[rights.index(max(rights))]
    weight, bias = fit(features, labels, decay)
    return (tested @ weight.T + bias).argmax(dim=1)


def fit(features: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Fit a linear layer to labels by L-BFGS.

    Args:
        features: (n, C) float.
        labels: (n,) int64.
        decay: weight decay; the loss is the mean cross-entropy + decay / 2 times the sum of the squared weights.

    Returns:
        Weight (K, C) and bias (K,).
    """
    classes = int(labels.max()) + 1
    weight = features.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), labels) + decay / 2 * weight.square().sum()
        value.backward()
        return float(value.detach())

    solver.step(loss)
    return weight.detach(), bias.detach()


def interval(right: int, images: int, deviations: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, as fractions (Wilson 1927).

    Example:
        >>> low, high = interval(90, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    if not images:
        return 0.0, 1.0
    rate, squared = right / images, deviations**2
    centre = (rate + squared / (2 * images)) / (1 + squared / images)
    half = deviations / (1 + squared / images) * math.sqrt(rate * (1 - rate) / images + squared / (4 * images**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)
