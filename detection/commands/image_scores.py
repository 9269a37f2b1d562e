"""Evaluate a classifier as the options of ``rcnn evaluate`` say."""

from pathlib import Path

from backbones.classifiers import Classifier
from detection.commands.image_data import image_settings
from detection.engine.classify.evaluated import evaluated_images
from detection.report.classification.options import of_classifier
from detection.report.classification.scoring import evaluate_classifier
from detection.report.options import EvaluateOptions


def evaluate_images(model: Classifier, given: EvaluateOptions) -> None:
    """Evaluate a classifier as the options say."""
    options = of_classifier(given)
    settings = {name.removeprefix("--data."): value for name, value in image_settings(options.data)}
    place = Path(options.model)
    run = place if place.is_dir() else next((p for p in place.parents[:2] if (p / "config.yaml").is_file()), None)
    data, line = evaluated_images(settings, options.split, model, run)
    if line:
        print(line)
    evaluate_classifier(model, data, options)
