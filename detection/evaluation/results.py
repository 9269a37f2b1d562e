"""COCO result files: a JSON list with one dict per detection.

``{"image_id": 139, "category_id": 18, "bbox": [x, y, width, height], "score": 0.92}`` for boxes, and
``{"image_id": 139, "category_id": 18, "segmentation": {"size": [height, width], "counts": "..."}, "score": 0.92}``
for masks. Keypoints are ``"keypoints": [x, y, score, ...]``. IDs are the original ones of the annotation file.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import orjson
from pycocotools import mask as coco_mask

from detection.coco.rle import run_lengths
from detection.documents import read_json
from detection.foreign import shown


def write_results(path: str | Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write detections to a result file atomically.

    The function writes a temporary file and then renames it, so that a reader never sees an incomplete file.

    Raises:
        ValueError: :func:`read_results` would reject a detection, or a number is NaN or infinite.
    """
    path = Path(path)
    check_results(results, f"{path}: ")
    lists = (result.get(key, ()) for result in results for key in ("bbox", "keypoints"))
    numbers = chain(map(itemgetter("score"), results), *lists)
    if not all(map(math.isfinite, numbers)):  # orjson would write null
        raise ValueError(f"{path}: {_infinite(results)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        try:
            file.write(orjson.dumps(list(results)))
            file.flush()
            os.fsync(file.fileno())
            file.close()  # Windows moves no open file
            # Temporary files are private. Give the result file the normal permissions of a new file.
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Read a result file of this toolkit or of another tool.

    Numbers may be NaN or infinite, because other tools write them. The evaluator drops and counts such detections.

    Raises:
        ValueError: the file is not a JSON list, or a detection lacks an ID, the score, or box, mask and keypoints. The
            message has the file and the index of the detection.
    """
    path = Path(path)
    results = read_json(path, nonfinite=True)
    if isinstance(results, dict) and "annotations" in results:
        raise ValueError(f"{path}: is an annotation file; give a result file, which is a list of detections")
    if not isinstance(results, list):
        raise ValueError(
            f"{path}: contains a {type(results).__name__}; give a result file, which is a list of detections"
        )
    check_results(results, f"{path}: ")
    return results


def with_boxes(results: Sequence[Mapping[str, Any]], where: str | Path) -> list[dict[str, Any]]:
    """Add the box around each mask, as pycocotools' loadRes does for results without a box.

    The size range (small, medium, large) of such a box follows from the area of the box. pycocotools would use the
    area of the mask.

    Raises:
        ValueError: an RLE does not match its own size. The message begins with ``where``.
    """
    boxed = []
    for index, result in enumerate(results):
        height, width = result["segmentation"]["size"]
        try:
            runs = run_lengths(result["segmentation"]).tolist()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: result {index}: {error}") from None
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        boxed.append({**result, "bbox": coco_mask.toBbox(rle).tolist()})
    return boxed


def check_results(results: Sequence[Any], where: str = "") -> None:
    """Call :func:`check_result` for each result; error messages begin with ``where``."""
    if not _are_plain(results):
        for index, result in enumerate(results):
            check_result(result, f"{where}result {index}")


def check_result(result: Any, where: str) -> None:
    """Check that a detection is complete and has the right types.

    Raises:
        ValueError: it is not; the message begins with ``where``.
    """
    if not isinstance(result, Mapping):
        raise ValueError(f"{where}: is a {type(result).__name__}, but must be a dict")
    for key in ("image_id", "category_id"):
        if not _is_number(result.get(key), int):
            raise ValueError(f"{where}: {key} is {shown(repr(result.get(key)))}, but must be an integer")
    if not _is_number(result.get("score"), int, float):
        raise ValueError(f"{where}: score is {shown(repr(result.get('score')))}, but must be a number")
    if not any(key in result for key in ("bbox", "segmentation", "keypoints")):
        raise ValueError(f"{where}: has neither bbox nor segmentation nor keypoints; add one of them")
    if "keypoints" in result:
        points = result["keypoints"]
        numbers = isinstance(points, list | tuple) and all(_is_number(value, int, float) for value in points)
        if not numbers or len(points) % 3:
            raise ValueError(f"{where}: keypoints are {shown(repr(points))}, but must be numbers: x, y, score, ...")
    if "bbox" in result:
        box = result["bbox"]
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(_is_number(v, int, float) for v in box):
            raise ValueError(f"{where}: bbox is {shown(repr(box))}, but must be four numbers: x, y, width, height")
    if "segmentation" in result:
        rle = result["segmentation"]
        if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), str | bytes | list) or "size" not in rle:
            raise ValueError(f"{where}: segmentation must be an RLE: a dict with size and counts")


def _are_plain(results: Sequence[Any]) -> bool:
    """Return True for normal results, by a fast check; :func:`check_result` decides about all others."""
    try:
        ids, scores = map(itemgetter("image_id", "category_id"), results), map(itemgetter("score"), results)
        if not (_types(chain.from_iterable(ids)) <= {int} and _types(scores) <= {float}):
            return False
        boxes = [result["bbox"] for result in results if "bbox" in result]
        masks = [result["segmentation"] for result in results if "segmentation" in result]
        if len(boxes) != len(results) and not all("bbox" in r or "segmentation" in r for r in results):
            return False
        if any("keypoints" in result for result in results):
            return False
        if not (_types(boxes) <= {list} and {*map(len, boxes)} <= {4} and _types(masks) <= {dict}):
            return False
        if not all("size" in mask for mask in masks):
            return False
        return _types(chain.from_iterable(boxes)) <= {int, float} and _types(m["counts"] for m in masks) <= {str}
    except (KeyError, TypeError):
        return False


def _infinite(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the message for the first result with NaN or infinity."""
    return next(
        f"result {index}: {key} is {result[key]!r}, but must be finite"
        for index, result in enumerate(results)
        for key, numbers in (
            ("score", [result["score"]]),
            ("bbox", result.get("bbox", ())),
            ("keypoints", result.get("keypoints", ())),
        )
        if not all(map(math.isfinite, numbers))
    )


def _types(values: Iterable[Any]) -> set[type]:
    return {*map(type, values)}


def _is_number(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _umask() -> int:
    """Return the umask; the only way to read it is to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
