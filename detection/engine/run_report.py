"""Write ``report.html`` of a run: the evaluation report of its best validation."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer

from detection.engine.best_detections import BestDetections
from detection.engine.opening import precision_name
from detection.provenance import about
from detection.report.analysis import analyse
from detection.report.files import write_page

if TYPE_CHECKING:
    from detection.engine.datamodule import CocoDataModule

DRAWN = 12
"""Number of worst images, and of annotations to check, in the report."""


def write_report(path: Path, detections: BestDetections, trainer: Trainer) -> None:
    """Write the report from kept detections, without running the detector again.

    Raises:
        ValueError: there was no validation since this process started.
    """
    evaluator = detections.restore().evaluator
    data: CocoDataModule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
    assert evaluator is not None
    analyses = [analyse(evaluator, kind) for kind in evaluator.iou_types]
    ids = [image["id"] for image in evaluator.truth(evaluator.iou_types[0])["images"]]
    place = f"{path.parent}, epoch {detections.place['epoch']}, step {detections.place['step']}"
    made_of: dict[str, Any] = {
        "model": place,
        **about(data.annotations["val"].path, [], ids, "coco", evaluator.engine),
        "precision": precision_name(trainer.precision),
    }
    write_page(path, evaluator, analyses, made_of, data.splits.paths("val").images, DRAWN)
