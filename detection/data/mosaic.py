"""Mosaic: four images around one point."""

from dataclasses import dataclass

import numpy as np

from detection.data.limits import check_probability, check_size
from detection.data.mixing import Mix, Partner, joined
from detection.data.resizing import filled, resized
from detection.data.scene import Scene, cut

PADDING = 114
"""Gray where no image is, as in YOLOX and RTMDet."""


@dataclass(frozen=True)
class Mosaic(Mix):
    """Put a training image and three others around a random point of a canvas twice as high and wide as ``size``.

    YOLOX (Ge et al. 2021) and RTMDet (Lyu et al. 2022). Use it together with ``data.jitter``, which brings the canvas
    back to one size.
    """

    p: float = 1.0
    """Probability of a mosaic; otherwise the image stays alone."""
    size: tuple[int, int] = (640, 640)
    """Height and width into which each of the four images is fitted; the canvas is twice as high and wide."""

    def check(self) -> None:
        """Reject settings that cannot be.

        Raises:
            ValueError: no probability, or an empty size.
        """
        check_probability("data.mosaic.p", self.p)
        check_size("data.mosaic.size", self.size)

    def factor(self, height: int, width: int) -> float:
        """Return the scale of an image of a size: pixels in the mosaic per pixel before."""
        return min(self.size[0] / height, self.size[1] / width)

    def mix(self, scene: Scene, generator: np.random.Generator, partner: Partner) -> Scene:
        """Return the mosaic, with the scene at its top left."""
        if generator.random() >= self.p:
            return scene
        height, width = 2 * self.size[0], 2 * self.size[1]
        middle = [round(side * float(generator.uniform(0.25, 0.75))) for side in (height, width)]
        canvas = filled((height, width, scene.image.shape[2]), scene.image, PADDING)
        quarters = []
        for place in range(4):
            one = scene if place == 0 else partner()
            begin = [middle[axis] if lies else 0 for axis, lies in enumerate((place >= 2, place % 2 == 1))]
            end = [(height, width)[axis] if first else middle[axis] for axis, first in enumerate(begin)]
            quarters.append(self._placed(one, canvas, begin, end))
        return joined([one for one in quarters if one is not None] or [scene.chosen(scene.crowd & False)], canvas)

    def _placed(self, scene: Scene, canvas: np.ndarray, begin: list[int], end: list[int]) -> Scene | None:
        """Draw a scene into the part of the canvas from ``begin`` to ``end`` (row, column), against the middle."""
        old = scene.image.shape[:2]
        factor = self.factor(*old)
        new = [max(1, round(side * factor)) for side in old]
        room = [last - first for first, last in zip(begin, end, strict=True)]
        if min(room) < 1:
            return None
        image = resized(scene.image, new[0], new[1])
        shown = [min(a, b) for a, b in zip(new, room, strict=True)]
        # The corner that touches the middle stays: the last rows above it, the first rows below.
        first = [0 if begin[axis] else new[axis] - shown[axis] for axis in (0, 1)]
        top, left = (begin[axis] if begin[axis] else end[axis] - shown[axis] for axis in (0, 1))
        part = image[first[0] : first[0] + shown[0], first[1] : first[1] + shown[1]]
        canvas[top : top + shown[0], left : left + shown[1]] = part
        scene = scene.moved(part, (new[1] / old[1], new[0] / old[0]), (0, 0)).moved(
            part, (1, 1), (-first[1], -first[0])
        )
        return cut(scene).moved(canvas, (1, 1), (left, top))
