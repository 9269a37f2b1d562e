"""Random damage to a COCO file and to images must give valid data, or an error that names the file.

Run ``python tests/robustness/fuzz.py [FILES [IMAGES [SEED]]]``; 20,000 and 2,000 unless told. A finding is printed with
its seed and stops the run; ``FILES 1`` with that seed shows it again.
"""

import copy
import io
import json
import math
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from detection.coco.annotations import load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.image import read_image
from detection.evaluation.ground_truth import clean_ground_truth
from detection.memory import most_resident

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e300, math.nan, math.inf, -math.inf, 2**31, 2**53 + 1, 2**64,
    10**400, "", "x", "1", "../a.png", "\ud800", "a\0b", [], {}, [[]], [None], [1, 2], {"size": [1, 1], "counts": "0"},
    {"size": [60, 80], "counts": [0, 4800]}, {"size": [60, 80], "counts": "0d"}, [[1, 2, 3, 4, 5, 6]], [math.nan] * 4,
)  # fmt: skip
SECONDS = 10
"""What takes longer than this hangs."""
MAX_PIXELS = 1_000_000
MEGABYTES = 200
"""What the images may add to the memory of the process: 40 bytes for each pixel, and the libraries."""


def small() -> dict[str, Any]:
    """A COCO file with a polygon, an RLE, a crowd and an image without objects."""
    return {
        "info": {"year": 2026},
        "images": [{"id": i, "height": 60, "width": 80, "file_name": f"{i}.png"} for i in (1, 2, 3)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 20, 10], "area": 200.0, "iscrowd": 0,
             "segmentation": [[10, 20, 30, 20, 30, 30, 10, 30]]},
            {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1.5, 2.5, 9, 9], "area": 81, "iscrowd": 0,
             "segmentation": {"size": [60, 80], "counts": [130, 9, 51, 9, 4601]}},
            {"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 80, 60], "area": 4800, "iscrowd": 1,
             "segmentation": {"size": [60, 80], "counts": [0, 4800]}},
        ],
    }  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in nested lists and dicts."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def damaged(chance: random.Random) -> bytes:
    """A COCO file with a few values changed, removed, doubled or exchanged; or with changed bytes."""
    content = small()
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        all_places = places(content)
        path = chance.choice(all_places)
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        key, way = path[-1], chance.random()
        if way < 0.6:
            parent[key] = copy.deepcopy(chance.choice(STRANGE))
        elif way < 0.75:
            del parent[key]
        elif way < 0.9 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            other: Any = content
            for part in chance.choice(all_places):
                try:
                    other = other[part]
                except (KeyError, IndexError, TypeError):
                    break
            parent[key] = copy.deepcopy(other) if len(json.dumps(other, default=str)) < 10_000 else 0
    data = json.dumps(content).encode("utf-8", "surrogatepass")
    if chance.random() < 0.3:
        changed = bytearray(data)
        for _ in range(chance.randint(1, 5)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        data = bytes(changed[: chance.randint(0, len(changed))] if chance.random() < 0.3 else changed)
    return data


def refused(error: ValueError, path: Path) -> str:
    """``refused``, if an error is as it should be.

    Raises:
        AssertionError: it does not name the file, or is too long.
    """
    if str(path) not in str(error) or len(str(error)) > 2000:
        raise AssertionError(f"does not name the file, or is too long: {error}")
    return "refused"


def check_file(path: Path, data: bytes) -> str:
    """Load what can be loaded, up to a batch and to the evaluation's ground truth; ``refused`` or ``sound``.

    Raises:
        Exception: any but a ValueError that names the file is a finding, and so are numbers that are not finite.
    """
    path.write_bytes(data)
    try:
        annotations = load_annotations(path, need_masks=True)
    except ValueError as error:
        return refused(error, path)
    for i in range(len(annotations)):
        boxes, (height, width) = annotations.boxes(i), annotations.sizes[i]
        assert np.isfinite(boxes).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
    data_set = CocoDataset(annotations, path.parent, masks=True)
    samples = []
    for i in range(len(annotations)):
        try:
            samples.append(data_set[i])
        except ValueError as error:
            refused(error, path.parent)
    if samples:
        targets = collate(samples).targets
        assert targets is not None
        assert targets.boxes.isfinite().all()
    # What went past the reader must be ground truth that can be scored.
    clean = clean_ground_truth(annotations.to_coco(), masks=True)
    assert all(math.isfinite(a["area"]) and np.isfinite(a["bbox"]).all() for a in clean["annotations"])
    return "sound"


def damaged_image(chance: random.Random, originals: list[bytes]) -> bytes:
    """An image with changed, missing, doubled or exchanged bytes."""
    data = bytearray(chance.choice(originals))
    for _ in range(chance.randint(1, 6)):
        way, place = chance.random(), chance.randrange(max(1, len(data)))
        if way < 0.5:
            # Half of the damage hits the header.
            place = place % 64 if chance.random() < 0.5 else place
            data[place : place + 1] = bytes([chance.randrange(256)])
        elif way < 0.7:
            del data[place:]
        elif way < 0.85:
            del data[place : place + chance.randint(1, 50)]
        else:
            data[place:place] = chance.randbytes(chance.randint(1, 50))
    return bytes(data)


def check_image(path: Path, data: bytes) -> str:
    """As :func:`check_file`, of one image."""
    path.write_bytes(data)
    try:
        image = read_image(path, (60, 80), max_pixels=MAX_PIXELS)
    except ValueError as error:
        if len(str(error).replace(str(path), "")) > 300 or "\n" in str(error):
            raise AssertionError(f"more than a line: {error}") from error
        return refused(error, path)
    assert image.shape == (60, 80, 3)
    assert image.dtype == np.uint8
    return "sound"


def images() -> list[bytes]:
    """A photo-like picture in each format that is read, and in the forms of each that differ."""
    y, x = np.mgrid[:60, :80]
    picture = np.stack([x * 3, y * 4, (x * y) % 256], axis=-1).astype(np.uint8)
    image = Image.fromarray(picture[..., ::-1])
    suffixes = (".png", ".jpg", ".tif", ".bmp", ".webp", ".ppm", ".ras", ".jp2")
    found = [cv2.imencode(suffix, picture)[1].tobytes() for suffix in suffixes]
    found.append(cv2.imencode(".png", picture.astype(np.uint16) * 257)[1].tobytes())
    forms: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}), ("L", "JPEG", {}), ("P", "GIF", {}),
        ("RGBA", "PNG", {}), ("P", "PNG", {"transparency": 3}), ("1", "PNG", {}), ("RGB", "AVIF", {}),
        ("RGBA", "WEBP", {"lossless": True}), ("RGB", "JPEG2000", {"no_jp2": True}), ("1", "PPM", {}), ("L", "BMP", {}),
    ]  # fmt: skip
    forms += [("RGB", "TIFF", {"compression": way}) for way in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
    forms += [("1", "TIFF", {"compression": way}) for way in ("group3", "group4")]
    forms += [(mode, "TIFF", {}) for mode in ("L", "P", "RGBA", "CMYK", "YCbCr", "I;16")]
    for mode, kind, options in forms:
        file = io.BytesIO()
        image.convert("I" if mode == "I;16" else mode).convert(mode).save(file, kind, **options)
        found.append(file.getvalue())
    return found


def fuzz(folder: Path, number_of_files: int, number_of_images: int, seed: int) -> dict[str, dict[str, int]]:
    """How many were refused and how many were sound; each has a seed of its own.

    Raises:
        AssertionError: a finding, with its seed.
    """
    for i in (1, 2, 3):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((60, 80, 3), np.uint8))
    counts = {kind: {"sound": 0, "refused": 0} for kind in ("files", "images")}
    originals = images()
    for original in originals:  # so that the libraries are there
        check_image(folder / "image.bin", original)
    used = 0
    for kind, number in (("files", number_of_files), ("images", number_of_images)):
        used = held()
        for own in range(seed, seed + number):
            chance = random.Random(own)
            if hasattr(signal, "alarm"):
                signal.alarm(SECONDS)  # ends the process: nothing else interrupts a decoder
            try:
                if kind == "files":
                    result = check_file(folder / "coco.json", damaged(chance))
                else:
                    result = check_image(folder / "image.bin", damaged_image(chance, originals))
            except Exception as error:
                raise AssertionError(f"{kind}, seed {own}: {type(error).__name__}: {error}") from error
            finally:
                if hasattr(signal, "alarm"):
                    signal.alarm(0)
            counts[kind][result] += 1
            if kind == "images" and held() - used > MEGABYTES:
                raise AssertionError(f"{kind}, seed {own}: took {held() - used} MB")
    counts["memory"] = {"MB": held() - used}
    return counts


def held() -> int:
    """Megabytes that this process held at most; 0 where the system does not say."""
    return most_resident() // 10**6 if sys.platform == "linux" else 0


def main() -> None:
    """Fuzz, and print the counts."""
    given = [int(value) for value in sys.argv[1:4]]
    files, pictures, seed = given + [20_000, 2_000, 0][len(given) :]
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(Path(folder), files, pictures, seed)
    print(f"seed {seed}: {counts}")


if __name__ == "__main__":
    main()
