"""Warn about crowds: training and evaluation ignore them, so that a file with only crowds is useless.

Annotation tools export masks that were painted with a brush as crowds, although each is one object. CVAT, for example,
writes them as RLE with ``iscrowd`` 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detection.coco.annotations import Annotations
from detection.coco.hint import WIDESPREAD
from detection.coco.meaning import IGNORED
from detection.foreign import shown
from detection.wording import plural

BRUSH = (
    "annotation tools export painted masks as crowds (CVAT's brush): set iscrowd to 0 if an annotation is one object"
)
FLAG = "the key ignore makes them crowds: remove it from objects that you want to learn and to score"


@dataclass(frozen=True)
class CrowdFinding:
    """One finding about the crowds of a split."""

    severity: Literal["error", "warning", "info"]
    what: str
    advice: str
    ids: Sequence[int]
    """Annotation IDs; image IDs if ``what`` is about images."""
    count: int


def crowd_findings(annotations: Annotations, train: bool) -> list[CrowdFinding]:
    """Return all findings about crowds; an empty list if there are none.

    Args:
        annotations: the split.
        train: True for a training split, False for an evaluation split.
    """
    crowds, objects = annotations.num_crowds, annotations.num_objects
    if not crowds:
        return []
    ids = annotations.object_ids[annotations.crowds()].tolist()
    ignored = annotations.report.counts.get(IGNORED, 0)
    remedy = FLAG if ignored == crowds else f"{BRUSH}; {FLAG}" if ignored else BRUSH
    lost = "nothing can be learned" if train else "nothing can be scored, AP is n/a (-1 in pycocotools)"
    if crowds == objects:
        return [CrowdFinding("error", f"{_all(crowds)}: {lost}", remedy, ids, crowds)]
    wide = crowds > WIDESPREAD * objects
    are = "is a crowd" if crowds == 1 else "are crowds"
    what = f"{crowds} of {plural(objects, 'object')} ({crowds / objects:.1%}) {are}, neither learned nor scored"
    found = [CrowdFinding("warning" if wide else "info", what, remedy if wide else "", ids, crowds)]
    names = crowd_classes(annotations)
    if names:
        what = f"{plural(len(names), 'class has', 'classes have')} crowds only: {', '.join(names[:5])}"
        what += ", ..." if len(names) > 5 else ""
        advice = "training cannot learn them" if train else "evaluation cannot measure their AP"
        found.append(CrowdFinding("warning", what, advice, (), len(names)))
    alone = np.flatnonzero((annotations.counts(crowd=True) > 0) & (annotations.counts(crowd=False) == 0))
    if len(alone):
        effect = (
            "training uses only their background"
            if train
            else "every detection outside their crowds is a false positive"
        )
        what = f"{plural(len(alone), 'image has', 'images have')} crowds only: {effect}"
        found.append(CrowdFinding("info", what, "", annotations.image_ids[alone].tolist(), len(alone)))
    return found


def described(split: str, annotations: Annotations) -> list[str]:
    """Return the first log lines of a run: the numbers of images, objects and classes, and the warnings."""
    images = plural(len(annotations), "image")
    if not annotations.annotated:
        return [f"{split}: {images}, without annotations, {annotations.path}"]
    crowds = annotations.num_crowds
    objects = plural(annotations.num_objects - crowds, "object") + (f" and {plural(crowds, 'crowd')}" if crowds else "")
    classes = plural(len(annotations.categories), "class")
    lines = [f"{split}: {images}, {objects}, {classes}, {annotations.path}"]
    without = int((annotations.counts() == 0).sum())
    if without:
        kept = plural(without, "image without objects is", "images without objects are")
        lines.append(f"{split}: {kept} kept, as background")
    for finding in crowd_findings(annotations, split == "train"):
        if finding.severity == "warning" or (finding.severity == "error" and split != "train"):  # fit rejects train's
            lines.append(f"{split}: warning: {finding.what}; {finding.advice}")
    return lines + ([str(annotations.report)] if annotations.report else [])


def check_learnable(annotations: Annotations) -> None:
    """Check that there is at least one object to train on.

    Raises:
        ValueError: there are no objects, all objects are crowds, or the boxes are fractions of the image.
    """
    hint = next((hint for hint in annotations.report.hints if hint.unusable), None)
    if hint is not None:
        raise ValueError(f"{annotations.path}: {hint.text}")
    if annotations.num_objects == annotations.num_crowds:
        crowds = next(iter(crowd_findings(annotations, train=True)), None)
        why = f"{_all(crowds.count)}; {crowds.advice}" if crowds else "annotate some objects"
        raise ValueError(f"{annotations.path}: has no usable object to train on; {why}")


def _all(objects: int) -> str:
    return "the only object is a crowd" if objects == 1 else f"all {objects} objects are crowds"


def crowd_classes(annotations: Annotations) -> list[str]:
    """Return the printable names of the classes whose objects are all crowds."""
    only = (annotations.class_counts(crowd=True) > 0) & (annotations.class_counts(crowd=False) == 0)
    return [shown(annotations.categories.names[k]) for k in np.flatnonzero(only)]
