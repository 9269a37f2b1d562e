"""Classify images with an exported model. Needs numpy, Pillow, and ONNX Runtime or OpenVINO; no PyTorch.

    python predict.py image.jpg --top 3

prints a line of JSON per image: the classes of highest score. If the model gives an image several classes, these are
those with a score of at least ``--score``.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def load(folder: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Load the model of a folder, and return a function from images (B, 3, S, S) uint8 to scores (B, K)."""
    if (folder / "model.xml").is_file():
        import openvino

        precise = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", precise)
        return lambda images: np.array(compiled({"images": images})[1])
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["scores"], {"images": images})[0])


class Model:
    """An exported classifier.

    Args:
        folder: the folder of the export.
        threads: number of threads; 0 lets the engine choose.

    Raises:
        ValueError: the parity gate of the export did not pass.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        settings = json.loads((Path(folder) / "model.json").read_text(encoding="utf-8"))
        if settings["gate"]["passed"] is not True:
            raise ValueError(f"{folder}: its logits differ from those of the checkpoint, see card.md")
        info = settings["rcnn"]
        self.names = info["names"] or [str(k) for k in range(info["num_classes"])]
        self.several, self.preprocessing = info["multi_label"], info["preprocessing"]
        self.run = load(Path(folder), threads)

    def predict(self, image: Image.Image, top: int = 5, score: float = 0.5) -> list[dict[str, Any]]:
        """Return the classes of an image, best first.

        Args:
            image: the image.
            top: number of classes, for a model that gives an image one class.
            score: smallest score, for a model that gives an image several classes.
        """
        scores = self.run(self.prepared(image)[None])[0]
        order = np.argsort(-scores, kind="stable")
        kept = [k for k in order if scores[k] >= score] if self.several else order[:top]
        return [{"name": self.names[k], "label": int(k), "score": round(float(scores[k]), 5)} for k in kept]

    def prepared(self, image: Image.Image) -> np.ndarray:
        """Resize the shorter side, and cut a square from the centre: (3, S, S) uint8."""
        image = image.convert("RGB")
        resize, side = self.preprocessing["resize"], self.preprocessing["crop"]
        short = min(image.size)
        width, height = (resize if one == short else int(resize * one / short) for one in image.size)
        method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        image = image.resize((width, height), method[self.preprocessing["interpolation"]])
        left, top = round((width - side) / 2), round((height - side) / 2)
        return np.ascontiguousarray(np.asarray(image)[top : top + side, left : left + side].transpose(2, 0, 1))


def main() -> None:
    """Classify the images of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--top", type=int, default=5, help="number of classes of an image (default 5)")
    parser.add_argument("--score", type=float, default=0.5, help="for several classes per image (default 0.5)")
    options = parser.parse_args()
    model = Model(Path(__file__).parent)
    for path in options.images:
        image = ImageOps.exif_transpose(Image.open(path))
        print(json.dumps({"image": path, "classes": model.predict(image, options.top, options.score)}))


if __name__ == "__main__":
    main()
