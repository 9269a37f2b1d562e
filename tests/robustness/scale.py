"""An annotation file of COCO's size, and how long reading and checking it takes.

Run ``python tests/robustness/scale.py [IMAGES [OBJECTS]]``; 118,000 and 860,000 are COCO's train2017.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from detection.coco.annotations import load_annotations
from detection.memory import most_resident

POINTS = 25
"""Per polygon, which gives a file as large as COCO's, 450 MB."""


def write_large(path: Path, images: int, objects: int, seed: int = 0) -> None:
    """Images of 480 x 640 with polygons, written piece by piece so that writing needs no memory to speak of."""
    generator = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    with open(path, "w", encoding="utf-8") as file:
        categories = [{"id": i + 1, "name": f"class {i}"} for i in range(80)]
        file.write('{"categories": ' + json.dumps(categories) + ', "images": [')
        for i in range(images):
            entry = {"id": i + 1, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640}
            file.write((", " if i else "") + json.dumps(entry))
        file.write('], "annotations": [')
        owners, labels = generator.integers(1, images + 1, objects), generator.integers(1, 81, objects)
        centres, sides = generator.uniform(100, 380, (objects, 2)), generator.uniform(10, 190, (objects, 2))
        for k in range(objects):
            box = [*(centres[k] - sides[k] / 2).round(2).tolist(), *sides[k].round(2).tolist()]
            polygon = (centres[k] + circle * sides[k] / 2).round(2).ravel().tolist()
            entry = {"id": k + 1, "image_id": int(owners[k]), "category_id": int(labels[k]), "iscrowd": 0}
            entry |= {"area": round(box[2] * box[3], 2), "bbox": box, "segmentation": [polygon]}
            file.write((", " if k else "") + json.dumps(entry))
        file.write("]}")


def main() -> None:
    images, objects = (int(value) for value in [*sys.argv[1:], "118000", "860000"][:2]) if len(sys.argv) != 2 else (
        int(sys.argv[1]), int(sys.argv[1]) * 7)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.json"
        write_large(path, images, objects)
        megabytes = path.stat().st_size / 1e6
        # The largest so far is that of the writing, so little that it does not count.
        before = most_resident() / 1e9
        start = time.process_time()
        annotations = load_annotations(path, need_masks=True)
        passed = time.process_time() - start
        most = most_resident() / 1e9
    assert annotations.num_objects == objects
    print(f"{images} images, {objects} objects, {megabytes:.0f} MB: {passed:.1f} s, {before:.2f} -> {most:.2f} GB")


if __name__ == "__main__":
    main()
