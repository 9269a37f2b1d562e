"""Semantic and panoptic maps in the parity gate: how those of an export differ from those of the detector.

K classes   h x w cells of the head   H x W image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.data.collate import canvas_of, collate
from detection.data.sample import Sample
from detection.data.samplers import EvalBatchSampler
from detection.data.transforms import Resize
from detection.evaluation.maps import Merging, predicted_map, segments_of
from detection.export.map_result import MapDifference, Maps
from detection.export.options import EQUAL, PROBABILITY
from detection.export.sensitivity import NOISES, ROOM, VAGUE, Sensitivity, precise, with_noise
from detection.models.detector import Detector
from detection.models.mask_forms import has_rounded_frames
from detection.models.panoptic import PanopticFPN
from detection.ops import boxes as box_ops
from detection.ops.panoptic import Segment


class Seen(NamedTuple):
    """What a detector with a semantic head finds in an image."""

    probabilities: Tensor
    """(K, h, w) of the semantic classes."""
    semantic: np.ndarray
    """(H, W) semantic classes."""
    ids: np.ndarray | None = None
    """(H, W) segments; None for a Semantic FPN."""
    segments: Sequence[Segment] = ()


def check_maps(model: Detector, exported: Detector, images: Sequence[tuple[str, np.ndarray]]) -> Maps:
    """Compare the maps of a detector with a semantic head and of its export.

    An image that does not pass is compared again, after runs with noise in every layer: see :mod:`.sensitivity`.

    Raises:
        RunError: the engine cannot compute the file.
    """
    plain = precise(model)
    sensitivity, found, pixels = Sensitivity(plain), [], [image for _, image in images]
    for (name, image), one, other in zip(images, seen_in(plain, pixels), seen_in(exported, pixels), strict=True):
        found.append(_compared(sensitivity, (name, image, 0), one, other))
        for noise in NOISES:
            if found[-1].decides:
                break
            noisy = with_noise(image, noise)
            one, other = (seen_in(each, [noisy])[0] for each in (plain, exported))
            found.append(_compared(sensitivity, (name, noisy, noise), one, other))
    return Maps(tuple(found))


def seen_in(model: Detector, images: Sequence[np.ndarray]) -> list[Seen]:
    """Run a detector on images, those of one canvas in one batch."""
    resize = Resize(*model.test_size, model.resize)
    samples = [Sample(resize.image(image), 0, (image.shape[0], image.shape[1])) for image in images]
    canvases = np.array([canvas_of([sample.image.shape[:2]], model.stride) for sample in samples])
    found: dict[int, Seen] = {}
    for numbers in EvalBatchSampler(canvases, len(samples)):
        batch = collate([samples[number] for number in numbers], divisor=model.stride)
        with torch.inference_mode():
            detections = model(batch.images, batch.sizes)
        assert detections.semantic is not None
        for i, number in enumerate(numbers):
            semantic = predicted_map(batch, detections, i)
            shares = detections.semantic[i].double().softmax(dim=0)
            found[number] = Seen(shares, semantic)
            if isinstance(model, PanopticFPN):
                one, config = detections.image(i), model.semantic_head.config
                boxes = box_ops.rescale(
                    one.boxes[None].double(), batch.sizes[i : i + 1], batch.original_sizes[i : i + 1]
                )
                merging = Merging(config.overlap, config.stuff_area, config.score)
                ids, segments = segments_of(one._replace(boxes=boxes[0]), semantic, merging, has_rounded_frames(model))
                found[number] = Seen(shares, semantic, ids, segments)
    return [found[number] for number in range(len(images))]


def equal_share(one: Seen, other: Seen) -> float:
    """Return the share of the pixels that both put into the same segment, whatever the numbers of the segments.

    A segment of one is that of the same class in the other with the most common pixels.
    """
    assert one.ids is not None
    assert other.ids is not None
    equal = int(((one.ids == 0) & (other.ids == 0)).sum())
    taken: set[tuple[int, int]] = set()
    pairs = []
    for theirs in other.segments:
        areas = np.bincount(one.ids[other.ids == theirs.id], minlength=1 + len(one.segments))
        for ours in one.segments:
            if (ours.label, ours.is_thing) == (theirs.label, theirs.is_thing):
                pairs.append((int(areas[ours.id]), ours.id, theirs.id))
    for area, mine, theirs_id in sorted(pairs, reverse=True):
        if (0, mine) not in taken and (1, theirs_id) not in taken:
            taken |= {(0, mine), (1, theirs_id)}
            equal += area
    return equal / one.ids.size


def _compared(sensitivity: Sensitivity, image: tuple[str, np.ndarray, int], ours: Seen, theirs: Seen) -> MapDifference:
    """Compare the maps of an image (name, pixels, noise); look for sensitive cells only if it does not pass."""
    name, pixels, noise = image
    off = _off(ours.probabilities, theirs.probabilities)
    semantic = float((ours.semantic == theirs.semantic).mean())
    panoptic = None if ours.ids is None else equal_share(ours, theirs)
    found = MapDifference(name, float(off.max()), semantic, panoptic, int((off > PROBABILITY).sum()), noise=noise)
    if found.passes:
        return found
    allowed, least = torch.full_like(off, PROBABILITY), [EQUAL, EQUAL]
    for other in sensitivity.runs(lambda model: seen_in(model, [pixels])[0]):
        allowed = allowed.maximum(ROOM * _off(ours.probabilities, other.probabilities))
        shares = [float((ours.semantic == other.semantic).mean())]
        shares += [] if ours.ids is None else [equal_share(ours, other)]
        least = [min(before, 1 - ROOM * (1 - share)) for before, share in zip(least, [*shares, 1.0], strict=False)]
    steady = allowed <= PROBABILITY
    return MapDifference(
        name,
        float(off[steady].max()) if steady.any() else 0.0,
        semantic,
        panoptic,
        int((off > allowed).sum()),
        int((~steady).sum()),
        float((allowed > VAGUE * PROBABILITY).double().mean()),
        (least[0], least[1]),
        noise,
    )


def _off(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the largest difference of a probability in each cell, (h, w); NaN counts as 1."""
    return (ours - theirs).abs().amax(dim=0).nan_to_num(1.0)
