"""Find objects in images with an exported model. Needs numpy, OpenCV, and ONNX Runtime or OpenVINO; no PyTorch.

    python predict.py image.jpg --score 0.5 --save found.jpg

prints a line of JSON per image. ``box`` is x1, y1, x2, y2 in pixels, and ``mask`` a COCO RLE that is not compressed.
``keypoints`` are x, y in pixels, and score. The image shows no masks, and no lines between keypoints.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def load(folder: Path, threads: int) -> Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]:
    """Load the model of a folder, and return a function from its inputs to its outputs."""
    if (folder / "model.xml").is_file():
        import openvino

        precise = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", precise)
        return lambda given: list(compiled(given).values())
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, given)


class Model:
    """The exported model of a folder, on some threads; 0 lets the engine choose."""

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        settings = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        if settings["gate"]["passed"] is not True:
            raise ValueError(f"{folder}: its detections differ from those of the checkpoint, see card.md")
        self.about, info = settings["export"], settings["rcnn"]
        classes = info["categories"] or {}
        self.names = classes.get("names") or [str(k) for k in range(info["num_classes"])]
        self.points = [len(one["keypoints"]) for one in classes.get("skeletons", [])]
        self.preprocessing, self.own = info["preprocessing"], info.get("thresholds")
        self.run = load(Path(folder), threads)

    def limits(self, score: float | str) -> np.ndarray:
        """Return the smallest score of each class; 0.5 for those that the validation data did not have."""
        if score != "model":
            return np.full(len(self.names), score, np.float32)
        if not self.own:
            raise ValueError("the model has no score thresholds; give a number")
        return np.array([0.5 if one is None else one for one in self.own["scores"]], np.float32)

    def outputs(self, image: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
        """Return the values of the model, with boxes and keypoints in pixels of the image, and its resized size."""
        if self.about["preprocess"] == "inside":  # the file resizes the image, and returns boxes in its pixels
            values = self.run({"images": image[None]})
            return dict(zip(self.about["outputs"], (x[0] for x in values), strict=True)), image.shape[:2]
        pixels = self.resized(image)
        (rows, columns, channels), stride = pixels.shape, self.about["stride"]
        canvas = np.zeros((1, channels, -(-rows // stride) * stride, -(-columns // stride) * stride), pixels.dtype)
        canvas[0, :, :rows, :columns] = pixels.transpose(2, 0, 1)
        values = self.run({"images": canvas, "sizes": np.array([[rows, columns]])})
        found = dict(zip(self.about["outputs"], (x[0] for x in values), strict=True))
        x, y, shift = image.shape[1] / columns, image.shape[0] / rows, self.about["keypoint_shift"]
        for name, scale, add in (("boxes", [x, y, x, y], 0.0), ("keypoints", [x, y, 1.0], [shift, shift, 0.0])):
            if name in found:
                found[name] = found[name].astype(np.float64) * scale + add
        return found, (rows, columns)

    def predict(self, image: np.ndarray, score: float | str = 0.5) -> list[dict[str, Any]]:
        """Return the objects of an image (H, W, C), best first; score "model": the thresholds that it holds."""
        height, width = image.shape[:2]
        values = self.outputs(image)[0]
        boxes, scores, labels, found = values["boxes"], values["scores"], values["labels"], []
        kept = np.flatnonzero((labels >= 0) & (scores >= self.limits(score)[labels]))
        if score == "model" and self.own["temperature"]:
            scores = 1 / (1 + (1 / scores.clip(1e-9, 1 - 1e-9) - 1) ** (1 / self.own["temperature"]))
        for k, box in zip(kept, boxes[kept].clip(0, [width, height] * 2), strict=True):
            one = {"name": self.names[labels[k]], "label": int(labels[k]), "score": round(float(scores[k]), 5)}
            one["box"] = [round(float(value), 3) for value in box]
            if "masks" in values:
                one["mask"] = run_lengths(self.pasted(values["masks"][k], boxes[k], height, width))
            if "keypoints" in values:
                points = values["keypoints"][k][: self.points[labels[k]] if self.points else None].tolist()
                one["keypoints"] = [[round(x, 3), round(y, 3), round(s, 5)] for x, y, s in points]
            found.append(one)
        return found

    def resized(self, image: np.ndarray) -> np.ndarray:
        """Resize an image as in training: the shorter side, and a limit of the longer one."""
        height, width = image.shape[:2]
        method, wish, limit = (self.preprocessing[name] for name in ("resize", "short_side", "long_side"))
        if method == "pillow":
            rows, columns = two_steps(height, width, wish, limit)
            from PIL import Image

            return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        factor = min(wish / min(height, width), limit / max(height, width))
        rounding = 0 if method == "tensor" else 0.5
        rows, columns = (max(1, int(side * factor + rounding)) for side in (height, width))
        if method == "tensor":
            image = image.astype(np.float32) / (257 if image.dtype == np.uint16 else 1)
        elif (rows, columns) == (height, width):
            return image
        how = cv2.INTER_AREA if method == "opencv" and 4 * rows * columns < height * width else cv2.INTER_LINEAR
        fours = (image[..., k : k + 4] for k in range(0, image.shape[2], 4))  # as many channels as OpenCV takes
        parts = [cv2.resize(four, (columns, rows), interpolation=how).reshape(rows, columns, -1) for four in fours]
        return np.concatenate(parts, axis=2)

    def pasted(self, mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return a mask (m, m) of probabilities as pixels of the image, (H, W) bool."""
        side = mask.shape[0]
        if self.about["rounded_frames"]:  # as torchvision pastes: whole pixels around the enlarged box
            grown, centre = (box[2:] - box[:2]) * (side + 2) / side, (box[2:] + box[:2]) / 2
            low = np.trunc(centre - grown / 2)
            high = np.maximum(np.trunc(centre + grown / 2) + 1, low + 1)
            inner = (high - low) / (side + 2)
            box = np.concatenate([low + inner, high - inner])
        pixels = np.zeros((height, width), bool)
        (x1, y1), (x2, y2) = box[:2], box[2:]
        left, top = max(0, int(np.floor(x1)) - 1), max(0, int(np.floor(y1)) - 1)
        right, bottom = min(width, int(np.ceil(x2)) + 1), min(height, int(np.ceil(y2)) + 1)
        if right <= left or bottom <= top or x2 <= x1 or y2 <= y1:
            return pixels
        padded = np.pad(mask, 1).astype(np.float64)
        down = between(np.arange(top, bottom) + 0.5, y1, y2, side)
        across = between(np.arange(left, right) + 0.5, x1, x2, side)
        pixels[top:bottom, left:right] = down @ padded @ across.T >= 0.5
        return pixels


def between(points: np.ndarray, low: float, high: float, side: int) -> np.ndarray:
    """Return the weights (points, side + 2) of linear interpolation between the centres of a mask's padded cells."""
    place = (points - low) / (high - low) * side + 0.5
    inside = (place > 0) & (place < side + 1)
    cell = np.clip(np.floor(place).astype(int), 0, side)
    weights = np.zeros((len(points), side + 2))
    weights[np.arange(len(points)), cell] = (1 - (place - cell)) * inside
    weights[np.arange(len(points)), cell + 1] = (place - cell) * inside
    return weights


def two_steps(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Return (height, width) as detectron2 computes them: first the short side, then the limit of the long one."""
    factor = short / min(height, width)
    rows, columns = (float(short), factor * width) if height < width else (factor * height, float(short))
    if max(rows, columns) > long:
        rows, columns = (side * (long / max(rows, columns)) for side in (rows, columns))
    return max(1, int(rows + 0.5)), max(1, int(columns + 0.5))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) as COCO RLE: lengths of runs down the columns, the first of zeros."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    places = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], places, [mask.size]])).tolist()
    return {"size": list(mask.shape), "counts": counts[:-1] if len(counts) > 1 and not counts[-1] else counts}


def read(path: str) -> np.ndarray:
    """Read an RGB image; OpenCV turns it as its EXIF entry says. Raise a ValueError if the file is no image."""
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: is missing or is not an image")
    return np.ascontiguousarray(image[..., ::-1])


def main() -> None:
    """Predict on the images of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--score", default=0.5, help="drop detections with a lower score (default 0.5); or model")
    parser.add_argument("--save", help="write the last image with its boxes to this file")
    options, model = parser.parse_args(), Model(Path(__file__).parent)
    if "boxes" not in model.about["outputs"]:
        parser.error("this model finds no objects; run maps.py, which labels pixels")
    if model.about["channels"] != 3 or model.about["dtype"] == "uint16":
        parser.error("this model does not use 8-bit RGB images; give their pixels to Model.predict")
    for path in options.images:
        image = read(path)
        found = model.predict(image, options.score)
        print(json.dumps({"image": path, "detections": found}))
    if options.save:
        for one in found:
            x1, y1, x2, y2 = (round(value) for value in one["box"])
            cv2.rectangle(image, (x1, y1), (x2, y2), (255, 60, 60), 2)
            for x, y, _ in one.get("keypoints", []):
                cv2.circle(image, (int(x), int(y)), 3, (255, 220, 0), -1)
            cv2.putText(image, one["name"], (x1, y1 + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 60, 60), 1)
        cv2.imwrite(options.save, image[..., ::-1])


if __name__ == "__main__":
    main()
