"""Open the ground truth of maps: label PNGs, COCO's panoptic format, or the masks of the objects."""

from typing import Literal

from detection.coco.annotations import Annotations, load_annotations
from detection.data.maps import Maps
from detection.engine.data_config import DataConfig, Split
from detection.engine.map_files import only_images, open_maps
from detection.evaluation.maps import MapEvaluator, Merging
from detection.foreign import shown
from detection.models.mask_forms import has_rounded_frames
from detection.models.panoptic import SemanticFPN, WithSemanticHead
from detection.report.options import EvaluateOptions


def lists_objects(options: EvaluateOptions) -> bool:
    """Return whether the annotation file lists objects; a panoptic file or a list of classes may replace it."""
    return options.annotations not in (options.panoptic, options.semantic_classes)


def open_map_evaluator(model: WithSemanticHead, options: EvaluateOptions) -> tuple[MapEvaluator, Annotations]:
    """Return the evaluator of a model's maps, and the images.

    Raises:
        ValueError: options do not go together, a file is invalid, or the classes are not those of the model.
        FileNotFoundError: files are missing.
    """
    alone = isinstance(model, SemanticFPN)
    semantic: Literal["instances", "labels", "panoptic"] = "instances"
    if options.panoptic is not None or options.labels is not None:
        semantic = "labels" if options.panoptic is None else "panoptic"
    if not alone and not lists_objects(options):
        raise ValueError("a Panoptic FPN also needs the objects: add --data PATH, or --annotations FILE")
    split = Split(
        str(options.images),
        str(options.annotations) if lists_objects(options) else "",
        None if options.labels is None else str(options.labels),
        None if options.panoptic is None else str(options.panoptic),
    )
    classes = None if options.semantic_classes is None else str(options.semantic_classes)
    if semantic == "labels" and classes is None:
        raise ValueError("--labels: also give --semantic-classes FILE, or --panoptic FILE for panoptic PNGs")
    if semantic == "panoptic" and options.labels is None:
        raise ValueError("--panoptic: also give the folder of its PNGs with --labels DIR")
    config = DataConfig(
        root=".",
        val=split,
        semantic=semantic,
        semantic_classes=classes,
        maps="all" if alone else "stuff",
    )
    if lists_objects(options):
        annotations = load_annotations(options.annotations, need_masks=semantic == "instances" or not alone)
    else:
        annotations = only_images(config, "val")
    truth = open_maps(config, "val", annotations)
    check_classes(model, truth, annotations)
    if alone:
        return MapEvaluator(truth), annotations
    head = model.semantic_head.config
    merging = Merging(head.overlap, head.stuff_area, head.score)
    return MapEvaluator(truth, annotations.categories, merging, has_rounded_frames(model)), annotations


def check_classes(model: WithSemanticHead, truth: Maps, annotations: Annotations) -> None:
    """Raise a ValueError if a model has other classes than the ground truth, or another order."""
    pairs = [("semantic classes", model.semantic_categories, truth.categories)]
    if not isinstance(model, SemanticFPN):
        pairs.append(("classes of objects", model.categories, annotations.categories))
    for what, own, given in pairs:
        if own is not None and own.names != given.names:
            lacking = next(
                (name for name in (*own.names, *given.names) if (name in own.names) != (name in given.names)), ""
            )
            reason = f"first {shown(lacking)}" if lacking else "in another order"
            raise ValueError(f"the model has {len(own)} {what}, the data {len(given)}, and they differ, {reason}")
        if own is None and model.semantic_head.num_classes != len(truth.categories):
            raise ValueError(
                f"the model has {model.semantic_head.num_classes} {what}, the data {len(truth.categories)}"
            )
