"""Compute COCO average precision, image by image and across processes.

Detections arrive in pixels of the padded batch. The evaluator stores and writes them in pixels of the image file, with
the original IDs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detection.categories import Categories
from detection.coco.keypoints import PIXEL_CENTRE
from detection.coco.rle import mask_areas
from detection.evaluation.engines import choose, is_fast, mean, score, statistics, summarize
from detection.evaluation.found import KEYS, NOTHING, Found, checked_counts, sound_boxes, whole_masks
from detection.evaluation.ground_truth import clean_ground_truth, is_scored
from detection.evaluation.keypoints import from_result, of_class
from detection.evaluation.limits import (
    COCO_LIMITS,
    beyond_limit,
    beyond_limit_of,
    checked_limits,
    limit_lines,
    scored_limits,
)
from detection.evaluation.matching import Matching, Rows, boxes_of_areas
from detection.evaluation.ranks import states_of_ranks
from detection.evaluation.results import check_results
from detection.fast.pasting import encode_masks, rounded_frames
from detection.memory import no_garbage_collection
from detection.ops import boxes as box_ops
from detection.ops.keypoints import rescale_keypoints
from detection.structures import IGNORE, Batch, Detections
from detection.wording import plural


class CocoEvaluator:
    """Collect detections, and score them against the ground truth.

    With hotcoco, :meth:`add` matches images immediately, and :meth:`evaluate` only accumulates. :meth:`evaluate`
    matches the images of result files; with pycocotools it matches all images.

    By default, the score covers only the images that you added, so a partial validation run is scored correctly. With
    ``image_ids="all"`` it covers every image of the ground truth. Use that for a result file, which does not list
    images without detections. If you add an image twice, on one rank or on two, the first time counts.

    The evaluator never scores detections with NaN, infinity or a negative size, and counts them in :attr:`dropped`.
    (pycocotools treats a NaN box as a perfect match.)

    Args:
        ground_truth: a COCO dict (:meth:`Annotations.to_coco`) or a COCO file.
            :func:`~detection.evaluation.ground_truth.clean_ground_truth` checks and repairs it.
        iou_types: "bbox", "segm", "keypoints", or several of them.
        engine: "auto" uses hotcoco if it is installed, else pycocotools. Both give the same numbers.
        image_ids: the images to score: "seen" or "all".
        rounded_frames: paste masks as :func:`~detection.ops.masks.rounded_frames` does.
        max_detections: three increasing limits of detections per class and image. All AP numbers use the largest.
            There is one recall per limit, with the limit in its name, such as AR300. Keypoints have COCO's limit of 20,
            unless the largest limit is not 100.
        keypoint_sigmas: sigma of each keypoint for its OKS; None: COCO's for 17 keypoints, else 0.05.
        pixel_corners: keypoints need no shift by half a pixel to become those of a file; see the config of the
            keypoint head.

    Raises:
        ValueError: the ground truth cannot be scored.

    Example:
        >>> evaluator = CocoEvaluator("instances_val2017.json")  # doctest: +SKIP
        >>> evaluator.add(batch, model(batch.images, batch.sizes))  # doctest: +SKIP
        >>> evaluator.gather()  # doctest: +SKIP
        >>> evaluator.evaluate()["bbox/AP"]  # doctest: +SKIP
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any] | str | Path,
        iou_types: Sequence[str] = ("bbox", "segm"),
        engine: Literal["auto", "hotcoco", "pycocotools"] = "auto",
        image_ids: Literal["seen", "all"] = "seen",
        rounded_frames: bool = False,
        max_detections: Sequence[int] = COCO_LIMITS,
        keypoint_sigmas: Sequence[float] | None = None,
        pixel_corners: bool = False,
    ) -> None:
        if not iou_types or not set(iou_types) <= KEYS.keys():
            raise ValueError(f"iou_types is {iou_types!r}, but must contain bbox, segm or keypoints")
        if image_ids not in ("seen", "all"):
            raise ValueError(f"image_ids is {image_ids!r}, but must be seen or all")
        self.iou_types = tuple(iou_types)
        self.engine = choose(engine)
        self.max_detections = checked_limits(max_detections)
        self.image_ids, self.rounded_frames = image_ids, rounded_frames
        self._truth: dict[str, dict[str, Any]] = {}
        for t in self.iou_types:  # no comprehension, which would be the place that warnings name
            self._truth[t] = clean_ground_truth(ground_truth, t == "segm", t == "keypoints", keypoint_sigmas)
        truth = self._truth["keypoints" if "keypoints" in self.iou_types else self.iou_types[0]]
        self.categories = Categories.from_coco(truth["categories"])
        self._counts = dict(zip(self.categories.ids, (len(s.names) for s in self.categories.skeletons), strict=False))
        self._shift = 0.0 if pixel_corners else PIXEL_CENTRE
        self._sizes = {image["id"]: (image.get("height"), image.get("width")) for image in truth["images"]}
        self.reset()

    def reset(self) -> None:
        """Remove all detections."""
        self._found: dict[str, dict[int, Found]] = {t: {} for t in self.iou_types}
        self._dropped: dict[int, int] = {}
        self._precision: dict[str, np.ndarray] = {}
        # Keypoints are few, and hotcoco's stream would need a dict for each detection.
        fast = [t for t in self.iou_types if t != "keypoints"] if is_fast(self.engine) else []
        self._matching = {
            t: Matching(self._truth[t], t, partial(self._rows, iou_type=t), self.max_detections) for t in fast
        }

    @property
    def dropped(self) -> int:
        """Number of detections that were not scored because of NaN, infinity or a negative size."""
        return sum(self._dropped.values())

    def add(self, batch: Batch, detections: Detections) -> None:
        """Add the detections of a batch; skip filler images (``image_ids`` is IGNORE).

        Args:
            batch: the images that the model received.
            detections: the model's output for them.

        Raises:
            ValueError: the ground truth does not have this image or label, the image has another size, or "segm"
                needs masks and there are none.
        """
        if "segm" in self.iou_types and detections.masks is None:
            raise ValueError("iou_types contains segm, but the detector has no masks; set iou_types to bbox only")
        if "keypoints" in self.iou_types:
            self._check_keypoints(detections)
        detections = detections.cpu()
        sizes, original_sizes = batch.sizes.cpu(), batch.original_sizes.cpu()
        boxes = box_ops.rescale(detections.boxes.double(), sizes, original_sizes)
        clipped = box_ops.clip(boxes, original_sizes).numpy()
        ids = np.asarray(self.categories.ids)
        new = []
        for i, image_id in enumerate(batch.image_ids.tolist()):
            if image_id == IGNORE or self._is_known(image_id):
                continue
            height, width = original_sizes[i].tolist()
            self._check_size(image_id, height, width)
            scores, labels = detections.scores[i].double().numpy(), detections.labels[i].numpy()
            if labels.max(initial=0) >= len(ids):
                raise ValueError(
                    f"the detector returned label {labels.max()}, but the ground truth has only "
                    f"{plural(len(ids), 'category')}; use the annotations that it was trained on"
                )
            real = labels != IGNORE
            sound = sound_boxes(boxes[i].numpy(), scores)
            keep = real & sound
            self._dropped[image_id] = int((real & ~sound).sum())
            scores, categories = scores[keep], ids[labels[keep]]
            if "bbox" in self.iou_types:
                xywh = clipped[i][keep]
                xywh[:, 2:] -= xywh[:, :2]
                self._found["bbox"][image_id] = Found(scores, categories, xywh)
            if "segm" in self.iou_types:
                assert detections.masks is not None
                # Use the unclipped box, because the mask head predicts the mask relative to it.
                masks, frames = detections.masks[i][keep], boxes[i][keep]
                frames = rounded_frames(frames, masks.shape[-1]) if self.rounded_frames else frames
                rles = encode_masks(masks, frames, height, width)
                self._found["segm"][image_id] = Found(
                    scores, categories, [rle["counts"] for rle in rles], mask_areas(rles)
                )
            if "keypoints" in self.iou_types:
                assert detections.keypoints is not None
                size = sizes[i : i + 1], original_sizes[i : i + 1]
                points = rescale_keypoints(detections.keypoints[i : i + 1].double(), *size)[0].numpy()[keep]
                points[..., :2] -= self._shift
                self._found["keypoints"][image_id] = self._of_keypoints(scores, categories, points)
            new.append(image_id)
        if is_fast(self.engine):
            for matching in self._matching.values():
                matching.add(new)

    def add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add COCO result dicts, as :func:`~detection.evaluation.results.read_results` returns them.

        The evaluator scores ``bbox``, ``segmentation`` and ``keypoints`` independently, so they may come from several
        files.

        Raises:
            ValueError: a result is incomplete, its image or category is unknown, or its RLE does not fit the image.
        """
        with no_garbage_collection():
            self._add_results(results)

    def _add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        check_results(results)
        known = set(self.categories.ids)
        groups: dict[str, dict[int, list[tuple[float, int, Any]]]] = {t: {} for t in self.iou_types}
        for index, result in enumerate(results):
            image_id, category_id = result["image_id"], result["category_id"]
            if image_id not in self._sizes:
                raise ValueError(f"result {index}: image {image_id} is not in the ground truth")
            if category_id not in known:
                raise ValueError(f"result {index}: category {category_id} is not in the ground truth")
            for iou_type in self.iou_types:
                if KEYS[iou_type] in result and image_id not in self._found[iou_type]:
                    value = result[KEYS[iou_type]]
                    if iou_type == "keypoints":
                        value = from_result(value, self._counts[category_id], self.categories.keypoints, index)
                    entry = (float(result["score"]), category_id, value)
                    groups[iou_type].setdefault(image_id, []).append(entry)
        whole = whole_masks(groups.get("segm", {}), self._sizes)
        for iou_type, images in groups.items():
            for image_id, entries in images.items():
                scores, categories, values = (list(column) for column in zip(*entries, strict=True))
                score_array, category_array = np.asarray(scores), np.asarray(categories, dtype=np.int64)
                if iou_type == "bbox":
                    xywh = np.asarray(values, dtype=np.float64)
                    keep = sound_boxes(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), score_array)
                    found = Found(score_array[keep], category_array[keep], xywh[keep])
                elif iou_type == "keypoints":
                    points = np.asarray(values, dtype=np.float64)
                    keep = np.isfinite(score_array) & np.isfinite(points).all(axis=(1, 2))
                    found = self._of_keypoints(score_array[keep], category_array[keep], points[keep])
                else:
                    keep = np.isfinite(score_array)
                    counts = [rle["counts"] for rle, sound in zip(values, keep, strict=True) if sound]
                    if image_id not in whole:
                        kept = [rle for rle, sound in zip(values, keep, strict=True) if sound]
                        counts = [checked_counts(image_id, rle, *self._sizes[image_id]) for rle in kept]
                    found = Found(score_array[keep], category_array[keep], counts)
                self._found[iou_type][image_id] = found
                lost = int((~keep).sum())
                self._dropped[image_id] = max(self._dropped.get(image_id, 0), lost)

    def state(self) -> dict[str, Any]:
        """Return the collected detections in a picklable form, for :meth:`merge`."""
        matched = {t: matching.state() for t, matching in self._matching.items()}
        return {"found": self._found, "dropped": self._dropped, "matched": matched}

    def snapshot(self) -> dict[str, Any]:
        """Return what was collected, without copies, for :meth:`merge` after a :meth:`reset`."""
        return {"found": self._found, "dropped": self._dropped, "matched": {}}

    def merge(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Add the states of other evaluators; if several have the same image, the first one counts."""
        for state in states:
            for iou_type in self.iou_types:
                if iou_type in self._matching and iou_type in state["matched"]:
                    self._matching[iou_type].merge(state["matched"][iou_type], self._found[iou_type].keys())
                self._found[iou_type] = {**state["found"][iou_type], **self._found[iou_type]}
            self._dropped = {**state["dropped"], **self._dropped}

    def gather(self) -> None:
        """Exchange the detections of all ranks, so that each rank has all of them; does nothing in one process."""
        if (states := states_of_ranks(self.state)) is not None:
            self.reset()
            self.merge(states)

    def results(self, iou_type: str) -> list[dict[str, Any]]:
        """Return the detections as COCO result dicts, sorted by image ID, ready for ``write_results``.

        The results for "segm" have no ``bbox``. With a ``bbox``, pycocotools would use the area of the box, not of the
        mask, for the size ranges small, medium and large.
        """
        with no_garbage_collection():
            return [result for image_id in sorted(self._found[iou_type]) for result in self._image(image_id, iou_type)]

    def evaluate(self) -> dict[str, float]:
        """Return the COCO metrics of each IoU type, as fractions: "bbox/AP", "bbox/AP50", ..., "keypoints/ARl".

        A metric is NaN if there are no such objects in the ground truth, and 0 if the detector found none of them.
        """
        numbers: dict[str, float] = {}
        for iou_type in self.iou_types:
            values = dict.fromkeys(statistics(self.max_detections, iou_type), float("nan"))
            truth = self.truth(iou_type)
            if truth["images"]:
                precision, recall = self._score(truth, iou_type)
                values = summarize(precision, recall, self.max_detections, iou_type)
                self._precision[iou_type] = precision
            numbers |= {f"{iou_type}/{name}": value for name, value in values.items()}
        return numbers

    def per_class(self, iou_type: str = "bbox") -> list[dict[str, Any]]:
        """Return one row per category of the last :meth:`evaluate`: name, id, AP, AP50, and count (without crowds)."""
        count = dict.fromkeys(self.categories.ids, 0)
        for annotation in self.truth(iou_type)["annotations"]:
            count[annotation["category_id"]] += is_scored(annotation)
        precision = self._precision.get(iou_type, np.full((1, 1, len(self.categories), 1, 1), -1.0))
        precision = precision[:, :, :, 0, -1]  # all areas, most detections: (T, R, K)
        rows = []
        for k, (name, id) in enumerate(zip(self.categories.names, self.categories.ids, strict=True)):
            AP, AP50 = mean(precision[:, :, k]), mean(precision[0, :, k])
            rows.append({"name": name, "id": id, "AP": AP, "AP50": AP50, "count": count[id]})
        return rows

    def truth(self, iou_type: str) -> dict[str, Any]:
        """Return the clean ground truth of the scored images, as a COCO dict."""
        truth = self._truth[iou_type]
        if self.image_ids == "all":
            return truth
        seen = self._found[iou_type]
        return truth | {
            "images": [image for image in truth["images"] if image["id"] in seen],
            "annotations": [a for a in truth["annotations"] if a["image_id"] in seen],
        }

    def beyond_limit(self, iou_type: str, remedy: str) -> list[str]:
        """Return a warning if images have more objects of a class than the limit, and one for detections.

        Args:
            iou_type: "bbox", "segm" or "keypoints".
            remedy: how the user can raise the limit; ``{most}`` stands for the necessary number.
        """
        limit = scored_limits(self.max_detections, iou_type)[-1]
        found = {
            (image_id, category): count
            for image_id, one in self._found[iou_type].items()
            if len(one.scores) > limit
            for category, count in Counter(one.categories.tolist()).items()
        }
        objects = beyond_limit(self.truth(iou_type)["annotations"], limit)
        return limit_lines(iou_type, objects, beyond_limit_of(found, limit), limit, remedy)

    def _score(self, truth: dict[str, Any], iou_type: str) -> tuple[np.ndarray, np.ndarray]:
        if iou_type not in self._matching or not is_fast(self.engine):
            results = [r for id in sorted(self._found[iou_type]) for r in self._image(id, iou_type, whole=True)]
            return score(self.engine, truth, results, iou_type, self.max_detections)
        matching = self._matching[iou_type]
        return matching.scores(image["id"] for image in truth["images"] if image["id"] not in matching.image_ids)

    def _rows(self, image_ids: Sequence[int], iou_type: str) -> Rows:
        """Return the detections of images in the form that :mod:`~detection.evaluation.matching` expects."""
        found = [self._found[iou_type].get(image_id, NOTHING) for image_id in image_ids]
        masks: list[dict[str, Any]] = []
        if iou_type == "segm":
            for image_id, one in zip(image_ids, found, strict=True):
                size = [*self._sizes[image_id]]  # shared by all masks of the image
                masks += [{"size": size, "counts": counts} for counts in one.values]
            known = all(one.areas is not None for one in found)
            areas = np.concatenate([one.areas for one in found]) if known else mask_areas(masks)
            boxes = boxes_of_areas(areas)
        else:
            boxes = np.concatenate([one.values for one in found])
        ids = np.repeat(np.array(image_ids, dtype=np.int64), [len(one.scores) for one in found])
        scores, categories = (np.concatenate([one[k] for one in found]) for k in (0, 1))
        return np.column_stack([ids, categories]), np.column_stack([boxes, scores]), masks

    def _of_keypoints(self, scores: np.ndarray, categories: np.ndarray, points: np.ndarray) -> Found:
        for id, count in self._counts.items():
            points[categories == id] = of_class(points[categories == id], count)
        return Found(scores, categories, points)

    def _check_keypoints(self, detections: Detections) -> None:
        """Raise a ValueError if detections do not have the keypoints of the ground truth."""
        found = 0 if detections.keypoints is None else detections.keypoints.shape[2]
        if found != self.categories.keypoints:
            raise ValueError(
                f"the ground truth has {self.categories.keypoints} keypoints, the detector {found}; use the "
                "annotations that it was trained on, or leave keypoints out of iou_types"
            )

    def _image(self, image_id: int, iou_type: str, whole: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the results of an image; ``whole`` gives all classes as many keypoints as the one with the most."""
        found, size = self._found[iou_type].get(image_id, NOTHING), self._sizes[image_id]
        values = found.values if iou_type == "segm" else found.values.tolist()
        height_width = [*size]  # shared by all masks of the image
        for confidence, category, value in zip(found.scores.tolist(), found.categories.tolist(), values, strict=True):
            if iou_type == "keypoints":
                own = value if whole else value[: self._counts[category]]
                shape: dict[str, Any] = {"keypoints": [number for point in own for number in point]}
            else:
                shape = {"bbox": value} if iou_type == "bbox" else {}
            if iou_type == "segm":
                shape = {"segmentation": {"size": height_width, "counts": value}}
            yield {"image_id": image_id, "category_id": category, "score": confidence, **shape}

    def _is_known(self, image_id: int) -> bool:
        return any(image_id in found for found in self._found.values())

    def _check_size(self, image_id: int, height: int, width: int) -> None:
        if image_id not in self._sizes:
            raise ValueError(f"image {image_id} is not in the ground truth")
        if self._sizes[image_id] not in ((height, width), (None, None)):
            expected = " x ".join(map(str, self._sizes[image_id]))
            raise ValueError(f"image {image_id} is {height} x {width}, but {expected} in the ground truth")
