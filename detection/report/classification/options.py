"""Options of an evaluation of a classifier."""

from dataclasses import dataclass
from pathlib import Path

from detection.report.options import EvaluateOptions

SHARED = ("output", "resamplings", "pictures", "batch", "workers", "device", "trust_code", "name", "data", "split")
"""Options of ``rcnn evaluate`` that are also for classifiers; all others must have their default."""


@dataclass(frozen=True)
class ClassifierEvaluation:
    """Options of an evaluation; ``rcnn evaluate --help`` describes each one."""

    model: str
    data: str
    split: str = "val"
    output: Path = Path("evaluation")
    resamplings: int = 100
    pictures: int = 12
    batch: int = 4
    workers: int = 2
    name: str | None = None


def of_classifier(options: EvaluateOptions) -> ClassifierEvaluation:
    """Return the options of a classifier's evaluation.

    Raises:
        ValueError: an option is for detectors alone, or there are no data.
    """
    model = options.what[0]
    default = EvaluateOptions([], Path())
    for name, value in vars(options).items():
        if name not in (*SHARED, "what", "annotations", "images") and value != getattr(default, name):
            raise ValueError(f"--{name.replace('_', '-')}: {model} is a classifier, which has no such option")
    if len(options.what) > 1:
        raise ValueError("give one classifier")
    if options.data is None:
        raise ValueError(
            f"{model}: is a classifier; give its images with --data: class folders, a CSV file or a data set"
        )
    for name, least in (("resamplings", 0), ("pictures", 0), ("batch", 1), ("workers", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} {getattr(options, name)}: must be at least {least}")
    shared = {name: getattr(options, name) for name in SHARED if name not in ("device", "trust_code")}
    return ClassifierEvaluation(model, **shared)
