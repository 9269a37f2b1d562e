"""What crowds mean for training and evaluation: they are neither learned nor scored, so that too many leave nothing.

Annotation tools write masks that were painted with a brush as crowds (CVAT: RLE with ``iscrowd`` 1), though each is one
object.
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

BRUSH = "annotation tools write painted masks so (CVAT's brush): set iscrowd to 0 where an annotation is one object"
FLAG = "the key ignore says so: remove it where an annotation is an object to learn and to score"


@dataclass(frozen=True)
class CrowdFinding:
    """One thing about the crowds of a split."""

    severity: Literal["error", "warning", "info"]
    what: str
    advice: str
    ids: Sequence[int]
    """Of annotations; of images where ``what`` speaks of images."""
    count: int


def crowd_findings(annotations: Annotations, train: bool) -> list[CrowdFinding]:
    """All that is to be said about crowds; nothing where there are none.

    Args:
        train: the split is learned from, not scored against.
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
        advice = "nothing teaches them" if train else "their AP is not measured"
        found.append(CrowdFinding("warning", what, advice, (), len(names)))
    alone = np.flatnonzero((annotations.counts(crowd=True) > 0) & (annotations.counts(crowd=False) == 0))
    if len(alone):
        effect = "only their background teaches" if train else "every detection outside their crowds is false"
        what = f"{plural(len(alone), 'image has', 'images have')} crowds only: {effect}"
        found.append(CrowdFinding("info", what, "", annotations.image_ids[alone].tolist(), len(alone)))
    return found


def described(split: str, annotations: Annotations) -> list[str]:
    """The lines that open a run: how much there is of what, and what is doubtful."""
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
    """Reject annotations that teach nothing.

    Raises:
        ValueError: no object, crowds alone, or boxes that are fractions of the image.
    """
    hint = next((hint for hint in annotations.report.hints if hint.unusable), None)
    if hint is not None:
        raise ValueError(f"{annotations.path}: {hint.text}")
    if annotations.num_objects == annotations.num_crowds:
        crowds = next(iter(crowd_findings(annotations, train=True)), None)
        why = f"{_all(crowds.count)}; {crowds.advice}" if crowds else "annotate some"
        raise ValueError(f"{annotations.path}: has no usable object to learn from; {why}")


def _all(objects: int) -> str:
    return "the only object is a crowd" if objects == 1 else f"all {objects} objects are crowds"


def crowd_classes(annotations: Annotations) -> list[str]:
    """Names of the classes whose objects are all crowds, as they can be shown."""
    only = (annotations.class_counts(crowd=True) > 0) & (annotations.class_counts(crowd=False) == 0)
    return [shown(annotations.categories.names[k]) for k in np.flatnonzero(only)]
