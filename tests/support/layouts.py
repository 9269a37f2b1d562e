"""Data sets in every layout that :mod:`detection.formats` recognises, and in some that it must reject.

Each function writes one data set of cats and dogs into a folder.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 30, 40
NAMES = ("cat", "dog")
BOX = {"cat": [4.0, 6.0, 12.0, 8.0], "dog": [10.0, 3.0, 20.0, 15.0]}
"""x, y, width, height of the one object of an image."""


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def coco(path: Path, images: Path, count: int = 4, first: int = 0, prefix: str = "") -> None:
    """An annotation file, and its images; cats and dogs by turns."""
    content: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
    }
    for k in range(first, first + count):
        picture(images / prefix / f"{k:03}.png", k)
        size = {"height": HEIGHT, "width": WIDTH}
        content["images"].append({"id": k, "file_name": f"{prefix}{k:03}.png", **size})
        entry = {"id": k, "image_id": k, "category_id": (3, 8)[k % 2], "bbox": BOX[NAMES[k % 2]], "iscrowd": 0}
        content["annotations"].append({**entry, "area": 9})
    text(path, json.dumps(content))


def yolo(images: Path, labels: Path, count: int = 4, first: int = 0) -> None:
    for k in range(first, first + count):
        picture(images / f"{k:03}.png", k)
        x, y, w, h = BOX[NAMES[k % 2]]
        text(labels / f"{k:03}.txt", f"{k % 2} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n")


def voc(images: Path, xml: Path, count: int = 4, first: int = 0, shift: int = 0, source: str = "Unknown") -> None:
    for k in range(first, first + count):
        picture(images / f"{k:03}.jpg", k)
        x, y, w, h = BOX[NAMES[k % 2]]
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + shift, y + shift, x + w, y + h), strict=True)
        box = "".join(f"<{key}>{value:g}</{key}>" for key, value in corners)
        text(
            xml / f"{k:03}.xml",
            f"<annotation><filename>{k:03}.jpg</filename><source><database>{source}</database></source>"
            f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            f"<object><name>{NAMES[k % 2]}</name><bndbox>{box}</bndbox></object></annotation>",
        )


def coco_published(root: Path) -> None:
    coco(root / "annotations/instances_train2017.json", root / "train2017")
    coco(root / "annotations/instances_val2017.json", root / "val2017", 2, 4)
    text(root / "annotations/captions_train2017.json", '{"images": [], "annotations": []}')
    shutil.copy(root / "annotations/instances_train2017.json", root / "annotations/person_keypoints_train2017.json")


def coco_own(root: Path) -> None:
    coco(root / "annotations/instances_train.json", root / "train")
    coco(root / "annotations/instances_val.json", root / "val", 2, 4)


def coco_roboflow(root: Path) -> None:
    coco(root / "train/_annotations.coco.json", root / "train")
    coco(root / "valid/_annotations.coco.json", root / "valid", 2, 4)
    text(root / "README.roboflow.txt", "exported")


def coco_cvat_subsets(root: Path) -> None:
    coco(root / "annotations/instances_Train.json", root / "images/Train")
    coco(root / "annotations/instances_Validation.json", root / "images/Validation", 2, 4)


def coco_yolov5_like(root: Path) -> None:
    coco(root / "annotations/train.json", root / "images/train")
    coco(root / "annotations/val.json", root / "images/val", 2, 4)


def coco_same_names(root: Path) -> None:
    """Frames of two videos have the same names in both splits."""
    coco(root / "train.json", root / "train")
    coco(root / "val.json", root / "val", 2)


def coco_unpacked_twice(root: Path) -> None:
    coco_own(root / "export/my data")
    (root / "__MACOSX").mkdir()


def yolo_ultralytics(root: Path) -> None:
    yolo(root / "images/train", root / "labels/train")
    yolo(root / "images/val", root / "labels/val", 2, 4)
    text(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")


def yolo_roboflow(root: Path) -> None:
    yolo(root / "train/images", root / "train/labels")
    yolo(root / "valid/images", root / "valid/labels", 2, 4)
    names = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n"
    text(root / "data.yaml", names)


def yolo_folders(root: Path) -> None:
    yolo(root / "images/train", root / "labels/train")
    yolo(root / "images/val", root / "labels/val", 2, 4)
    text(root / "classes.txt", "cat\ndog\n")


def yolo_lists(root: Path) -> None:
    yolo(root / "images", root / "labels", 6)
    text(root / "train.txt", "".join(f"./images/{k:03}.png\n" for k in range(4)))
    text(root / "val.txt", "".join(f"./images/{k:03}.png\n" for k in range(4, 6)))
    text(root / "mine.yaml", "train: train.txt\nval: val.txt\nnames: [cat, dog]\n")


def yolo_darknet(root: Path) -> None:
    """As CVAT writes it."""
    yolo(root / "obj_train_data", root / "obj_train_data")
    yolo(root / "obj_valid_data", root / "obj_valid_data", 2, 4)
    text(root / "obj.names", "cat\ndog\n")


def voc_published(root: Path) -> None:
    top = root / "VOCdevkit/VOC2012"
    voc(top / "JPEGImages", top / "Annotations", 6, shift=1, source="The VOC2007 Database")
    text(top / "ImageSets/Main/train.txt", "000\n001\n002\n003\n")
    text(top / "ImageSets/Main/val.txt", "004\n005\n")
    text(top / "ImageSets/Main/trainval.txt", "".join(f"00{k}\n" for k in range(6)))
    text(top / "ImageSets/Main/cat_train.txt", "000 1\n001 -1\n")


def voc_roboflow(root: Path) -> None:
    voc(root / "train", root / "train")
    voc(root / "valid", root / "valid", 2, 4)


def voc_folders(root: Path) -> None:
    voc(root / "images/train", root / "annotations/train")
    voc(root / "images/val", root / "annotations/val", 2, 4)


WITH_VAL = [
    coco_published, coco_own, coco_roboflow, coco_cvat_subsets, coco_yolov5_like, coco_same_names, coco_unpacked_twice,
    yolo_ultralytics, yolo_roboflow, yolo_folders, yolo_lists, yolo_darknet, voc_published, voc_roboflow, voc_folders,
]  # fmt: skip


def coco_cvat(root: Path) -> None:
    coco(root / "annotations/instances_default.json", root / "images/default", 10)


def coco_cvat_flat(root: Path) -> None:
    coco(root / "annotations/instances_default.json", root / "images", 10)


def coco_label_studio(root: Path) -> None:
    coco(root / "result.json", root, 10, prefix="images/")


def coco_beside(root: Path) -> None:
    coco(root / "labels.json", root, 10)


def coco_above(root: Path) -> None:
    coco(root / "mine.json", root / "photos of today", 10)


def coco_annotations_first(root: Path) -> None:
    """No file name is near the begin of the file."""
    coco(root / "mine.json", root / "photos", 10)
    content = json.loads((root / "mine.json").read_text())
    padding = {"annotations": content["annotations"], "info": {"text": "x" * (1 << 20)}}
    text(root / "mine.json", json.dumps(padding | {key: content[key] for key in ("categories", "images")}))


def yolo_label_studio(root: Path) -> None:
    yolo(root / "images", root / "labels", 10)
    text(root / "classes.txt", "cat\ndog\n")
    text(root / "notes.json", '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {}}')


def yolo_side_by_side(root: Path) -> None:
    yolo(root, root, 10)
    text(root / "classes.txt", "cat\ndog\n")


def yolo_without_valid(root: Path) -> None:
    """As Roboflow exports it if all images are for training."""
    yolo(root / "train/images", root / "train/labels", 10)
    text(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: ['cat', 'dog']\n")


def voc_label_img(root: Path) -> None:
    voc(root, root, 10)


def voc_kaggle(root: Path) -> None:
    voc(root / "images", root / "annotations", 10)


def voc_without_lists(root: Path) -> None:
    voc(root / "JPEGImages", root / "Annotations", 10)


WITHOUT_VAL = [
    coco_cvat, coco_cvat_flat, coco_label_studio, coco_beside, coco_above, coco_annotations_first, yolo_label_studio,
    yolo_side_by_side, yolo_without_valid, voc_label_img, voc_kaggle, voc_without_lists,
]  # fmt: skip


def nothing(root: Path) -> None:
    root.mkdir()


def pictures_only(root: Path) -> None:
    picture(root / "a.png")


def strange_folder(root: Path) -> None:
    picture(root / "a\n\x1b[2J/a.png")


def two_formats(root: Path) -> None:
    coco_own(root)
    yolo_ultralytics(root)


def two_training_files(root: Path) -> None:
    coco_own(root)
    shutil.copy(root / "annotations/instances_train.json", root / "annotations/instances_train2017.json")


def two_unnamed_files(root: Path) -> None:
    coco_beside(root)
    shutil.copy(root / "labels.json", root / "others.json")


def images_elsewhere(root: Path) -> None:
    coco_own(root)
    shutil.rmtree(root / "train")


def yolo_without_names(root: Path) -> None:
    yolo(root / "images", root / "labels")


def lvis(root: Path) -> None:
    coco(root / "lvis_v1_train.json", root / "train2017")
    path = root / "lvis_v1_train.json"
    path.write_text(path.read_text().replace("file_name", "coco_url"))


def voc_without_images(root: Path) -> None:
    voc(root / "JPEGImages", root / "Annotations")
    shutil.rmtree(root / "JPEGImages")


def yolo_without_images(root: Path) -> None:
    yolo_ultralytics(root)
    shutil.rmtree(root / "images/train")


def two_yolo_folders(root: Path) -> None:
    yolo_roboflow(root)
    (root / "data.yaml").unlink()
    text(root / "classes.txt", "cat\ndog\n")
    yolo(root / "val/images", root / "val/labels", 2, 8)


def two_voc_folders(root: Path) -> None:
    voc_roboflow(root)
    voc(root / "training", root / "training", 2, 8)


def labelme(root: Path) -> None:
    picture(root / "a.png")
    text(root / "a.json", '{"shapes": [], "imagePath": "a.png"}')


def archive(root: Path) -> None:
    text(root / "my.zip", "PK")


def one_image(root: Path) -> None:
    coco(root / "labels.json", root, 1)


def validation_only(root: Path) -> None:
    coco(root / "annotations/instances_val.json", root / "val")
