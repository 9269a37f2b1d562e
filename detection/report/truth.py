"""Open the ground truth of an evaluation."""

from pathlib import Path
from typing import Any


def open_truth(path: Path, ground_truth: str) -> Any:
    """Return the ground truth for the evaluator: the checked annotations, as in training, or the file itself.

    Args:
        ground_truth: "file" for the file itself.
    """
    if ground_truth == "file":
        return path
    from detection.coco.annotations import load_annotations

    return load_annotations(path).to_coco()
