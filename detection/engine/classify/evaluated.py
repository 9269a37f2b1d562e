"""Find the images of a split on which to evaluate a classifier."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from backbones.classifiers import Classifier
from detection.data.labelled import LabelledImages, with_classes
from detection.data.labelled_dataset import LabelledDataset
from detection.engine.classify.data_config import Crops, LabelledConfig, LabelledSplit
from detection.engine.classify.datamodule import LabelledDataModule
from detection.engine.configs import load_yaml
from detection.engine.errors import user_input
from detection.wording import plural

KEPT = ("separator", "crops", "val_fraction", "seed", "max_pixels")
"""Settings that the run's own config gives, if there is one."""


def evaluated_images(
    settings: Mapping[str, str], split: str, model: Classifier, run: Path | None
) -> tuple[LabelledDataset, str]:
    """Return the images of a split as the classifier sees them, with its labels, and a line about them.

    Data without a split of this name: those of the run's own training give the images that it held out, other data
    all images.

    Args:
        settings: settings of the data by name, as on the command line: ``{"root": "flowers", "val": "null"}``.
        split: ``train``, ``val`` or ``test``.
        model: the classifier.
        run: folder of its run, if it has one.

    Raises:
        InputError: the images cannot be found, or have a class that the classifier does not have.
    """
    values: dict[str, Any] = {name: load_yaml(value) for name, value in settings.items()}
    own = _settings_of_run(run)
    names = ("train", "val", "test")
    splits = {name: LabelledSplit(**values[name]) if values.get(name) else None for name in names}
    known = {field.name for field in fields(LabelledConfig)}
    made = model.preprocessing
    given = {name: value for name, value in values.items() if name in known and name not in names}
    given |= {name: value for name, value in own.items() if name in KEPT}
    given |= {"size": made.crop, "resize": made.resize, "interpolation": made.interpolation}
    with user_input():
        data = LabelledDataModule(**given, multi_label=model.multi_label)
        images, line = _chosen(data, splits, split, _same_data(own, values))
        if not len(images):
            raise ValueError(f"{values.get('root')}: the split {split} has no images")
        if model.names is not None:
            images = with_classes(images, model.names)
        elif len(images.classes) != model.num_classes:
            raise ValueError(
                f"{images.source}: has {plural(len(images.classes), 'class')}, {model.num_classes} expected"
            )
    return LabelledDataset(images, data.config.transform("val"), data.config.seed, data.config.reading("val")), line


def _chosen(
    data: LabelledDataModule, splits: Mapping[str, LabelledSplit | None], split: str, held_out: bool
) -> tuple[LabelledImages, str]:
    """Return the images of a split, and a line that says which ones they are."""
    given = splits[split]
    apart = any(splits[name] is not None for name in ("val", "test"))
    if given is not None and (apart or not held_out):
        return data.listed(split, given), ""
    whole = splits["train"]
    if whole is None or apart:
        raise ValueError(f"there is no split {split}; give a folder {split}, or another --split")
    if not held_out:
        return data.listed("train", whole), f"The data have no split {split}: all images are evaluated"
    train, val = data.divided(data.listed("train", whole))
    if split == "test":
        raise ValueError("there is no split test; give another --split")
    part = train if split == "train" else val
    return part, f"The data have no split {split}: the images are those that the training of this run had as {split}"


def _settings_of_run(run: Path | None) -> dict[str, Any]:
    """Return the settings of the data of a run, and its seed; empty without a config."""
    path = None if run is None else run / "config.yaml"
    if path is None or not path.is_file():
        return {}
    settings = load_yaml(path.read_text(encoding="utf-8"))
    data = dict(settings.get("data") or {})
    if isinstance(data.get("crops"), Mapping):
        data["crops"] = Crops(**data["crops"])
    return data | {"seed": int(settings.get("seed_everything") or 0)}


def _same_data(own: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Return whether a run trained on these images, and held some of them out."""
    if not own.get("root") or own.get("val") is not None:
        return False
    mine, theirs = own.get("train") or {}, given.get("train") or {}
    places = [
        (Path(root) / part.get("images", "")).resolve() for root, part in ((own["root"], mine), (given["root"], theirs))
    ]
    return places[0] == places[1] and mine.get("annotations", "") == theirs.get("annotations", "")
