"""Label every pixel of images with an exported model. Needs numpy, OpenCV, and ONNX Runtime or OpenVINO; no PyTorch.

    python maps.py image.jpg --labels labels.png --segments segments.png

prints a line of JSON per image: the share of the pixels of each class and, of a Panoptic FPN, its segments. The options
write the maps of the last image: the number of the class of each pixel, or of its segment.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from predict import Model, read  # type: ignore[import-not-found]  # beside this file, in the folder


class MapModel(Model):  # type: ignore[misc]
    """An exported model with a semantic head."""

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        super().__init__(folder, threads)
        model = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))["rcnn"]["model"]
        self.settings, self.finds_objects = model["semantic_head"], "boxes" in self.about["outputs"]
        stuff = self.settings["stuff"] or ["background"]
        self.labels = ["things", *stuff] if self.finds_objects else self.names

    def maps(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, list[dict[str, Any]]]:
        """Return the class of each pixel, its segment, and the list of segments; None and none of a Semantic FPN."""
        values, size = self.outputs(image)
        stride = self.about["stride"]
        factor = -(-size[0] // stride) * stride // values["semantic"].shape[1]
        semantic = label_map(values["semantic"], factor, size, (image.shape[0], image.shape[1]))
        if not self.finds_objects:
            return semantic, None, []
        return semantic, *self.merged(values, semantic)

    def merged(self, values: dict[str, np.ndarray], semantic: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Give each pixel to the best object that covers it, and the rest to stuff."""
        ids = np.zeros(semantic.shape, np.int32)
        segments: list[dict[str, Any]] = []
        for k in np.argsort(-values["scores"], kind="stable"):
            label, score = int(values["labels"][k]), float(values["scores"][k])
            if label < 0 or score < self.settings["score"]:
                continue
            mask = self.pasted(values["masks"][k], values["boxes"][k], *semantic.shape)
            free = mask & (ids == 0)
            area, left = int(mask.sum()), int(free.sum())
            if area and (area - left) / area <= self.settings["overlap"]:
                ids[free] = len(segments) + 1
                name = self.names[label]
                segments.append({"id": len(segments) + 1, "name": name, "isthing": 1, "score": round(score, 5)})
        rest = np.where(ids == 0, semantic, 0)
        for label in np.unique(rest).tolist():
            if label and (rest == label).sum() >= self.settings["stuff_area"]:
                ids[rest == label] = len(segments) + 1
                segments.append({"id": len(segments) + 1, "name": self.labels[label], "isthing": 0})
        areas = np.bincount(ids.ravel(), minlength=len(segments) + 1)
        return ids, [one | {"area": int(areas[one["id"]])} for one in segments]

    def shares(self, semantic: np.ndarray) -> dict[str, float]:
        """Return the fraction of the pixels of each class that occurs, the most frequent first."""
        counts = np.bincount(semantic.ravel(), minlength=len(self.labels)) / semantic.size
        return {self.labels[k]: float(counts[k]) for k in np.argsort(-counts, kind="stable") if counts[k]}


def label_map(logits: np.ndarray, factor: int, size: tuple[int, int], whole: tuple[int, int]) -> np.ndarray:
    """Return the best class of each pixel: enlarge the logits to the canvas, cut the image out, and resize it.

    Args:
        logits: (K, h, w).
        factor: pixels of the canvas per cell.
        size: height, width of the image on the canvas.
        whole: height, width of the image itself.
    """
    best, label = np.full(whole, -np.inf, np.float32), np.zeros(whole, np.uint8)
    for k, one in enumerate(logits):
        canvas = cv2.resize(one, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        now = cv2.resize(canvas[: size[0], : size[1]], whole[::-1], interpolation=cv2.INTER_LINEAR)
        better = now > best
        best[better], label[better] = now[better], k
    return label


def main() -> None:
    """Label the images of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--labels", help="write the class of each pixel of the last image to this PNG")
    parser.add_argument("--segments", help="write the segment of each pixel of the last image to this PNG")
    options = parser.parse_args()
    model = MapModel(Path(__file__).parent)
    if options.segments and not model.finds_objects:
        parser.error("this model has no segments; use --labels")
    for path in options.images:
        semantic, ids, segments = model.maps(read(path))
        print(json.dumps({"image": path, "semantic": model.shares(semantic), "segments": segments}))
    if options.labels:
        cv2.imwrite(options.labels, semantic)
    if ids is not None and options.segments:
        cv2.imwrite(options.segments, ids.astype(np.uint16))


if __name__ == "__main__":
    main()
