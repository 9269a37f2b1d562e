"""Open the semantic maps of a split, and list its images if no annotation file does."""

from pathlib import Path
from typing import TYPE_CHECKING

from detection.categories import Categories
from detection.coco.annotations import Annotations, annotations_of
from detection.coco.panoptic import read_panoptic
from detection.data.image import shown_size
from detection.data.maps import InstanceMaps, LabelMaps, Maps, PanopticMaps, read_classes
from detection.data.names import listing
from detection.data.signatures import SUFFIXES
from detection.home import with_home
from detection.wording import plural

if TYPE_CHECKING:
    from detection.engine.data_config import DataConfig


def open_maps(config: "DataConfig", name: str, annotations: Annotations) -> Maps:
    """Return the semantic maps of a split.

    Raises:
        FileNotFoundError: files are missing; the message has their number and the first one.
        ValueError: a setting or a file is missing or invalid; the message names a remedy.
    """
    split, root = config.split(name), Path(with_home(config.root))
    assert split is not None
    assert config.maps is not None
    if config.semantic == "instances":
        return InstanceMaps(annotations, config.maps)
    for setting in ("labels", "panoptic") if config.semantic == "panoptic" else ("labels",):
        if getattr(split, setting) is None:
            raise ValueError(f"data.semantic {config.semantic} needs data.{name}.{setting}; set it")
    folder = root / with_home(str(split.labels))
    maps: Maps
    if config.semantic == "panoptic":
        maps = PanopticMaps(annotations, read_panoptic(root / with_home(str(split.panoptic))), folder, config.maps)
    else:
        classes = read_classes(root / with_home(str(config.semantic_classes)), annotations.categories)
        maps = LabelMaps(annotations, folder, classes, config.unlabelled, config.maps)
    if missing := maps.missing():
        counts = f"{len(missing)} of {plural(len(annotations), 'label file is', 'label files are')} missing"
        raise FileNotFoundError(f"{folder}: {counts}, first {missing[0]}; set data.{name}.labels")
    return maps


def only_images(config: "DataConfig", name: str) -> Annotations:
    """Return the images of a split that has no annotation file: those of its panoptic file, or of its folder.

    Raises:
        ValueError: there is no such file, no image, or an image cannot be read.
    """
    split, root = config.split(name), Path(with_home(config.root))
    assert split is not None
    if config.semantic == "panoptic" and split.panoptic is not None:
        file = read_panoptic(root / with_home(split.panoptic))
        return _annotations([dict(one) for one in file.images], file.categories, file.path, config.max_pixels)
    if config.semantic != "labels":
        raise ValueError(f"data.{name}.annotations is not set; give a COCO annotation file")
    folder, path = root / with_home(split.images), root / with_home(str(config.semantic_classes))
    classes, _ = read_classes(path, Categories((), ()))
    images: list[dict[str, object]] = []
    for image in sorted(one for one in listing(str(folder)).files if Path(one).suffix.lower() in SUFFIXES):
        height, width = shown_size(folder / image)
        images.append({"id": len(images) + 1, "file_name": image, "height": height, "width": width})
    if not images:
        raise ValueError(f"{folder}: contains no images; set data.root or data.{name}.images")
    return _annotations(images, classes, path, config.max_pixels)


def _annotations(images: list[dict[str, object]], classes: Categories, path: Path, max_pixels: int) -> Annotations:
    categories: list[dict[str, object]] = [
        {"id": number, "name": name} for number, name in zip(classes.ids, classes.names, strict=True)
    ]
    return annotations_of({"images": images, "annotations": [], "categories": categories}, path, False, max_pixels)
