"""Run a model on a data set, in one process or in several, and collect its detections in an evaluator."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from detection.categories import Categories
from detection.coco.annotations import Annotations, load_annotations
from detection.data.collate import collate, own_canvases
from detection.data.dataset import CocoDataset, begin_worker
from detection.data.presence import check_images
from detection.data.reading import Reading
from detection.data.samplers import EvalBatchSampler
from detection.data.transforms import Resize
from detection.device import inference_device
from detection.engine.startup import raise_if_signalled
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.limits import limits_up_to
from detection.evaluation.maps import MapEvaluator
from detection.evaluation.ranks import states_of_ranks
from detection.fast.folding import folded
from detection.foreign import printable, shown
from detection.inference.api import load_detector
from detection.inference.detect import encoded, in_file, take
from detection.inference.info import kind_of
from detection.inference.options import size_of
from detection.inference.tiles import detect_in_tiles
from detection.inference.views import detect_in_views
from detection.models.detector import Detector
from detection.models.mask_forms import has_pixel_corners, has_rounded_frames, iou_types, mask_config
from detection.models.panoptic import SemanticFPN, WithSemanticHead
from detection.models.rcnn import TwoStage
from detection.ops.boxes import clip
from detection.quiet import is_quiet
from detection.report.maps.truth import lists_objects, open_map_evaluator
from detection.report.options import EvaluateOptions
from detection.structures import IGNORE, Detections


class Collected(NamedTuple):
    """What a model finds in all images."""

    evaluator: CocoEvaluator | None
    """Of the objects; None for a Semantic FPN."""
    detector: str
    """A description of the model, such as ``Mask R-CNN (resnet50)``."""
    model: Detector
    maps: MapEvaluator | None = None
    """Of the maps; None without a semantic head."""
    annotations: Annotations | None = None
    """The images; given with the maps."""


def collect(options: EvaluateOptions, images: Path, truth: Callable[[], Any]) -> Collected:
    """Run a model on all images.

    Args:
        images: folder of the images.
        truth: returns the ground truth for the evaluator.

    Raises:
        ValueError: the model, the annotations or an image are invalid.
    """
    device = inference_device(options.device)
    maps = map_annotations = None
    if lists_objects(options):
        check_images(CocoDataset(load_annotations(options.annotations), images), "give their folder with --images")
    model = load_detector(options.what[0], options.trust_code)
    if options.size:
        model.test_size = size_of(options.size)
    if isinstance(model, WithSemanticHead):
        maps, map_annotations = open_map_evaluator(model, options)
    elif not lists_objects(options) or options.labels or options.panoptic:
        raise ValueError(
            f"{options.what[0]} has no semantic head; leave --panoptic, --labels and --semantic-classes out"
        )
    backbone = model.configs and model.configs["backbone"].name
    detector = kind_of(model) + (f" ({shown(backbone)})" if backbone else "")
    if isinstance(model, SemanticFPN):
        if options.soft_nms is not None or options.refine is not None or options.set_thresholds:
            raise ValueError(f"{options.what[0]} finds no objects; leave --soft-nms, --refine and --set-thresholds out")
        assert map_annotations is not None
        model = model.to(device)
        _run(model, map_annotations, images, None, maps, options)
        return Collected(None, detector, model, maps, map_annotations)
    annotations = load_annotations(options.annotations)
    given = {"soft_sigma": options.soft_nms, "refinements": options.refine}
    if options.refine is not None and not isinstance(model, TwoStage):
        raise ValueError("--refine needs a detector with a box head, which this detector does not have")
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    model.last_head.config = replace(model.last_head.config, **changes)
    if mask_config(model) is not None:  # reports the objects without a mask
        annotations = load_annotations(options.annotations, need_masks=True)
    if annotations.report:
        print(printable(annotations.report), file=sys.stderr)
    evaluator = CocoEvaluator(
        truth(),
        options.iou_types or _scored(model, annotations),
        options.engine,
        "all",
        has_rounded_frames(model),
        limits_up_to(options.max_dets),
        options.keypoint_sigmas,
        has_pixel_corners(model),
    )
    model = model.to(device)
    _run(model, annotations, images, evaluator, maps, options)
    return Collected(evaluator, detector, model, maps, map_annotations)


def _run(
    model: Detector,
    annotations: Annotations,
    images: Path,
    evaluator: CocoEvaluator | None,
    maps: MapEvaluator | None,
    options: EvaluateOptions,
) -> None:
    """Run a model on all images as the options say."""
    look = _look(model, options)
    if look is not None:
        detect_looking(model, annotations, images, evaluator, look, options.precision, maps)
    else:
        detect(model, annotations, images, evaluator, options.batch, options.workers, options.precision, maps)


def _scored(model: Detector, annotations: Annotations) -> list[str]:
    """Return the IoU types of a model that annotations can score; they may lack keypoints."""
    types = iou_types(model)
    if "keypoints" in types and not annotations.has_keypoints:
        print("the annotations have no keypoints: those of the model are not scored", file=sys.stderr)
        types.remove("keypoints")
    return types


def _look(model: Detector, options: EvaluateOptions) -> Callable[[np.ndarray], Detections] | None:
    """Return the function that detects in tiles or in several views of an image; None if the options set neither."""
    if options.tile:
        return partial(detect_in_tiles, model, side=options.tile, batch=options.batch)
    if options.flip or options.short_sides:
        return lambda image: detect_in_views(model, [image], options.short_sides or (), options.flip)[0]
    return None


@torch.inference_mode()
def detect(
    model: Detector,
    annotations: Annotations,
    images: Path,
    evaluator: CocoEvaluator | None,
    batch_size: int = 4,
    workers: int = 0,
    precision: str = "fp32",
    maps: MapEvaluator | None = None,
) -> None:
    """Run a model on all images and add its detections to the evaluator, and its maps to another one.

    Under ``torchrun`` each process runs on a part of the images. Afterwards each evaluator has all detections.

    Args:
        model: on the device to use.
        images: folder that the file names are relative to.
        precision: ``fp32`` or ``bf16``.
    """
    resize = Resize(*model.test_size, model.resize)
    dataset = CocoDataset(annotations, images, [resize], reading=_reading(model))
    canvases = own_canvases(annotations.sizes, resize, model.stride)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=EvalBatchSampler(canvases, batch_size, rank, world),
        collate_fn=partial(collate, divisor=model.stride),
        num_workers=workers,
        worker_init_fn=begin_worker,
    )
    device = model.pixel_mean.device
    labels = None if evaluator is None else matching_labels(model.categories, evaluator.categories).to(device)
    model.eval()
    if precision == "bf16":
        model = folded(model)
    for batch in tqdm(loader, desc="detecting", unit="batch", disable=rank > 0 or is_quiet()):
        raise_if_signalled()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = model(batch.images.to(device), batch.sizes.to(device))
        if maps is not None:
            maps.add(batch, found)
        if evaluator is not None and labels is not None:
            # Padding has the label -1, which selects the last place.
            evaluator.add(batch, found._replace(labels=labels[found.labels], semantic=None))
    _gather(evaluator, maps)


def _gather(evaluator: CocoEvaluator | None, maps: MapEvaluator | None) -> None:
    """Give each process what all have collected."""
    if evaluator is not None:
        evaluator.gather()
    if maps is not None and (states := states_of_ranks(maps.state)) is not None:
        maps.reset()
        maps.merge(states)


def detect_looking(
    model: Detector,
    annotations: Annotations,
    images: Path,
    evaluator: CocoEvaluator | None,
    look: Callable[[np.ndarray], Detections],
    precision: str = "fp32",
    maps: MapEvaluator | None = None,
) -> None:
    """Run :func:`detect` image by image, with several views or with tiles.

    Args:
        look: returns the detections in an image, (H, W, 3) uint8 RGB.
        precision: ``fp32`` or ``bf16``.
    """
    dataset = CocoDataset(annotations, images, reading=_reading(model))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    labels = None if evaluator is None else matching_labels(model.categories, evaluator.categories)
    ids = () if evaluator is None else evaluator.categories.ids
    numbers = [number for batch in EvalBatchSampler(annotations.sizes, 1, rank, world) for number in batch]
    for i in tqdm(numbers, desc="detecting", unit="image", disable=rank > 0 or is_quiet()):
        raise_if_signalled()
        sample = dataset[i]
        with torch.autocast(model.pixel_mean.device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = look(sample.image)
        if maps is not None:
            assert found.semantic is not None
            maps.add_image(sample.image_id, found._replace(semantic=None), found.semantic.numpy())
        if evaluator is None or labels is None:
            continue
        found = found._replace(semantic=None)
        found = take(found, labels[found.labels] != IGNORE)
        height, width = sample.original_size
        boxes = clip(found.boxes[None], found.labels.new_tensor([[height, width]]))[0]
        boxes[:, 2:] -= boxes[:, :2]
        rles = encoded(model, found, height, width)
        results: list[dict[str, Any]] = [
            {"image_id": sample.image_id, "category_id": ids[label], "score": score, "bbox": box}
            for label, score, box in zip(
                labels[found.labels].tolist(), found.scores.tolist(), boxes.tolist(), strict=True
            )
        ]
        for result, rle in zip(results, rles or (), strict=False):
            result["segmentation"] = rle
        for result, points in zip(results, in_file(model, found), strict=False):
            result["keypoints"] = points
        evaluator.add_results(results)
    _gather(evaluator, maps)


def matching_labels(model: Categories | None, data: Categories) -> Tensor:
    """Map the labels of a model to those of a data set, by the names of the classes.

    Returns:
        (K + 1,) int64: the label in the data set, or IGNORE for a class that the data set does not have.

    Raises:
        ValueError: no class has the same name.
    """
    if model is None:
        return torch.tensor([*range(len(data)), IGNORE])
    place = {name: k for k, name in enumerate(data.names)}
    labels = [place.get(name, IGNORE) for name in model.names]
    if all(label == IGNORE for label in labels):
        raise ValueError(
            f"the model knows {_some(model.names)}, the annotations {_some(data.names)}: no class in common; "
            "choose another model, or rename the categories"
        )
    rank = dist.get_rank() if dist.is_initialized() else 0
    absent = [name for name in model.names if name not in place]
    unknown = [name for name in data.names if name not in model.names]
    if absent and rank == 0:
        print(f"classes of the model that the annotations do not have, left out: {_some(absent)}")
    if unknown and rank == 0:
        print(f"classes that the model does not know, so that their AP is 0: {_some(unknown)}")
    return torch.tensor([*labels, IGNORE])


def _some(names: Any, most: int = 5) -> str:
    names = list(names)
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _reading(model: Detector) -> Reading:
    return Reading(channels=len(model.pixel_mean), depth=model.depth)
