"""COCO result files: a JSON list with one dict per detection.

``{"image_id": 139, "category_id": 18, "bbox": [x, y, width, height], "score": 0.92}`` for boxes, and
``{"image_id": 139, "category_id": 18, "segmentation": {"size": [height, width], "counts": "..."}, "score": 0.92}``
for masks. Ids are the original ones of the annotation file.
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
    """Write detections as a result file, whole or not at all.

    The file is written beside its place and then moved there, so that a reader never sees half of it.

    Raises:
        ValueError: a detection that :func:`read_results` would refuse, or a number that is not finite.
    """
    path = Path(path)
    check_results(results, f"{path}: ")
    numbers = chain(map(itemgetter("score"), results), *(result.get("bbox", ()) for result in results))
    if not all(map(math.isfinite, numbers)):  # orjson would write null
        raise ValueError(f"{path}: {_infinite(results)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        try:
            file.write(orjson.dumps(list(results)))
            file.flush()
            os.fsync(file.fileno())
            file.close()  # Windows moves no open file
            # Temporary files are private; a result file is as readable as any other new file.
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Read a result file, ours or another tool's.

    Numbers may be NaN or infinite, as other tools write them: the evaluator drops and counts such detections.

    Raises:
        ValueError: not JSON, not a list, or a detection without its ids, score, and box or mask; names the file
            and the detection.
    """
    path = Path(path)
    results = read_json(path, nonfinite=True)
    if isinstance(results, dict) and "annotations" in results:
        raise ValueError(f"{path}: this is an annotation file; a result file is a list of detections")
    if not isinstance(results, list):
        raise ValueError(f"{path}: expected a list of detections, found {type(results).__name__}")
    check_results(results, f"{path}: ")
    return results


def with_boxes(results: Sequence[Mapping[str, Any]], where: str | Path) -> list[dict[str, Any]]:
    """Masks with the boxes around them, as pycocotools' loadRes gives them to results without a box.

    Such a box is small, medium or large by its own area, as any other, where pycocotools takes that of the mask.

    Raises:
        ValueError: an RLE that does not fit its own size; begins with ``where``.
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
    """:func:`check_result` of each; the message begins with ``where``."""
    if not _are_plain(results):
        for index, result in enumerate(results):
            check_result(result, f"{where}result {index}")


def check_result(result: Any, where: str) -> None:
    """Raise ValueError, beginning with ``where``, unless a detection has all its parts in the right form."""
    if not isinstance(result, Mapping):
        raise ValueError(f"{where}: expected a dict, found {type(result).__name__}")
    for key in ("image_id", "category_id"):
        if not _is_number(result.get(key), int):
            raise ValueError(f"{where}: {key} is {shown(repr(result.get(key)))}, but must be an integer")
    if not _is_number(result.get("score"), int, float):
        raise ValueError(f"{where}: score is {shown(repr(result.get('score')))}, but must be a number")
    if "bbox" not in result and "segmentation" not in result:
        raise ValueError(f"{where}: has neither bbox nor segmentation")
    if "bbox" in result:
        box = result["bbox"]
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(_is_number(v, int, float) for v in box):
            raise ValueError(f"{where}: bbox is {shown(repr(box))}, but must be four numbers: x, y, width, height")
    if "segmentation" in result:
        rle = result["segmentation"]
        if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), str | bytes | list) or "size" not in rle:
            raise ValueError(f"{where}: segmentation must be an RLE, a dict of size and counts")


def _are_plain(results: Sequence[Any]) -> bool:
    """Whether all detections are as nearly all are; a quick look, which leaves odd ones to :func:`check_result`."""
    try:
        ids, scores = map(itemgetter("image_id", "category_id"), results), map(itemgetter("score"), results)
        if not (_types(chain.from_iterable(ids)) <= {int} and _types(scores) <= {float}):
            return False
        boxes = [result["bbox"] for result in results if "bbox" in result]
        masks = [result["segmentation"] for result in results if "segmentation" in result]
        if len(boxes) != len(results) and not all("bbox" in r or "segmentation" in r for r in results):
            return False
        if not (_types(boxes) <= {list} and {*map(len, boxes)} <= {4} and _types(masks) <= {dict}):
            return False
        if not all("size" in mask for mask in masks):
            return False
        return _types(chain.from_iterable(boxes)) <= {int, float} and _types(m["counts"] for m in masks) <= {str}
    except (KeyError, TypeError):
        return False


def _infinite(results: Sequence[Mapping[str, Any]]) -> str:
    """What is not finite, of results of which one is not."""
    return next(
        f"result {index}: {key} is {result[key]!r}, but must be finite"
        for index, result in enumerate(results)
        for key, numbers in (("score", [result["score"]]), ("bbox", result.get("bbox", ())))
        if not all(map(math.isfinite, numbers))
    )


def _types(values: Iterable[Any]) -> set[type]:
    return {*map(type, values)}


def _is_number(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _umask() -> int:
    """The umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
