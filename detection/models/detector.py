"""The base class of detectors: a backbone, a feature pyramid, and settings for images and classes.

B images, C channels, H x W canvas.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backbones.base import Backbone
from detection.categories import Categories
from detection.models.usable import Usable
from detection.structures import Batch, Depth, Detections, ResizeMethod, Targets

if TYPE_CHECKING:
    from detection.models.fpn import FPN


class Detector(Usable):
    """A network that finds objects in images.

    :meth:`losses` and :meth:`forward` accept the result of :meth:`features`, so validation computes it only once.
    """

    stride = 32
    """Height and width of the canvas must be multiples of this."""
    last = "box_head"  # the name of the head that scores the detections

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, backbone: Backbone, fpn: "FPN") -> None:
        super().__init__()
        self.backbone, self.fpn = backbone, fpn
        self.categories: Categories | None = None  # names and original IDs, set from a data set
        self.test_size = (800, 1333)  # shorter side, and limit of the longer side, of images at test time
        self.resize: ResizeMethod = "opencv"  # method of resizing them
        self.depth: Depth = 8  # bits per channel of the training images
        self.configs: dict[str, Any] | None = None  # the configs of its parts, which checkpoints hold
        for name, values in (("pixel_mean", backbone.mean), ("pixel_std", backbone.std)):
            numbers = torch.tensor(values, dtype=torch.get_default_dtype())  # the values may be integers
            self.register_buffer(name, numbers.view(-1, 1, 1), persistent=False)

    @property
    def last_head(self) -> Any:
        """The head that scores the detections; its ``config`` has thresholds and their number."""
        return self.get_submodule(self.last)

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return self.last_head.num_classes  # type: ignore[no-any-return]

    def losses(
        self, batch: Batch, features: list[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return scalar losses by name; training minimises their sum.

        Args:
            batch: a batch with targets.
            features: result of :meth:`features`; None: compute it.
            generator: random generator for sampling; None: PyTorch's global one.
        """
        raise NotImplementedError

    def forward(self, images: Tensor, sizes: Tensor, features: list[Tensor] | None = None) -> Detections:
        """Return detections in canvas pixels; arguments as for :meth:`features` and :meth:`losses`."""
        raise NotImplementedError

    def features(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """Return the feature pyramid of images.

        Args:
            images: (B, C, H, W) in 0..255, uint8 or float, or uint16 in 0..65535; RGB if C is 3.
            sizes: (B, 2) height, width of each image on the canvas.

        Returns:
            P2..P6 or P3..P7, (B, channels, H / stride, W / stride), finest first.
        """
        return self.fpn(self.backbone(self.normalise(images, sizes)))  # type: ignore[no-any-return]

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation; the padding around an image becomes zero.

        Raises:
            ValueError: the images do not have the shape that this model needs.
        """
        self.check_shape(images)
        height, width = images.shape[-2:]
        x = images.to(self.pixel_mean.dtype)
        if images.dtype == torch.uint16:
            x = x / 257  # maps 65535 (white) to 255
        rows = torch.arange(height, device=images.device) < sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]  # (B, W)
        inside = rows[:, None, :, None] & columns[:, None, None]  # (B, 1, H, W)
        return (x - self.pixel_mean) / self.pixel_std * inside

    def check_shape(self, images: Tensor) -> None:
        """Raise a ValueError if the images do not have the shape that this model needs."""
        if images.ndim != 4 or images.shape[1] != len(self.pixel_mean):
            raise ValueError(f"images are {tuple(images.shape)}; this model needs (B, {len(self.pixel_mean)}, H, W)")

    def check_labels(self, targets: Targets | None) -> None:
        """Raise a ValueError for missing targets, or for labels that this detector does not have."""
        if targets is None:
            raise ValueError("losses need a batch with targets; this batch has none")
        if (targets.labels >= (classes := self.num_classes)).any():
            raise ValueError(f"targets: label {int(targets.labels.max())} is not in 0 to {classes - 1}, the classes")
