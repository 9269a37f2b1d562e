"""From an image to what is in it: ``predict(model, "street.jpg")``.

Boxes XYXY in pixels of the image given, whatever size the model saw.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.convert.pretrained import load_pretrained
from detection.data.collate import collate
from detection.data.dataset import read_image
from detection.data.transforms import Resize
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.ops import boxes as box_ops
from detection.ops.masks import paste_masks, rounded_frames
from detection.structures import Categories, Sample
from detection.visualize import draw

__all__ = ["Prediction", "load_model", "main", "predict"]


@dataclass(frozen=True)
class Prediction:
    """What was found in one image, best first; n detections."""

    boxes: np.ndarray
    """(n, 4) float32 XYXY."""
    scores: np.ndarray
    """(n,) float32."""
    labels: np.ndarray
    """(n,) int64, 0..K-1."""
    masks: np.ndarray | None = None
    """(n, H, W) bool; None without a mask head."""
    categories: Categories | None = None
    """Names of the labels and original category ids, if the model knows them."""

    def __len__(self) -> int:
        return len(self.scores)

    def name(self, i: int) -> str:
        """The class name of the ``i``-th detection."""
        label = int(self.labels[i])
        return self.categories.names[label] if self.categories else str(label)


def load_model(source: str | Path) -> FasterRCNN:
    """A trained detector, in evaluation mode on the CPU.

    Args:
        source: a checkpoint of this toolkit, or anything that :mod:`detection.convert.pretrained` reads, as
            ``torchvision:maskrcnn_resnet50_fpn_v2``.

    Raises:
        ValueError: it cannot be found or read, or is no detector that is known here.
    """
    return load_pretrained(str(source)).build()


@torch.inference_mode()
def predict(
    model: FasterRCNN,
    image: str | Path | np.ndarray | Tensor,
    score_threshold: float = 0.5,
    size: tuple[int, int] | None = None,
) -> Prediction:
    """Detect the objects in an image.

    Args:
        model: used in evaluation mode and left in the mode it was in.
        image: a file; an (H, W, 3) uint8 RGB array; or a (3, H, W) uint8 RGB tensor.
        score_threshold: detections scored below are left out.
        size: shortest and longest side to resize to; the model's own ``test_size`` if None.

    Raises:
        ValueError: not an image, with the file's name; or an array or tensor of another shape or type.

    Example:
        >>> found = predict(model, "street.jpg")  # doctest: +SKIP
        >>> [(found.name(i), found.scores[i]) for i in range(len(found))]  # doctest: +SKIP
    """
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    resized = Resize(*(size or model.test_size), model.resize).image(pixels)
    device = model.pixel_mean.device
    batch = collate([Sample(resized, 0, (height, width))], divisor=model.stride)
    was_training = model.training
    model.eval()
    found = model(batch.images.to(device), batch.sizes.to(device)).image(0)
    model.train(was_training)
    keep = found.scores >= score_threshold
    boxes = box_ops.rescale(found.boxes[None, keep], batch.sizes.to(device), batch.original_sizes.to(device))[0]
    rounded = isinstance(model, MaskRCNN) and model.mask_head.rounded_frames
    masks = None if found.masks is None else _full_masks(found.masks[keep], boxes, height, width, rounded)
    return Prediction(
        boxes.cpu().numpy(),
        found.scores[keep].cpu().numpy(),
        found.labels[keep].cpu().numpy(),
        masks,
        model.categories,
    )


def _full_masks(masks: Tensor, boxes: Tensor, height: int, width: int, rounded: bool) -> np.ndarray:
    boxes = rounded_frames(boxes, masks.shape[-1]) if rounded else boxes
    return np.asarray(paste_masks(masks.float().cpu(), boxes.cpu(), height, width))


def _pixels(image: str | Path | np.ndarray | Tensor) -> np.ndarray:
    if isinstance(image, str | Path):
        return read_image(Path(image))
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) and image.ndim == 3 else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            "image: expected uint8 RGB, an array (H, W, 3) or a tensor (3, H, W), "
            f"got {tuple(image.shape)} {image.dtype}"
        )
    return array


def main(arguments: list[str] | None = None) -> None:
    """``predict CHECKPOINT IMAGE... [--output FOLDER]``: pictures of the detections, and a line per image."""
    import argparse

    import cv2

    parser = argparse.ArgumentParser(prog="predict", description="Detect objects in images and draw them.")
    parser.add_argument("checkpoint", help="a checkpoint, or weights such as torchvision:maskrcnn_resnet50_fpn_v2")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder for the pictures")
    parser.add_argument("--score", type=float, default=0.5, help="leave out detections scored below")
    options: Any = parser.parse_args(arguments)
    try:
        model = load_model(options.checkpoint)
        options.output.mkdir(parents=True, exist_ok=True)
        for path in _files(options.images):
            found = predict(model, path, options.score)
            names = model.categories.names if model.categories else [str(i) for i in range(model.num_classes)]
            picture = draw(read_image(path), found.boxes, found.labels, found.scores, found.masks, names)
            target = options.output / f"{path.stem}.jpg"
            cv2.imwrite(str(target), picture[..., ::-1])
            print(f"{path}: {len(found)} found, {target}")
    except (OSError, ValueError) as error:
        parser.exit(2, f"predict: {error}\n")


def _files(paths: list[Path]) -> list[Path]:
    suffixes = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
    files = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no images in {', '.join(map(str, paths))}")
    return files
