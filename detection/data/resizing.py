"""Resize an image to a given height and width."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from detection.ops.resize import averages
from detection.structures import ResizeMethod


def resized(image: np.ndarray, rows: int, columns: int, method: ResizeMethod = "opencv") -> np.ndarray:
    """Return an image (H, W, C) with this height and width; method "tensor" returns float32, others keep the dtype."""
    height, width = image.shape[:2]
    if method == "tensor":
        return _resize_tensor(image, rows, columns)
    if (rows, columns) == (height, width):
        return image
    if method == "pillow":
        if image.dtype != np.uint8 or image.shape[2] != 3:
            raise ValueError("data.resize: pillow supports only 8-bit RGB images; use opencv")
        return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
    area = method == "opencv" and averages((height, width), (rows, columns))
    how = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    # OpenCV's INTER_AREA supports at most four channels, and it drops the axis of a single channel.
    fours = [image[..., k : k + 4] for k in range(0, image.shape[2], 4)]
    parts = [cv2.resize(four, (columns, rows), interpolation=how).reshape(rows, columns, -1) for four in fours]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def _resize_tensor(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Resize like torchvision's detectors: the scale comes from the rounded sides, and pixels stay float32."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    if image.dtype == np.uint16:
        pixels /= 257
    resized = F.interpolate(pixels, size=(rows, columns), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def filled(shape: tuple[int, ...], like: np.ndarray, gray: int) -> np.ndarray:
    """Return an image of one gray, of the kind of another image.

    Args:
        gray: of 255.
    """
    return np.full(shape, gray * 257 if like.dtype == np.uint16 else gray, dtype=like.dtype)
