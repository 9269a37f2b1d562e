"""Faster R-CNN and Mask R-CNN: the figure of the papers.

images -> backbone C2..C5 -> pyramid P2..P6 -> proposals -> boxes -> masks.
Ren et al. 2015 (Faster R-CNN), He et al. 2017 (Mask R-CNN), Lin et al. 2017 (FPN).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import backbones
from backbones import Backbone, BackboneConfig
from backbones.norms import maps_at_once
from detection.models.anchors import Anchors, CanvasAnchors
from detection.models.box_head import BoxHead, BoxHeadConfig
from detection.models.fpn import FPN, FPNConfig
from detection.models.mask_head import MaskHead, MaskHeadConfig
from detection.models.necks import build_neck
from detection.models.rpn import RPN, RPNConfig
from detection.ops.levels import Levels, as_levels, summing
from detection.structures import Batch, Categories, Depth, Detections, ResizeMethod, RoISamples

COMPILED_SHAPES = 64
"""So many shapes of images may be compiled, in training and in evaluation; PyTorch's own limit is 8."""


class Dense(NamedTuple):
    """What is computed of whole images; L levels of N_l anchors."""

    levels: Levels
    """P2..P6."""
    logits: list[Tensor]
    """L times (B, N_l) float32: objectness, without gradient, since proposals have none."""
    deltas: list[Tensor]
    """L times (B, N_l, 4) float32, the same."""


class FasterRCNN(nn.Module):
    """Two stages over a feature pyramid: proposals, then a class and a box for each.

    Training and inference are two methods, :meth:`losses` and :meth:`forward`; both accept what was computed of the
    images before, so that validation has losses and detections for the price of one pass.
    """

    stride = 32
    """Canvases must be multiples of this."""

    def __init__(self, backbone: Backbone, fpn: FPN, anchors: Anchors, rpn: RPN, box_head: BoxHead) -> None:
        super().__init__()
        self.backbone, self.fpn, self.anchors, self.rpn, self.box_head = backbone, fpn, anchors, rpn, box_head
        self.categories: Categories | None = None  # names and original ids, known once there is a data set
        self.test_size = (800, 1333)  # shortest and longest side that images are resized to at test time
        self.resize: ResizeMethod = "opencv"  # and how
        self.depth: Depth = 8  # bits per channel of the images it learned from
        self.configs: dict[str, Any] | None = None  # what build_detector made it from, for files that suffice alone
        self._dense: Callable[[FasterRCNN, Tensor, Tensor], Dense] = _dense
        self._replays = False  # CUDA graphs of it
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        for name, values in (("pixel_mean", backbone.mean), ("pixel_std", backbone.std)):
            numbers = torch.tensor(values, dtype=torch.get_default_dtype())  # they may be given as integers
            self.register_buffer(name, numbers.view(-1, 1, 1), persistent=False)

    @property
    def num_classes(self) -> int:
        """K, without background."""
        return self.box_head.num_classes

    def features(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """Feature pyramid of images.

        Args:
            images: (B, C, H, W) in 0..255, uint8 or float, or uint16 in 0..65535; RGB if C is 3; H and W multiples
                of 32.
            sizes: (B, 2) height, width of each image on the canvas.

        Returns:
            P2..P6, (B, C, H / stride, W / stride), finest first.
        """
        images = self.normalise(images, sizes)
        if torch.compiler.is_compiling():
            return self.fpn(self.backbone(images))
        with maps_at_once(self.backbone):
            return self.fpn(self.backbone(images))

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Images minus mean over standard deviation; the canvas beyond an image is zero, not a black object.

        Raises:
            ValueError: images of another shape than this model takes.
        """
        if images.ndim != 4 or images.shape[1] != len(self.pixel_mean):
            raise ValueError(f"images are {tuple(images.shape)}; this model takes (B, {len(self.pixel_mean)}, H, W)")
        batch, channels, height, width = images.shape
        # Rows of pixels with their channels, as they lie: a processor takes a quarter of the time for long rows.
        x = images.to(self.pixel_mean.dtype).permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        if images.dtype == torch.uint16:
            x = x / 257  # 65535 is white, as 255 is
        mean, std = (values.flatten().repeat(width) for values in (self.pixel_mean, self.pixel_std))
        rows = torch.arange(height, device=images.device) < sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]  # (B, W)
        x = (x - mean).div_(std).mul_(rows[:, :, None]).mul_(columns.repeat_interleave(channels, dim=1)[:, None])
        return x.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def dense(self, images: Tensor, sizes: Tensor) -> Dense:
        """Everything that works on whole images: backbone, pyramid, and RPN head; arguments as for :meth:`features`."""
        if self._replays:  # what was computed the time before may be overwritten
            torch.compiler.cudagraph_mark_step_begin()
        dense = self._dense(self, images, sizes)
        return dense._replace(levels=summing(dense.levels))

    def compile_dense(self, backend: str = "inductor", graphs: bool = False) -> None:
        """Compile :meth:`dense` as one graph, for each shape of images it meets.

        What comes after works on few numbers, and NMS asks the host how many.

        Args:
            backend: of torch.compile.
            graphs: on CUDA, record what it launches for each shape and replay it, backward pass included. The next
                call then overwrites results and gradients of this one: gradients must not be summed over batches.
        """
        # Open shapes would need no graph each, but PyTorch was not done with a ResNet-18 after a quarter of an hour.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_SHAPES)
        mode = "reduce-overhead" if graphs else None
        self._dense = torch.compile(_dense, backend=backend, dynamic=False, fullgraph=True, mode=mode)
        self._replays = graphs

    def losses(
        self, batch: Batch, dense: Dense | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Scalar losses by name; their sum is what training minimises.

        Args:
            batch: with targets.
            dense: from :meth:`dense`; computed if None.
            generator: draws the samples of both stages; the global one if None.
        """
        return self.box_losses(batch, dense or self.dense(batch.images, batch.sizes), generator)[0]

    def forward(self, images: Tensor, sizes: Tensor, dense: Dense | None = None) -> Detections:
        """Detections in canvas pixels; arguments as for :meth:`features`."""
        return self.boxes(images, sizes, dense or self.dense(images, sizes))

    def boxes(self, images: Tensor, sizes: Tensor, dense: Dense) -> Detections:
        """Detections without masks."""
        levels, logits, deltas = dense
        anchors = self._anchors(images, levels)
        return self.box_head.detect(levels, self.rpn.propose(logits, deltas, anchors, sizes), sizes)

    def box_losses(
        self, batch: Batch, dense: Dense, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], RoISamples]:
        """The losses of the RPN and the box head, and the RoIs that were sampled."""
        check_labels(batch, self.num_classes)
        assert batch.targets is not None
        levels, logits, deltas = dense
        anchors = self._anchors(batch.images, levels)
        losses = self.rpn.losses(levels, anchors, batch, generator)
        proposals = self.rpn.propose(logits, deltas, anchors, batch.sizes, train=True)
        samples = self.box_head.sample(proposals, batch.targets, generator)
        return losses | self.box_head.losses(levels, samples, batch.targets), samples

    def _anchors(self, images: Tensor, levels: Levels) -> CanvasAnchors:
        return self.anchors((images.shape[-2], images.shape[-1]), levels.grids, images.device)


def _dense(model: FasterRCNN, images: Tensor, sizes: Tensor) -> Dense:
    # A function, not a method: a copy of the model must not go on with the weights of the original.
    levels = as_levels(model.features(images, sizes))
    with torch.no_grad():  # no gradient flows through proposals, and the loss asks for a few anchors only
        logits, deltas = model.rpn(levels.maps)
    return Dense(levels, logits, deltas)


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask for each detection."""

    def __init__(
        self, backbone: Backbone, fpn: FPN, anchors: Anchors, rpn: RPN, box_head: BoxHead, mask_head: MaskHead
    ) -> None:
        super().__init__(backbone, fpn, anchors, rpn, box_head)
        self.mask_head = mask_head

    def losses(
        self, batch: Batch, dense: Dense | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """As Faster R-CNN's, with ``loss_mask``."""
        if batch.targets is None or batch.targets.masks is None:
            raise ValueError(
                "the mask head learns from masks: load them, CocoDataset(..., masks=True), or build faster_rcnn"
            )
        dense = dense or self.dense(batch.images, batch.sizes)
        losses, samples = self.box_losses(batch, dense, generator)
        return losses | self.mask_head.losses(dense.levels, samples, batch.targets, self.box_head.max_positives)

    def forward(self, images: Tensor, sizes: Tensor, dense: Dense | None = None) -> Detections:
        """As Faster R-CNN's, with masks in the frames of the boxes."""
        dense = dense or self.dense(images, sizes)
        return self.mask_head.masks(dense.levels, self.boxes(images, sizes, dense))


def check_labels(batch: Batch, num_classes: int) -> None:
    """Refuse a batch that a detector cannot learn from; on a processor also labels that it does not have.

    Elsewhere the host would wait to see them.

    Raises:
        ValueError: naming the label, or that there are no targets.
    """
    if batch.targets is None:
        raise ValueError("losses are of batches with targets; this one has none")
    labels = batch.targets.labels
    seen = labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling()
    if seen and (largest := int(labels.max())) >= num_classes:
        raise ValueError(f"label {largest} for a detector of {num_classes} classes; they are 0 to {num_classes - 1}")


def faster_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> FasterRCNN:
    """Faster R-CNN by the name of its backbone.

    Args:
        backbone: a name as in :func:`backbones.available`, or a config (weights, norm, frozen stages).
        num_classes: K, without background; if None, that of ``categories``, or COCO's 80.
        fpn, rpn, box_head: the defaults if None.
        categories: names and original ids of the classes, as ``load_annotations`` finds them; or a list of names,
            whose ids are then 1 to K.

    Raises:
        ValueError: as :func:`build_detector`; or another number of classes than of categories.

    Example:
        >>> model = faster_rcnn("resnet18", num_classes=3)
    """
    categories = _categories(categories)
    model = build_detector(_count(num_classes, categories), backbone, fpn, rpn, box_head, None)
    model.categories = categories
    return model


def mask_rcnn(
    backbone: str | BackboneConfig = "resnet50",
    num_classes: int | None = None,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
    categories: Categories | Sequence[str] | None = None,
) -> MaskRCNN:
    """Mask R-CNN by the name of its backbone; as :func:`faster_rcnn`."""
    categories = _categories(categories)
    count = _count(num_classes, categories)
    model = build_detector(count, backbone, fpn, rpn, box_head, mask_head or MaskHeadConfig())
    assert isinstance(model, MaskRCNN)
    model.categories = categories
    return model


def build_detector(
    num_classes: int,
    backbone: str | BackboneConfig,
    fpn: FPNConfig | None = None,
    rpn: RPNConfig | None = None,
    box_head: BoxHeadConfig | None = None,
    mask_head: MaskHeadConfig | None = None,
) -> FasterRCNN:
    """A detector from configs: Mask R-CNN if there is a mask head, else Faster R-CNN.

    Channels, strides and anchors per cell follow from the parts below. The detector keeps its configs, so that
    :func:`~detection.checkpoint.save_model` needs none.

    Raises:
        ValueError: unknown backbone, anchors that do not fit the pyramid, ...
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector needs at least one class (background is not one)")
    backbone = _config(backbone)
    fpn, rpn, box_head = fpn or FPNConfig(), rpn or RPNConfig(), box_head or BoxHeadConfig()
    body = backbones.build(backbone)
    neck = build_neck(body.channels, body.strides, fpn)
    anchors = Anchors(neck.strides, **vars(rpn.anchors))
    rpn_options = {key: value for key, value in vars(rpn).items() if key != "anchors"}
    proposer = RPN(neck.channels, anchors.per_cell, **rpn_options)
    boxes = BoxHead(neck.channels, num_classes, body.strides, **vars(box_head))
    if mask_head is None:
        model = FasterRCNN(body, neck, anchors, proposer, boxes)
    else:
        masks = MaskHead(neck.channels, num_classes, body.strides, **vars(mask_head))
        model = MaskRCNN(body, neck, anchors, proposer, boxes, masks)
    model.configs = {"backbone": backbone, "fpn": fpn, "rpn": rpn, "box_head": box_head, "mask_head": mask_head}
    return model


def _config(backbone: str | BackboneConfig) -> BackboneConfig:
    if isinstance(backbone, str):
        return BackboneConfig(name=backbone)
    if not isinstance(backbone, BackboneConfig):
        raise ValueError(
            f"backbone is a {type(backbone).__name__}; give a name or a BackboneConfig (a class of your own goes by "
            "its import path, my_lab.nets.MyNet)"
        )
    return backbone


def _categories(given: Any) -> Categories | None:
    """Categories from names, or as they are.

    Raises:
        ValueError: neither; one name in place of a list; a name twice.
    """
    if given is None or isinstance(given, Categories):
        return given
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise ValueError(
            f"categories is a {type(given).__name__}; give a list of names, or detection.structures.Categories"
        )
    if not given or len(set(given)) < len(given):
        raise ValueError(f"categories {', '.join(given) or 'is empty'}: give each class one name of its own")
    return Categories(tuple(given), tuple(range(1, len(given) + 1)))


def _count(num_classes: int | None, categories: Categories | None) -> int:
    """K, of which categories tell, too."""
    if num_classes is None:
        return 80 if categories is None else len(categories)
    if categories is not None and num_classes != len(categories):
        raise ValueError(f"num_classes is {num_classes}, but there are {len(categories)} categories; leave one out")
    return num_classes
