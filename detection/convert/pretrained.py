"""Load trained detectors by name or file: ``torchvision:maskrcnn_resnet50_fpn_v2``, ``detectron2:model_final.pkl``.

A reference is ``ORIGIN:NAME`` (an entry of :mod:`detection.convert.zoo`), ``ORIGIN:FILE``, or just a FILE; the toolkit
then recognises the origin from the keys in the file. Origins:

- ``torchvision``: R-CNNs of its first and second version, with MobileNet, with keypoints; RetinaNet and FCOS
- ``detectron2``: models of its zoo: BGR, subtract only the mean, stride in the 1x1 (R-50, R-101)
- ``detectron2-rgb``: trained with torchvision's backbones: RGB, mean and std, stride in the 3x3
- ``mmdetection``: pytorch style
- ``mmdetection-caffe``: caffe style: BGR, subtract only the mean, stride in the 1x1
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones import MOBILENET, BackboneConfig, is_known
from backbones.resnet import VARIANTS
from detection.categories import Categories, Skeleton
from detection.checkpoint import (
    ALONE,
    SEMANTIC,
    NoRandomStart,
    are_ours,
    check_shapes,
    checked_info,
    class_count,
    detector_weights,
    load_weights,
)
from detection.checkpoint_schema import restore_categories, restore_configs, restore_thresholds
from detection.convert import files, settings, zoo
from detection.convert.classes import transfer_classes, transfer_semantic
from detection.convert.detectron2 import from_detectron2
from detection.convert.mmdetection import from_mmdetection
from detection.convert.names import listing
from detection.convert.one_stage import from_torchvision_one_stage, is_fcos, is_one_stage
from detection.convert.run_folder import model_of
from detection.convert.torchvision import from_torchvision
from detection.data.errors import first_line
from detection.models.build import build_detector
from detection.models.detector import Detector
from detection.models.panoptic import SemanticFPN, WithSemanticHead, semantic_categories
from detection.models.roi_linear import as_linear
from detection.models.thresholds import Thresholds
from detection.structures import Depth, ResizeMethod
from detection.wording import plural

HEADLESS = ("backbone", "fpn", "semantic_head")
"""Parts of a Semantic FPN; it may start from the weights of another detector."""
FIRST_STAGE = "box_head.stages.0.logits.bias"
"""A tensor that only the weights of a cascade have."""
POINTS = "point_head.point.logits.bias"
"""A tensor that only the weights of a PointRend have."""
PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
"""Parts of a body of which COCO has a left and a right keypoint, after the nose."""
LINES = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2),
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
"""Pairs of COCO's keypoints to draw lines between, as in its annotation files."""
ORIGINS = ("torchvision", "detectron2", "detectron2-rgb", "mmdetection", "mmdetection-caffe")


@dataclass(frozen=True)
class Pretrained:
    """A trained detector: weights with this toolkit's names, and the settings that reproduce its predictions."""

    source: str
    """The reference from which it was loaded."""
    state: Mapping[str, Tensor]
    config: settings.DetectorConfig
    num_classes: int
    categories: Categories | None
    """None if the file does not name its classes."""
    test_size: tuple[int, int] = (800, 1333)
    resize: ResizeMethod = "opencv"
    depth: Depth = 8
    thresholds: Thresholds | None = None

    @property
    def semantic_categories(self) -> Categories | None:
        """Semantic classes, if the file names them; those of a detector with a semantic head."""
        head = self.config.semantic_head
        if head is None or self.config.mask_head is None:
            return self.categories
        return semantic_categories(head)

    def build(self) -> Detector:
        """Build the detector, in evaluation mode on the CPU."""
        with NoRandomStart() if is_known(self.config.backbone.name) else nullcontext():
            model = build_detector(self.num_classes, **vars(self.config))
        model.categories, model.test_size, model.resize = self.categories, self.test_size, self.resize
        model.depth, model.thresholds = self.depth, self.thresholds
        load_weights(model, self.state, self.source)
        return model.eval()


def load_pretrained(reference: str, trust_code: bool | str = False) -> Pretrained:
    """Load a trained detector by its reference; see the module's docstring.

    Args:
        reference: ``ORIGIN:NAME``, ``ORIGIN:FILE`` or a file.
        trust_code: as for :func:`~detection.checkpoint_schema.restore_configs`.

    Raises:
        ValueError: the name is unknown, the download fails, the file is damaged or could run code, or its weights do
            not belong to a known detector.
    """
    if "://" in reference:
        raise ValueError(f"weights: {reference} is a URL; download the file and give its path")
    origin, _, name = reference.partition(":")  # the first colon, as a path on Windows has another
    if origin not in ORIGINS:
        origin, name = "", reference
    if origin and Path(name).name == name and not Path(name).suffix:
        path = zoo.fetch(zoo.find(origin.split("-")[0], name))
    else:
        path = Path(name)
        if path.is_dir():
            path = model_of(path)
        elif not origin and not path.exists():
            zoo.hint(name)
    state, rest = files.read(path)
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"weights: {path} has NaN or Inf in {listing(broken)}; use another checkpoint")
    if not origin and "rcnn" in rest:
        return _own_checkpoint(reference, state, rest, trust_code)
    origin = origin or recognise(state, path)
    try:
        return _converted(origin, reference, state, rest, path)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ZeroDivisionError) as error:
        reason = f"{type(error).__name__}: {first_line(error)[:100]}"
        raise ValueError(f"weights: {path} lacks tensors of {origin} ({reason}); was the file modified?") from error
    except ValueError as error:
        raise ValueError(f"weights: {path}: {str(error).removeprefix('weights: ')}") from error


def _converted(
    origin: str, reference: str, state: Mapping[str, Tensor], rest: Mapping[str, Any], path: Path
) -> Pretrained:
    if origin == "torchvision":
        return _torchvision(reference, state, path.name)
    if origin.startswith("detectron2"):
        return _detectron2(reference, state, rgb=origin.endswith("rgb"))
    caffe = origin.endswith("caffe") or "caffe" in f"{reference} {path.name}"
    return _mmdetection(reference, state, rest, caffe)


def recognise(state: Mapping[str, Tensor], path: Path) -> str:
    """Return the origin of a state dict, by its keys.

    Raises:
        ValueError: the origin is unknown.
    """
    signs = {
        "backbone.bottom_up.": "detectron2",
        "roi_head.bbox_head.": "mmdetection",
        "roi_heads.box_predictor.": "torchvision",
        "head.classification_head.": "torchvision",
    }
    for sign, origin in signs.items():
        if any(key.startswith(sign) for key in state):
            return origin
    if are_ours(state):
        raise ValueError(f"weights: {path}: {ALONE}")
    raise ValueError(
        f"weights: {path} holds {listing(state, 3)}. This is not an R-CNN, RetinaNet or FCOS of torchvision, "
        "detectron2 or mmdetection. If the file holds only a backbone, use model.backbone.weights"
    )


def initialise(model: Detector, reference: str) -> str:
    """Load trained weights into a detector; weights of classes are copied by class name.

    Returns:
        One line that reports what was copied, initialised and not used.

    Raises:
        ValueError: the weights do not fit the model; the message names the keys.
    """
    own = model.configs and model.configs["backbone"].name  # the user has named this backbone, so it is trusted
    found = load_pretrained(reference, own or False)
    state, initial = dict(found.state), as_linear(model.state_dict())
    ours, theirs = model.categories, found.categories
    if isinstance(model, SemanticFPN):
        notes = []
        state = {key: value for key, value in state.items() if key.partition(".")[0] in HEADLESS}
    elif ours is None or (theirs is not None and ours.names == theirs.names):
        notes = ["all classes"] if found.num_classes > 1 else ["the class"]
    elif theirs is not None:
        state, report = transfer_classes(state, theirs, initial, ours)
        notes = [str(report)]
    elif found.num_classes == model.num_classes:
        notes = [
            f"{plural(model.num_classes, 'class')} copied in the order of the annotations, as the weights have no names"
        ]
    else:
        raise ValueError(
            f"weights: {reference} has {plural(found.num_classes, 'class')} without names, but the annotations have "
            f"{model.num_classes}; use weights with class names, or with as many classes"
        )
    for head in ("mask head", "keypoint head", "point head", "semantic head"):
        prefix = head.replace(" ", "_") + "."
        here, there = (any(key.startswith(prefix) for key in keys) for keys in (initial, state))
        if here and not there:
            state |= {key: value for key, value in initial.items() if key.startswith(prefix)}
            notes.append(f"{head} initialised randomly, as the weights have none")
        elif there and not here:
            state = {key: value for key, value in state.items() if not key.startswith(prefix)}
            notes.append(f"{head} not used, as the model has none")
    last = {key: value for key, value in initial.items() if key.startswith("keypoint_head.heatmaps.")}
    if any(key in state and value.shape != state[key].shape for key, value in last.items()):
        state |= last
        notes.append("heatmaps initialised randomly, as the weights have another number of keypoints")
    if isinstance(model, WithSemanticHead) and SEMANTIC in found.state:
        state, note = transfer_semantic(state, found.semantic_categories, initial, model.semantic_categories)
        notes.append(note)
    load_weights(model, state, reference)
    return f"Weights: {reference}: " + "; ".join(notes)


def coco_categories() -> Categories:
    """Return the 80 classes of COCO with torchvision's names and their original IDs, 1 to 90."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights  # slower to import than PyTorch

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    ids = [i for i, name in enumerate(names) if i and name != "N/A"]
    return Categories(tuple(names[i] for i in ids), tuple(ids))


def coco_person() -> Categories:
    """Return COCO's class with keypoints, and the 19 lines between its 17 keypoints."""
    sides = [f"{side}_{part}" for part in PARTS for side in ("left", "right")]
    return Categories(("person",), (1,), (Skeleton(("nose", *sides), LINES),))


def _own_checkpoint(
    reference: str, state: Mapping[str, Tensor], rest: Mapping[str, Any], trust_code: bool | str
) -> Pretrained:
    info = checked_info({"state_dict": state, **rest}, reference)
    configs = {"mask_head": None, **restore_configs(info, reference, trust_code)}
    size = info["preprocessing"]
    weights = detector_weights(state)
    check_shapes(info["num_classes"], configs, weights, reference)
    return Pretrained(
        reference,
        weights,
        settings.DetectorConfig(**configs),
        info["num_classes"],
        restore_categories(info),
        (size["short_side"], size["long_side"]),
        size.get("resize", "opencv"),
        size.get("depth", 8),
        restore_thresholds(info),
    )


def _torchvision(reference: str, state: Mapping[str, Tensor], file: str) -> Pretrained:
    if is_one_stage(state):
        return _torchvision_one_stage(reference, state, file)
    logits = state.get("roi_heads.box_predictor.cls_score.bias")
    if logits is None:
        raise ValueError(
            f"weights: {reference} lacks roi_heads.box_predictor.cls_score.bias, so it is not an R-CNN of torchvision"
        )
    classes, coco = len(logits) - 1, coco_categories()
    categories = coco if classes == max(coco.ids) else None
    ours = from_torchvision(state, coco.ids if categories else None)
    masks, keypoints = "mask_head.logits.weight" in ours, _keypoints(ours)
    if (classes, keypoints) == (1, 17):
        categories = coco_person()
    frozen = not any(key.endswith("num_batches_tracked") for key in ours)
    # torchvision sets the norms' epsilon to zero for these files only.
    eps = 0.0 if frozen and "rcnn_resnet50_fpn_coco" in file else None
    options: dict[str, Any] = {"norm": "frozen" if frozen else "batch", "freeze": 2, "norm_eps": eps}
    if "backbone.conv1.weight" not in ours:
        small = "320" in file
        config = settings.torchvision_mobilenet_config(small, BackboneConfig(MOBILENET, **options))
        size = (320, 640) if small else (800, 1333)
    elif keypoints:
        config = settings.torchvision_keypoint_config(keypoints, BackboneConfig(backbone_name(ours), **options))
        size = (800, 1333)
    else:
        version = 2 if "box_head.convs.0.weight" in ours else 1
        config = settings.torchvision_config(version, masks, BackboneConfig(backbone_name(ours), **options))
        size = (800, 1333)
    return _checked(Pretrained(reference, ours, config, len(categories or range(classes)), categories, size, "tensor"))


def _torchvision_one_stage(reference: str, state: Mapping[str, Tensor], file: str) -> Pretrained:
    logits, deltas = (
        state[f"head.{name}.bias"] for name in ("classification_head.cls_logits", "regression_head.bbox_reg")
    )
    classes, coco = len(logits) // (len(deltas) // 4) - 1, coco_categories()
    categories = coco if classes == max(coco.ids) else None
    ours = from_torchvision_one_stage(state, coco.ids if categories else None)
    frozen = not any(key.endswith("num_batches_tracked") for key in ours)
    eps = 0.0 if frozen and "retinanet_resnet50_fpn_coco" in file else None  # as with its R-CNNs
    backbone = BackboneConfig(backbone_name(ours), norm="frozen" if frozen else "batch", freeze=2, norm_eps=eps)
    if is_fcos(state):
        config = settings.torchvision_fcos_config(backbone)
    else:
        config = settings.torchvision_retinanet_config(2 if "head.class_convs.3.weight" in ours else 1, backbone)
    return _checked(Pretrained(reference, ours, config, len(categories or range(classes)), categories, resize="tensor"))


def _detectron2(reference: str, state: Mapping[str, Tensor], rgb: bool) -> Pretrained:
    ours = from_detectron2(state, rgb=rgb)
    name = backbone_name(ours)
    caffe = not rgb and name in ("resnet50", "resnet101")
    masks = "mask_head.logits.weight" in ours
    if is_one_stage(state):
        config = settings.detectron2_retinanet_config(name, caffe)
    elif keypoints := _keypoints(ours):
        config = settings.detectron2_keypoint_config(name, keypoints, caffe)
    elif POINTS in ours:
        config = settings.detectron2_pointrend_config(name, caffe)
    elif FIRST_STAGE in ours:
        config = settings.detectron2_cascade_config(name, masks, caffe)
    elif SEMANTIC in ours:
        config = settings.detectron2_panoptic_config(name, len(ours[SEMANTIC]) - 1, caffe)
    else:
        config = settings.detectron2_config(name, masks, caffe)
    return _named(reference, ours, config, "pillow", None)


def _mmdetection(reference: str, state: Mapping[str, Tensor], rest: Mapping[str, Any], caffe: bool) -> Pretrained:
    ours = from_mmdetection(state, "caffe" if caffe else "pytorch")
    # mmdetection keeps norms in evaluation mode during training, which is a frozen norm here.
    ours = {key: value for key, value in ours.items() if not key.endswith("num_batches_tracked")}
    masks = any(key.startswith("mask_head.") for key in ours)
    settings_of = settings.mmdetection_cascade_config if FIRST_STAGE in ours else settings.mmdetection_config
    config = settings_of(backbone_name(ours), masks, caffe)
    meta = rest.get("meta") or {}
    names = meta.get("CLASSES") or (meta.get("dataset_meta") or {}).get("classes")
    return _named(reference, ours, config, "bilinear", names)


def _named(
    reference: str, state: dict[str, Tensor], config: settings.DetectorConfig, resize: ResizeMethod, names: Any
) -> Pretrained:
    """Add the class names of the file, or COCO's if the number of classes is the same."""
    classes, coco = class_count(state) or 0, coco_categories()
    if names is not None and len(names) == classes and tuple(names) != coco.names:
        categories: Categories | None = Categories(tuple(map(str, names)), tuple(range(1, classes + 1)))
    else:
        categories = coco if classes == len(coco) else None
    if (classes, _keypoints(state)) == (1, 17):
        categories = coco_person()
    if config.box_head is not None and config.cascade is None:
        agnostic = classes > 1 and len(state["box_head.deltas.bias"]) == 4
        config = replace(config, box_head=replace(config.box_head, class_agnostic=agnostic))
    return _checked(Pretrained(reference, state, config, classes, categories, resize=resize))


def _keypoints(state: Mapping[str, Tensor]) -> int:
    """Return the number of keypoints of a detector's weights; 0 without a keypoint head."""
    bias = state.get("keypoint_head.heatmaps.bias")
    return 0 if bias is None else len(bias)


def _checked(found: Pretrained) -> Pretrained:
    """Raise an error if the weights are not a complete detector, before any data are read."""
    with torch.device("meta"), NoRandomStart():
        expected = as_linear(build_detector(found.num_classes, **vars(found.config)).state_dict())
    missing = [key for key in expected if key not in found.state]
    extra = [key for key in found.state if key not in expected]
    shapes = [
        f"{key} {tuple(found.state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found.state and found.state[key].shape != value.shape
    ]
    for problem, keys in (("lacks", missing), ("has unknown", extra), ("has other shapes:", shapes)):
        if keys:
            raise ValueError(f"weights: {found.source} {problem} {listing(keys)}; the file is incomplete or modified")
    return found


def backbone_name(state: Mapping[str, Tensor]) -> str:
    """Return the name of the ResNet in a detector's weights, by its blocks and widths.

    Raises:
        ValueError: the ResNet is unknown.
    """
    blocks = tuple(
        len({key.split(".")[2] for key in state if key.startswith(f"backbone.layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    bottleneck = "backbone.layer1.0.conv3.weight" in state
    kernel = state.get("backbone.layer1.0.conv2.weight")
    if kernel is not None:
        groups = kernel.shape[0] // kernel.shape[1]
        for name, variant in VARIANTS.items():
            shape = (variant.blocks, variant.bottleneck, variant.groups, variant.group_width)
            if variant.shortcut and shape == (blocks, bottleneck, groups, kernel.shape[0] // groups):
                return name
    raise ValueError(f"weights: the backbone's stages have {blocks} blocks, which is not a supported ResNet")
