"""Draw the keypoints of an object, with lines between those that belong together.

N keypoints.  Images: (H, W, 3) uint8 RGB.
"""

import cv2
import numpy as np

from detection.categories import Skeleton

LEAST = 0.05
"""Keypoints whose score is not above this are not drawn; the visibility of labelled ones is 1 or 2."""

Color = tuple[int, int, int]


def draw_keypoints(image: np.ndarray, points: np.ndarray, skeleton: Skeleton, color: Color, line: int) -> None:
    """Draw the keypoints of an object into an image, in place.

    Args:
        points: (N, 3) x, y in pixels of the image, and score or visibility. Keypoints beyond the skeleton's, of which
            the class has none, are not drawn.
        skeleton: names and edges; without names, all keypoints are drawn.
        line: width of the lines, in pixels.
    """
    count = len(skeleton.names) or len(points)
    shown = np.isfinite(points).all(axis=1) & (points[:, 2] > LEAST) & (np.arange(len(points)) < count)
    height, width = image.shape[:2]
    low, high = [-width, -height], [2 * width, 2 * height]  # OpenCV's coordinates are small integers
    places = np.rint(np.nan_to_num(points[:, :2]).clip(low, high)).astype(int).tolist()
    for first, second in skeleton.edges:
        if shown[first] and shown[second]:
            cv2.line(image, places[first], places[second], color, line, cv2.LINE_AA)
    for place, seen in zip(places, shown.tolist(), strict=True):
        if seen:
            cv2.circle(image, place, line + 2, (255, 255, 255), cv2.FILLED, cv2.LINE_AA)
            cv2.circle(image, place, line + 1, color, cv2.FILLED, cv2.LINE_AA)
