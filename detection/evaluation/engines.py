"""The engines that match detections to ground truth and integrate precision over recall.

pycocotools is the reference. hotcoco gives bit-identical results and is many times faster. Both get only checked input,
with consecutive numbers instead of IDs (:mod:`~detection.evaluation.numbering`).

T IoU thresholds   R recall thresholds   K categories   A area ranges (all, small, medium, large)
D detection limits, 1, 10 and 100 by default
"""

import io
import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np

from detection.coco.rle import mask_areas
from detection.evaluation.limits import COCO_LIMITS, Limits, scored_limits
from detection.evaluation.numbering import Numbering


def statistics(limits: Limits = COCO_LIMITS, iou_type: str = "bbox") -> tuple[str, ...]:
    """Return the names of the metrics in pycocotools' order: ten of keypoints, twelve of boxes and masks.

    AR1, AR10 and AR100 contain their limits. AR50 and AR75 of keypoints are recalls at these OKS thresholds.
    """
    if iou_type == "keypoints":
        return ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
    return ("AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AR{limit}" for limit in limits), "ARs", "ARm", "ARl")


STATISTICS = statistics()
"""Names of the twelve metrics at COCO's limits."""


_hotcoco_process: int | None = None
"""ID of the process in which hotcoco started its threads. In a fork of it, hotcoco would wait for them forever."""


def hotcoco(purpose: str) -> Any:
    """Import and return hotcoco; from now on only this process may use it.

    Args:
        purpose: what needs the library, for the error message.

    Raises:
        ValueError: hotcoco is not installed.
    """
    global _hotcoco_process
    try:
        import hotcoco
    except ImportError as error:
        raise ValueError(f"{purpose} needs hotcoco ({error}): pip install hotcoco") from error
    _hotcoco_process = os.getpid()
    return hotcoco


def is_fast(engine: str) -> bool:
    """Return whether to use hotcoco. A process that was forked after its first use must use pycocotools."""
    return engine == "hotcoco" and _hotcoco_process in (None, os.getpid())


def choose(engine: str) -> str:
    """Return the engine for a setting; ``auto`` is hotcoco if it is installed, else pycocotools.

    Raises:
        ValueError: the engine is unknown.
        ImportError: the engine is not installed.
    """
    if engine == "auto":
        return "hotcoco" if find_spec("hotcoco") else "pycocotools"
    if engine not in ("hotcoco", "pycocotools"):
        raise ValueError(f"engine is {engine!r}, but must be auto, hotcoco or pycocotools")
    if not find_spec(engine):
        raise ImportError(f"engine {engine} is not installed: pip install {engine}, or choose engine auto")
    return engine


def score(
    engine: str,
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    iou_type: str,
    limits: Limits = COCO_LIMITS,
) -> tuple[np.ndarray, np.ndarray]:
    """Score results on all images of a clean ground truth.

    Args:
        engine: from :func:`choose`; see :func:`is_fast`.
        ground_truth: from :func:`detection.evaluation.ground_truth.clean_ground_truth`; it is not modified.
        results: COCO result dicts with finite numbers; may be empty; not modified.
        iou_type: "bbox", "segm" or "keypoints".
        limits: number of detections per class and image that count.

    Returns:
        precision: (T, R, K, A, D), with categories sorted by ID; -1 if the ground truth has no such objects. Keypoints
            have A = 3 areas (all, medium, large) and D = 1.
        recall: (T, K, A, D); -1 likewise.
    """
    if is_fast(engine):
        evaluation = hotcoco_evaluation(ground_truth, results, iou_type, limits)
        return evaluation.precision, evaluation.recall
    return _pycocotools(ground_truth, results, iou_type, limits)


def summarize(
    precision: np.ndarray, recall: np.ndarray, limits: Limits = COCO_LIMITS, iou_type: str = "bbox"
) -> dict[str, float]:
    """Return the metrics by their :func:`statistics` names, as in pycocotools, but with NaN instead of -1."""
    areas = range(1, precision.shape[3])
    values = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]  # IoU 0.5 and 0.75
    values += [precision[..., area, -1] for area in areas]
    if iou_type == "keypoints":
        values += [recall[..., 0, -1], recall[0, ..., 0, -1], recall[5, ..., 0, -1]]
    else:
        values += [recall[..., 0, limit] for limit in (0, 1, 2)]
    values += [recall[..., area, -1] for area in areas]
    return {name: mean(value) for name, value in zip(statistics(limits, iou_type), values, strict=True)}


def mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not -1; NaN if there are none."""
    values = values[values > -1]
    return float(np.mean(values)) if values.size else float("nan")


def _pycocotools(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):
        truth, numbers = COCO(), Numbering(ground_truth)
        truth.dataset = numbers.truth(ground_truth)  # copies, because pycocotools writes into the annotations
        truth.createIndex()
        if results:
            found = truth.loadRes(numbers.entries(results))
        else:  # loadRes fails on an empty list
            found = COCO()
            found.dataset = truth.dataset | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.params.maxDets = list(scored_limits(limits, iou_type))
        if iou_type == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(ground_truth["info"]["keypoint_sigmas"])
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def hotcoco_evaluation(
    ground_truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str, limits: Limits = COCO_LIMITS
) -> "Evaluation":
    """Match and accumulate with hotcoco; the result gives further analyses beyond the twelve metrics.

    Args:
        ground_truth: as for :func:`score`.
        results: as for :func:`score`; hotcoco numbers them from 1, in their order.
        iou_type: as for :func:`score`.
        limits: as for :func:`score`.

    Raises:
        ValueError: hotcoco is not installed.
    """
    library, numbers = hotcoco("this analysis"), Numbering(ground_truth)
    truth = library.COCO(numbers.truth(ground_truth))
    evaluation = library.COCOeval(truth, truth.load_res(numbers.entries(results)), iou_type)
    evaluation.params.max_dets = list(scored_limits(limits, iou_type))
    if iou_type == "keypoints":
        evaluation.params.kpt_oks_sigmas = list(ground_truth["info"]["keypoint_sigmas"])
    evaluation.evaluate()
    evaluation.accumulate()
    return Evaluation(evaluation, numbers, limits, iou_type)


class Evaluation:
    """An evaluation by hotcoco that returns the original IDs.

    Attributes:
        engine: hotcoco's own object, which uses consecutive numbers instead of IDs.
        limits: number of detections per class and image that count.
        iou_type: "bbox", "segm" or "keypoints".
        precision: (T, R, K, A, D).
        recall: (T, K, A, D).
    """

    def __init__(self, engine: Any, numbers: Numbering, limits: Limits, iou_type: str) -> None:
        self.engine, self.limits, self.iou_type, self._numbers = engine, limits, iou_type, numbers
        self.precision, self.recall = (np.asarray(engine.eval[key]) for key in ("precision", "recall"))

    def image_diagnostics(self, score: float = 0.5) -> dict[str, Any]:
        """Return hotcoco's diagnostics of detections and images, at IoU 0.5.

        Args:
            score: smallest score of a detection that can suggest an annotation error.
        """
        found, ids = self.engine.image_diagnostics(iou_thr=0.5, score_thr=score), self._numbers.image_ids
        return {
            **found,
            "img_summary": {ids[number - 1]: summary for number, summary in found["img_summary"].items()},
            "label_errors": [{**one, "image_id": ids[one["image_id"] - 1]} for one in found["label_errors"]],
        }

    def tide_errors(self) -> dict[str, Any]:
        """Return the AP50 lost to each kind of error, and the counts (TIDE)."""
        errors: dict[str, Any] = self.engine.tide_errors()
        return errors

    def confusion(self) -> np.ndarray:
        """Return the confusion matrix at IoU 0.5: (K + 1, K + 1) counts, sorted by category ID, background last."""
        counts = self.engine.confusion_matrix(iou_thr=0.5)
        order = [*np.argsort(counts["cat_ids"]).tolist(), len(counts["cat_ids"])]
        return np.asarray(counts["matrix"]).astype(int)[np.ix_(order, order)]

    def of_images(self, image_ids: Iterable[int]) -> dict[str, float]:
        """Return AP, AP50 and AR at the largest limit for some images; -1 if they have no objects."""
        values = self.engine.slice_by({"some": self._numbers.images(image_ids)})["some"]
        recall = values["AR" if self.iou_type == "keypoints" else "AR100"]  # AR100 at any limit
        return {"AP": values["AP"], "AP50": values["AP50"], "AR": recall}


def lvis_numbers(ground_truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str) -> dict[str, float]:
    """Return the thirteen metrics of LVIS (arXiv 1908.03195, section 3), computed by hotcoco.

    APr, APc and APf are the AP of rare, common and frequent classes. An image counts for the classes that are annotated
    in it or listed as absent (``neg_category_ids``). Up to 300 detections per image count. As in lvis-api, objects and
    detections of area 0 are ignored.

    Raises:
        ValueError: hotcoco is not installed, or the ground truth is not in LVIS's format.
    """
    if not all("frequency" in category for category in ground_truth["categories"]):
        raise ValueError("protocol lvis: the categories have no 'frequency'; give an LVIS annotation file")
    library, numbers = hotcoco("protocol lvis"), Numbering(ground_truth)
    objects = [annotation for annotation in ground_truth["annotations"] if annotation["area"] > 0]
    truth = library.COCO(numbers.truth(ground_truth | {"annotations": objects}))
    found = truth.load_res(numbers.entries(_with_area(results, iou_type)))
    evaluation = library.LVISEval(truth, found, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # computes what get_results() returns
    return {name: float("nan") if value == -1 else value for name, value in evaluation.get_results().items()}


def _with_area(results: list[dict[str, Any]], iou_type: str, most: int = 300) -> list[dict[str, Any]]:
    """Return the best ``most`` results of each image, then drop those of area 0."""
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    best = [r for of_image in by_image.values() for r in sorted(of_image, key=lambda r: -r["score"])[:most]]
    if iou_type == "bbox":
        areas = [result["bbox"][2] * result["bbox"][3] for result in best]
    else:
        areas = mask_areas([result["segmentation"] for result in best]).tolist()
    return [result for result, area in zip(best, areas, strict=True) if area > 0]
