"""Semantic and panoptic maps in the parity gate: how those of an export differ from those of the detector.

K classes   h x w cells of the head   H x W image.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.data.collate import canvas_of, collate
from detection.data.sample import Sample
from detection.data.samplers import EvalBatchSampler
from detection.data.transforms import Resize
from detection.evaluation.maps import Merging, predicted_map, segments_of
from detection.export.sensitivity import NOISES, ROOM, VAGUE, Sensitivity, precise, with_noise
from detection.models.detector import Detector
from detection.models.mask_forms import has_rounded_frames
from detection.models.panoptic import PanopticFPN
from detection.ops import boxes as box_ops
from detection.ops.panoptic import Segment

PROBABILITY = 1e-4
"""Largest difference of the probability of a class that passes."""
EQUAL = 0.999
"""Smallest share of equal pixels that passes."""


class Seen(NamedTuple):
    """What a detector with a semantic head finds in an image."""

    probabilities: Tensor
    """(K, h, w) of the semantic classes."""
    semantic: np.ndarray
    """(H, W) semantic classes."""
    ids: np.ndarray | None = None
    """(H, W) segments; None for a Semantic FPN."""
    segments: Sequence[Segment] = ()


@dataclass(frozen=True)
class MapDifference:
    """How the maps of an image differ."""

    image: str
    probabilities: float
    """Largest difference of the probability of a class, in cells that are not sensitive."""
    semantic: float
    """Share of the pixels with the same semantic class."""
    panoptic: float | None
    """Share of the pixels in the same segment; None for a Semantic FPN."""
    wrong: int
    """Cells whose probabilities differ by more than they may."""
    sensitive: int = 0
    """Cells whose probabilities move by more than the tolerance if rounding changes. They may differ as far."""
    vague: float = 0.0
    """Share of the cells whose probabilities move by far more than the tolerance."""
    least: tuple[float, float] = (EQUAL, EQUAL)
    """Smallest shares of equal pixels, semantic and panoptic, that pass: less if rounding changes more pixels."""
    noise: int = 0
    """Levels of noise in the image, which replaces the one before it."""

    @property
    def passes(self) -> bool:
        """Whether all differences are within the tolerances."""
        panoptic = self.panoptic is None or self.panoptic >= self.least[1]
        return not self.wrong and self.semantic >= self.least[0] and panoptic

    @property
    def decides(self) -> bool:
        """Whether the comparison proves something: most cells and pixels do not depend on rounding."""
        return self.vague <= 0.5 and min(self.least) >= 0.5


@dataclass(frozen=True)
class Maps:
    """The comparison of all maps."""

    differences: tuple[MapDifference, ...]

    @property
    def last(self) -> list[MapDifference]:
        """The differences without those of images that another one replaces."""
        followers = [*self.differences[1:], None]
        return [one for one, after in zip(self.differences, followers, strict=True) if not (after and after.noise)]

    @property
    def passed(self) -> bool:
        """Whether every image passes, and every image or its replacement decides."""
        decides = all(one.decides for one in self.last) and bool(self.differences)
        return decides and all(one.passes for one in self.differences)

    def line(self) -> str:
        """Return the result as text."""
        rows = self.differences
        most, least = max(one.probabilities for one in rows), min(one.semantic for one in rows)
        text = f"semantic maps: probabilities within {most:.1e}, equal pixels {100 * least:.3f} % or more"
        shares = [one.panoptic for one in rows if one.panoptic is not None]
        text += f"; panoptic maps: equal pixels {100 * min(shares):.3f} % or more" if shares else ""
        return text if self.passed else f"{text}; maps FAILED"

    def summary(self) -> list[dict[str, Any]]:
        """Return plain values."""
        return [asdict(one) for one in self.differences]


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
