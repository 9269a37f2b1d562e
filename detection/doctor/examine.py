"""Examine a data set: files, annotations, classes, sizes, anchors, memory."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch

from detection.checkpoint_schema import ONE_STAGE
from detection.coco.annotations import Annotations, check_same_categories
from detection.data.dataset import CocoDataset
from detection.data.errors import DamageWarning
from detection.data.image import images_behind, orientation, read_bytes, read_image
from detection.doctor.anchors import anchors_per_cell, best_overlap, loses, recall_table, suggest
from detection.doctor.cells import cells_table, positive_cells
from detection.doctor.contents import contents, keypoints, objects_by_class
from detection.doctor.findings import Diagnosis, Table
from detection.doctor.maps import check_maps
from detection.doctor.memory import training_bytes
from detection.engine.checks import is_own, random_start
from detection.engine.datamodule import CocoDataModule
from detection.engine.errors import InputError
from detection.engine.loading import batch_bytes, largest_canvas, loader_bytes
from detection.engine.module import DetectionModule
from detection.foreign import shown
from detection.models.anchors import AnchorConfig
from detection.models.build import build_detector
from detection.models.detector import Detector
from detection.models.fcos import FCOSConfig
from detection.models.panoptic import SemanticFPN
from detection.wording import plural

NAMES = {"train": "training", "val": "validation"}

MOST_ERRORS = 20
"""Broken files of a split that the doctor names; it counts the others."""


def examine(
    module: DetectionModule, data: CocoDataModule, decode: bool = False
) -> tuple[Diagnosis, dict[str, CocoDataset]]:
    """Check everything that training would use; broken data are findings, not errors.

    Args:
        decode: also read every image.

    Returns:
        The diagnosis, and the splits that could be opened.
    """
    diagnosis = Diagnosis()
    opened: dict[str, CocoDataset] = {}
    for split in ("train", "val"):
        if data.config.split(split) is None:  # a training without validation
            continue
        try:
            opened[split] = data.open(split)
        except (InputError, OSError, ValueError) as error:
            diagnosis.add("error", split, str(error))
    for split, dataset in opened.items():
        diagnosis.images[NAMES[split]] = len(dataset)
        contents(diagnosis, split, dataset.annotations)
        if data.config.keypoints:
            keypoints(diagnosis, split, dataset.annotations)
        _turned(diagnosis, split, dataset)
        _behind(diagnosis, split, dataset)
        if decode:
            _decode(diagnosis, split, dataset)
        if dataset.maps is not None:
            check_maps(diagnosis, split, dataset, dataset.maps, decode)
    if len(opened) == 2:
        _between(diagnosis, opened)
    _start(diagnosis, module)
    objects_by_class(diagnosis, {split: dataset.annotations for split, dataset in opened.items()})
    if "train" in opened and (annotations := opened["train"].annotations).num_objects:
        if annotations.num_objects > annotations.num_crowds:
            _objects(diagnosis, module, data, annotations)
        _memory(diagnosis, module, data, annotations)
    return diagnosis, opened


def _start(diagnosis: Diagnosis, module: DetectionModule) -> None:
    """Report frozen parts of the backbone that would keep random weights."""
    configs: dict[str, Any] = dict(module.configs)
    problem = None if module.weights is not None else random_start(configs["backbone"])
    if problem is not None:
        what, _, advice = problem.partition("; ")
        diagnosis.add("warning" if is_own(configs["backbone"]) else "error", "model", what, advice)


def resized(annotations: Annotations, short_side: int, long_side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resize the boxes of a data set; crowds do not count.

    Returns:
        Boxes (n, 4) XYXY, the sizes (n, 2) of their images after resizing, and the numbers (n,) of their images.
    """
    boxes, owners = [], []
    for i in range(len(annotations)):
        own = annotations.boxes(i)[~annotations.crowd(i)]
        boxes.append(own)
        owners += [i] * len(own)
    owner = np.array(owners, dtype=np.int64)
    sizes = annotations.sizes.astype(np.float64)
    factor = np.minimum(short_side / sizes.min(axis=1), long_side / sizes.max(axis=1))
    return np.concatenate(boxes) * factor[owner, None], (sizes * factor[:, None]).round()[owner], owner


def _decode(diagnosis: Diagnosis, split: str, dataset: CocoDataset) -> None:
    """Read all images, and report the broken ones and 16-bit images with few levels."""

    def look(i: int) -> str | int | None:
        """Return the error of an image, or its highest level if that is low for 16 bits; else None."""
        try:
            return _highest(dataset, i, dataset.scene(i).image)
        except ValueError as error:
            return str(error)

    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        found = list(pool.map(look, range(len(dataset))))  # OpenCV lets other threads run while it decodes
    damaged: dict[str, None] = {}
    for one in warned:
        if issubclass(one.category, DamageWarning):
            damaged[str(one.message)] = None
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    for message in [*damaged][:MOST_ERRORS]:
        diagnosis.add("warning", split, message)
    if (more := len(damaged) - MOST_ERRORS) > 0:
        diagnosis.add("warning", split, plural(more, "more image is", "more images are") + " damaged", count=more)
    errors = [error for error in found if isinstance(error, str)]
    for error in errors[:MOST_ERRORS]:
        diagnosis.add("error", split, error)
    if (more := len(errors) - MOST_ERRORS) > 0:
        diagnosis.add("error", split, plural(more, "more image") + " cannot be read", count=more)
    low = {i: level for i, level in enumerate(found) if isinstance(level, int)}
    if low:
        highest = max(low.values())
        what = f"{plural(len(low), 'image of 16 bits uses', 'images of 16 bits use')} {highest} of 65535 levels at most"
        advice = f"they are dark; multiply their pixels by {2 ** (16 - highest.bit_length())} and save them again"
        ids = dataset.annotations.image_ids[list(low)].tolist()
        diagnosis.add("warning", split, what, advice, ids, len(low))


def _highest(dataset: CocoDataset, i: int, image: np.ndarray) -> int | None:
    """Return the highest level of a 16-bit image if all levels are in the lowest quarter, as from 10 to 14 bits."""
    if int(image.max()) * 4 > np.iinfo(image.dtype).max + 1:
        return None
    height, width = dataset.annotations.sizes[i].tolist()
    reading = dataset.reading
    whole = read_image(dataset.path(i), (height, width), reading.max_pixels, 1, reading.channels, 16)
    return int(whole.max()) if (whole % 257).any() else None  # 8 bits become multiples of 257


def _turned(diagnosis: Diagnosis, split: str, dataset: CocoDataset) -> None:
    """Report images that EXIF rotates or flips, and whose size does not show whether the annotations are rotated."""
    annotations, found = dataset.annotations, []
    if dataset.reading.channels not in (1, 3):
        return  # read as they are stored
    for i, (height, width) in enumerate(annotations.sizes.tolist()):
        turn = orientation(dataset.path(i))
        if 2 <= turn <= 4 or (turn > 4 and height == width):
            found.append(i)
    if found:
        first = shown(annotations.file_name(found[0]))
        what = f"{plural(len(found), 'image is', 'images are')} rotated or flipped by EXIF, the first is {first}; "
        what += "the size does not show whether the annotations are also rotated"
        advice = "check some images (--html, rcnn browse); if boxes are wrong, remove EXIF from the files"
        diagnosis.add("warning", split, what, advice, annotations.image_ids[found].tolist(), len(found))
        if split == "train":
            diagnosis.examples["rotated or flipped by EXIF"] = found[:4]


def _behind(diagnosis: Diagnosis, split: str, dataset: CocoDataset) -> None:
    """Report photos of cameras that store more images in the file."""
    found = [i for i in range(len(dataset)) if images_behind(dataset.path(i))]
    if found:
        what = plural(len(found), "file holds", "files hold")
        what += " more images than the photo (MPO); the toolkit reads the photo, which comes first"
        diagnosis.add("info", split, what, "", dataset.annotations.image_ids[found].tolist(), len(found))


def _between(diagnosis: Diagnosis, opened: dict[str, CocoDataset]) -> None:
    train, val = opened["train"], opened["val"]
    try:
        check_same_categories(train.annotations, val.annotations)
    except ValueError as error:
        diagnosis.add("error", "train and val", str(error))
    digests = {split: dict(_digests(dataset)) for split, dataset in opened.items()}
    for split, found in digests.items():
        several = [i for i, digest in found.items() if Counter(found.values())[digest] > 1] if len(
            set(found.values())
        ) < len(found) else []  # fmt: skip
        if several:
            ids = [int(opened[split].annotations.image_ids[i]) for i in several]
            what = plural(len(several), "image") + " with the same bytes as another"
            diagnosis.add("warning", split, what, "", ids, len(ids))
    seen = set(digests["train"].values())
    both = [i for i, digest in digests["val"].items() if digest in seen]
    if both:
        ids = [int(val.annotations.image_ids[i]) for i in both]
        advice = "the validation AP would be too high; remove them from one split"
        diagnosis.add(
            "error", "train and val", plural(len(both), "image is", "images are") + " in both", advice, ids, len(both)
        )


def _digests(dataset: CocoDataset) -> Iterator[tuple[int, str]]:
    for i in range(len(dataset)):
        try:
            yield i, hashlib.blake2b(read_bytes(dataset.path(i)), digest_size=16).hexdigest()
        except ValueError:
            continue  # reported elsewhere


def _objects(diagnosis: Diagnosis, module: DetectionModule, data: CocoDataModule, annotations: Annotations) -> None:
    boxes, sizes, owner = resized(annotations, *data.config.test_size)
    extent = boxes[:, 2:] - boxes[:, :2]
    sides = np.sqrt(extent.prod(axis=1))
    quantiles = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    per_image = annotations.counts(crowd=False)
    rows = [
        ("side in pixels, after resizing", *np.quantile(sides, quantiles).tolist()),
        ("height over width", *np.quantile(extent[:, 1] / extent[:, 0], quantiles).tolist()),
        ("objects in an image", *np.quantile(per_image, quantiles).tolist()),
        ("image height", *np.quantile(annotations.sizes[:, 0], quantiles).tolist()),
        ("image width", *np.quantile(annotations.sizes[:, 1], quantiles).tolist()),
    ]
    diagnosis.tables.append(Table("Sizes", ("", "min", "5%", "25%", "median", "75%", "95%", "max"), rows))
    try:
        model = _on_meta(module, len(annotations.categories))
    except ValueError as error:
        diagnosis.add("error", "model", str(error))
        return
    if model is None:
        return
    configs: dict[str, Any] = dict(module.configs)
    if isinstance(model, SemanticFPN):  # it has no anchors
        return
    strides = tuple(model.fpn.strides)
    tiny = np.flatnonzero(extent.min(axis=1) < strides[0])
    if len(tiny):
        images = owner[tiny]
        share = len(tiny) / len(boxes)
        narrow = plural(len(tiny), f"object ({share:.1%}) is narrower", f"objects ({share:.1%}) are narrower")
        advice = "the features hardly show them; increase data.short_side, or use data.crop or tiles"
        diagnosis.add(
            "warning" if share > 0.01 else "info", "train",
            f"{narrow} than one cell of the finest features ({strides[0]} px)",
            advice, annotations.image_ids[np.unique(images)].tolist(), len(tiny),
        )  # fmt: skip
        diagnosis.examples["objects smaller than a cell"] = [i for i, _ in Counter(images.tolist()).most_common(4)]
    head = next((name for name in ONE_STAGE if configs[name] is not None), "box_head")
    limit = configs[head].detections
    crowded = np.flatnonzero(per_image > limit)
    if len(crowded):
        what = f"{plural(len(crowded), 'image has', 'images have')} more objects than model.{head}.detections, {limit}"
        ids = annotations.image_ids[crowded].tolist()
        diagnosis.add(
            "warning", "train", what, "increase it; otherwise the detector cannot find all of them", ids, len(crowded)
        )
    if head == "fcos":
        _cells(diagnosis, boxes, sizes, owner, annotations.image_ids, strides, configs["fcos"])
    else:
        part = "retinanet" if head == "retinanet" else "rpn"
        _anchors(diagnosis, boxes, sizes, owner, strides, part, configs[part].anchors)


def _anchors(
    diagnosis: Diagnosis, boxes: np.ndarray, sizes: np.ndarray, owner: np.ndarray, strides: tuple[int, ...],
    part: str, config: AnchorConfig,
) -> None:  # fmt: skip
    heads = ("objects of", "number", "mean best IoU", "recall at IoU ≥ 0.5", "recall at IoU ≥ 0.7")
    extent = boxes[:, 2:] - boxes[:, :2]
    sides = np.sqrt(extent.prod(axis=1))
    overlap = best_overlap(boxes, sizes, strides, config)
    used = f"model.{part}.anchors: sizes {_listed(config.sizes)}, ratios {_listed(config.ratios)}"
    note = f"{used}; resized as for evaluation"
    diagnosis.tables.append(Table("Anchor coverage", heads, list(recall_table(overlap, sides)), note))
    worst = np.argsort(overlap)[:200]
    diagnosis.examples["objects with the lowest anchor overlap"] = list(dict.fromkeys(owner[worst].tolist()))[:4]
    other = suggest(boxes, sizes, strides, config)
    if other is None:
        return
    better = best_overlap(boxes, sizes, strides, other)
    # The search uses a sample of the objects; the promise is about all of them.
    if better.mean() <= overlap.mean() + 0.02 or loses(overlap, better, sides):
        return
    name = f"--model.{part}.anchors"
    options = f"{name}.sizes '{_listed(other.sizes)}' {name}.ratios '{_listed(other.ratios)}'"
    rows = list(recall_table(better, sides))
    diagnosis.tables.append(Table("Anchor coverage with other anchors", heads, rows, options))
    severity: Any = "warning" if (overlap >= 0.5).mean() < 0.75 else "info"
    what = (
        f"mean best IoU of anchors and objects: {overlap.mean():.2f}; {better.mean():.2f} with other anchors "
        f"({anchors_per_cell(other)} instead of {anchors_per_cell(config)} per cell), and no size group loses recall"
    )
    diagnosis.add(severity, "train", what, options)


def _cells(
    diagnosis: Diagnosis, boxes: np.ndarray, sizes: np.ndarray, owner: np.ndarray, image_ids: np.ndarray,
    strides: tuple[int, ...], config: FCOSConfig,
) -> None:  # fmt: skip
    """Report the number of cells that learn each object, for a detector without anchors."""
    extent = boxes[:, 2:] - boxes[:, :2]
    number = positive_cells(boxes, sizes, strides, config)
    rows = list(cells_table(number, np.sqrt(extent.prod(axis=1))))
    heads = ("objects of", "number", "mean number of cells", "without a cell")
    used = f"model.fcos: radius {config.radius:g}, reach {config.reach:g}; resized as for evaluation"
    diagnosis.tables.append(Table("Cells that learn an object", heads, rows, used))
    lost = np.flatnonzero(number == 0)
    if len(lost):
        share = len(lost) / len(number)
        what = plural(len(lost), f"object ({share:.1%}) has", f"objects ({share:.1%}) have") + " no cell to learn from"
        advice = "a larger data.short_side, or a larger model.fcos.radius, would give them some"
        ids = image_ids[np.unique(owner[lost])].tolist()
        diagnosis.add("warning" if share > 0.01 else "info", "train", what, advice, ids, len(lost))
        diagnosis.examples["objects without a cell"] = [i for i, _ in Counter(owner[lost].tolist()).most_common(4)]


def _memory(diagnosis: Diagnosis, module: DetectionModule, data: CocoDataModule, annotations: Annotations) -> None:
    config = data.config
    canvas = largest_canvas(annotations.sizes, data.config.test_resize)
    batch = batch_bytes(config.batch_size, canvas, int(annotations.counts().max(initial=0)), config.masks)
    rows = [
        ("largest canvas, height x width", f"{canvas[0]} x {canvas[1]}"),
        ("a batch", f"{batch / 1e6:.0f} MB"),
        ("shared memory for the workers", f"{loader_bytes(batch, config.workers) / 1e6:.0f} MB"),
    ]
    configs: dict[str, Any] = dict(module.configs)
    try:
        model = _on_meta(module, len(annotations.categories))
    except ValueError:
        model = None  # reported already
    if model is not None:
        adam = module.optimizer_config.name == "adamw"
        needed = training_bytes(model, configs["backbone"], canvas, config.batch_size, configs, adam)
        rows.append(("a training step in float32", f"{needed / 1e9:.1f} GB"))
    note = f"forecast for one device with all images of a step ({config.batch_size})"
    diagnosis.tables.append(Table("Memory", ("", ""), rows, note))


def _on_meta(module: DetectionModule, num_classes: int) -> Detector | None:
    """Build the detector without memory for its weights, to read its strides; None for a custom backbone."""
    configs: dict[str, Any] = dict(module.configs)
    backbone = configs["backbone"]
    if "." in backbone.name:
        return None  # building a custom class can have any effect
    configs["backbone"] = type(backbone)(**{**vars(backbone), "weights": None})
    with torch.device("meta"):
        return build_detector(num_classes, **configs)


def _listed(values: Any) -> str:
    return "[" + ", ".join(_listed(v) if isinstance(v, list | tuple) else f"{v:g}" for v in islice(values, 20)) + "]"
