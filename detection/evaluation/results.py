"""COCO result files: a JSON list with one dict per detection.

``{"image_id": 139, "category_id": 18, "bbox": [x, y, width, height], "score": 0.92}`` for boxes, and
``{"image_id": 139, "category_id": 18, "segmentation": {"size": [height, width], "counts": "..."}, "score": 0.92}``
for masks. Ids are the original ones of the annotation file.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any


def write_results(path: str | Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write detections as a result file, whole or not at all.

    The file is written beside its place and then moved there, so that a reader never sees half of it.

    Raises:
        ValueError: a detection that :func:`read_results` would refuse, or a number that is not finite.
    """
    path = Path(path)
    for index, result in enumerate(results):
        check_result(result, f"{path}: result {index}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
    ) as file:
        try:
            # Not json.dump, which takes five times as long: it writes piece by piece from Python.
            file.write(json.dumps(list(results), allow_nan=False))
            file.flush()
            os.fsync(file.fileno())
            # Temporary files are private; a result file is as readable as any other new file.
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
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
    try:
        results = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from None
    if isinstance(results, dict) and "annotations" in results:
        raise ValueError(f"{path}: this is an annotation file; a result file is a list of detections")
    if not isinstance(results, list):
        raise ValueError(f"{path}: expected a list of detections, found {type(results).__name__}")
    for index, result in enumerate(results):
        check_result(result, f"{path}: result {index}")
    return results


def check_result(result: Any, where: str) -> None:
    """Raise ValueError, beginning with ``where``, unless a detection has all its parts in the right form."""
    if _is_plain(result):
        return
    if not isinstance(result, Mapping):
        raise ValueError(f"{where}: expected a dict, found {type(result).__name__}")
    for key in ("image_id", "category_id"):
        if not _is_number(result.get(key), int):
            raise ValueError(f"{where}: {key} is {result.get(key)!r}, but must be an integer")
    if not _is_number(result.get("score"), int, float):
        raise ValueError(f"{where}: score is {result.get('score')!r}, but must be a number")
    if "bbox" not in result and "segmentation" not in result:
        raise ValueError(f"{where}: has neither bbox nor segmentation")
    if "bbox" in result:
        box = result["bbox"]
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(_is_number(v, int, float) for v in box):
            raise ValueError(f"{where}: bbox is {box!r}, but must be four numbers: x, y, width, height")
    if "segmentation" in result:
        rle = result["segmentation"]
        if not isinstance(rle, Mapping) or not isinstance(rle.get("counts"), str | bytes | list) or "size" not in rle:
            raise ValueError(f"{where}: segmentation must be an RLE, a dict of size and counts")


def _is_plain(result: Any) -> bool:
    """Whether a detection is as nearly all are; a quick look, which leaves the odd ones to the thorough one."""
    if type(result) is not dict or type(result.get("image_id")) is not int or type(result.get("score")) is not float:
        return False
    if type(result.get("category_id")) is not int:
        return False
    if "bbox" in result:
        box = result["bbox"]
        if type(box) is not list or len(box) != 4 or not {*map(type, box)} <= {int, float}:
            return False
    if "segmentation" in result:
        mask = result["segmentation"]
        if type(mask) is not dict or type(mask.get("counts")) is not str or "size" not in mask:
            return False
    return "bbox" in result or "segmentation" in result


def _is_number(value: Any, *types: type) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _umask() -> int:
    """The umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
