"""Check the annotations of a split: objects, crowds and classes."""

from typing import Any

import numpy as np

from detection.coco import meaning
from detection.coco.annotations import Annotations
from detection.coco.checks import OVER
from detection.coco.crowds import crowd_classes, crowd_findings
from detection.coco.twins import NEAR
from detection.data.names import FOUND
from detection.doctor.findings import Diagnosis, Table
from detection.foreign import shown
from detection.wording import plural

HARMLESS = (OVER, "annotation ids that occur twice (numbered anew)", *FOUND, *meaning.HARMLESS)
"""Kinds that are repaired without loss, if they are few, or that have no effect."""

IGNORED_CLASSES = ("ignore", "ignored", "ignored region", "ignored regions", "ignored-regions", "ignored_regions",
                   "dontcare", "don't care", "dont care")  # fmt: skip
"""Names that VisDrone, KITTI and others give to regions that are neither trained on nor scored."""


def contents(diagnosis: Diagnosis, split: str, annotations: Annotations) -> None:
    """Add the findings of the file's check, and those about crowds, duplicates and images without objects."""
    report = annotations.report
    for hint in report.hints:
        diagnosis.add("error" if hint.grave else "warning", split, hint.text)
    for kind, count in report.counts.items():
        harmless = kind in HARMLESS and (kind in meaning.HARMLESS or not report.widespread(kind))
        severity: Any = "info" if harmless else "warning"
        diagnosis.add(severity, split, report.line(kind), "see the file", report.ids[kind], count)
    for found in crowd_findings(annotations, split == "train"):
        diagnosis.add(found.severity, split, found.what, found.advice, found.ids, found.count)
    _twins(diagnosis, split, annotations)
    _ignored_classes(diagnosis, split, annotations)
    counts = annotations.counts()
    without = np.flatnonzero(counts == 0)
    if len(without):
        ids = annotations.image_ids[without].tolist()
        what = plural(len(without), "image without objects", "images without objects")
        diagnosis.add("info", split, f"{what}, kept as background", "", ids, len(without))
    if not annotations.num_objects:
        diagnosis.add("error", split, "no usable object", "annotate some")
    elif split == "train":
        diagnosis.examples["most objects"] = np.argsort(-annotations.counts(crowd=False))[:4].tolist()


def objects_by_class(diagnosis: Diagnosis, splits: dict[str, Annotations]) -> None:
    """Add a table of objects and crowds by class, for all splits of the same classes, and the classes without any."""
    for categories in dict.fromkeys(annotations.categories for annotations in splits.values()):
        _table(diagnosis, {split: a for split, a in splits.items() if a.categories == categories})
    for split, annotations in splits.items():
        only = crowd_classes(annotations)  # reported elsewhere
        names = map(shown, annotations.categories.names)
        counted = zip(names, annotations.class_counts(crowd=False), strict=True)
        empty = [name for name, number in counted if number == 0 and name not in only]
        if empty:
            what = "the detector cannot learn them" if split == "train" else "their AP is not measured"
            some = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
            found = f"{plural(len(empty), 'class')} without objects: {some}"
            diagnosis.add("warning", split, found, what, (), len(empty))


def _table(diagnosis: Diagnosis, splits: dict[str, Annotations]) -> None:
    columns = {split: annotations.class_counts(crowd=False) for split, annotations in splits.items()}
    order: list[int] = np.argsort(-next(iter(columns.values())), kind="stable").tolist()
    columns |= {f"{split} crowds": a.class_counts(crowd=True) for split, a in splits.items() if a.num_crowds}
    title = "Objects by class"
    if len(order) > 30:
        title, order = f"{title} (the 15 most and the 15 least of {len(order)})", order[:15] + order[-15:]
    names = next(iter(splits.values())).categories.names
    rows = [(shown(names[k]), *(int(column[k]) for column in columns.values())) for k in order]
    diagnosis.tables.append(Table(title, ("class", *columns), rows))


def keypoints(diagnosis: Diagnosis, split: str, annotations: Annotations) -> None:
    """Add a table of the labelled keypoints of each class, and those that no object has."""
    rows = [
        (shown(class_name), shown(name), hidden, visible)
        for label, class_name in enumerate(annotations.categories.names)
        for name, (hidden, visible) in zip(
            annotations.categories.skeletons[label].names if annotations.categories.skeletons else (),
            annotations.keypoint_counts(label).tolist(),
            strict=True,
        )
    ]
    if not rows:
        return
    diagnosis.tables.append(Table(f"Keypoints, {split}", ("class", "keypoint", "hidden", "visible"), rows))
    absent = [f"{one} of {name}" for name, one, *counts in rows if not any(counts)]
    if absent:
        what = f"{plural(len(absent), 'keypoint is', 'keypoints are')} never labelled: {', '.join(absent[:5])}"
        advice = "the detector cannot learn them" if split == "train" else "they are not measured"
        diagnosis.add("warning", split, what, advice, (), len(absent))


def _twins(diagnosis: Diagnosis, split: str, annotations: Annotations) -> None:
    near = annotations.near_twins()
    if near:
        what = (
            plural(len(near), "object has", "objects have")
            + f" nearly the box of another one of the same class (IoU above {NEAR})"
        )
        ids = [f"{second} as {first}" for first, second in near]
        diagnosis.add("warning", split, what, "remove one of each two, if they are one object", ids, len(near))


def _ignored_classes(diagnosis: Diagnosis, split: str, annotations: Annotations) -> None:
    ignored = [name for name in annotations.categories.names if name.strip().lower() in IGNORED_CLASSES]
    if ignored:
        advice = "it is trained like other classes; give its annotations a real class and iscrowd 1, or remove them"
        diagnosis.add("warning", split, f"the class {shown(ignored[0])!r} stands for regions to ignore", advice)
