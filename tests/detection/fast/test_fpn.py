"""The pyramid in less memory."""

import torch

from detection import fast
from detection.models.fpn import FPN, FPNConfig


def stages(sizes=((16, 20), (8, 10), (4, 5), (2, 3))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 8 * 2**i, *size, generator=generator) for i, size in enumerate(sizes)]


def test_the_finest_merged_map_is_not_kept():
    kept: list[tuple[int, ...]] = []
    fpn = fast.convert(FPN((8, 16, 32, 64), (4, 8, 16, 32), FPNConfig(channels=12)))
    features = [x.requires_grad_() for x in stages()]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        fpn(features)
    assert (2, 12, 8, 10) in kept
    assert (2, 12, 16, 20) not in kept
