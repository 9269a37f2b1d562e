"""Write ``report.html`` of a classifier's run: the evaluation report of its best validation."""

from pathlib import Path

from lightning.pytorch import Trainer

from detection.checkpoint_files import replacing
from detection.engine.classify.best_classes import BestClasses
from detection.engine.data_of import data_of
from detection.engine.opening import precision_name
from detection.foreign import shown
from detection.provenance import software
from detection.report.classification.content import judged_of, report_of
from detection.report.classification.page import page
from detection.report.classification.wrong import wrong_images

DRAWN = 12
"""Number of wrong images in the report."""
RESAMPLINGS = 100
"""Bootstrap samples for the intervals."""


def write_report(path: Path, best: BestClasses, trainer: Trainer) -> None:
    """Write the report from kept scores, without running the classifier again.

    Raises:
        ValueError: there was no validation since this process started.
    """
    evaluator, data = best.restore(), data_of(trainer)
    scored, images, dataset = evaluator.state()[0], data.images["val"], data.datasets["val"]  # type: ignore[attr-defined]
    report = report_of(evaluator.report(), judged_of(scored, len(images.classes)), RESAMPLINGS)
    about = {
        "name": f"Classifier {shown(trainer.lightning_module.model.config.name)}",  # type: ignore[union-attr]
        "model": f"{path.parent}, epoch {best.place['epoch']}, step {best.place['step']}",
        "data": str(data.config.root),  # type: ignore[attr-defined]
        "split": "val",
        "annotations": str(images.source),
        "images_scored": report["images"],
        **software(),
        "precision": precision_name(trainer.precision),
    }
    html = page(report, about, wrong_images(scored, images, dataset, DRAWN))
    with replacing(path) as file:
        file.write(html.encode())
