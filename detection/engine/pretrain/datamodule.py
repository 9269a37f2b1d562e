"""Lightning's data module for a pretraining without labels: two views of each image; labels only for validation."""

import inspect
from pathlib import Path
from typing import Any

from detection.coco.annotations import load_annotations
from detection.data.labelled import LabelledImages, from_coco
from detection.data.multi_labelled import from_coco_images
from detection.data.unlabelled import from_folder, without_labels
from detection.engine.classify.data_config import Crops, LabelledSplit
from detection.engine.classify.datamodule import LabelledDataModule
from detection.engine.pretrain.data_config import UnlabelledConfig, UnlabelledSplit
from detection.engine.resumable_data import ResumableData
from detection.home import with_home
from detection.wording import plural


class UnlabelledDataModule(LabelledDataModule):
    """Provide two views of each image, in batches (B, 2, 3, H, W), to a trainer.

    Example:
        >>> data = UnlabelledDataModule("photos", size=64, resize=72, batch_size=8)
        >>> data.config.crops is None
        True
    """

    __signature__ = inspect.signature(UnlabelledConfig)

    def __init__(self, *settings: Any, **named: Any) -> None:
        """Check and store the settings; :meth:`setup` reads the lists of images.

        Args:
            settings, named: arguments of :class:`~detection.engine.pretrain.data_config.UnlabelledConfig`.

        Raises:
            InputError: a setting is invalid.
        """
        ResumableData.__init__(self)
        self._begin(UnlabelledConfig(*settings, **named))

    def read(self, names: tuple[str, ...]) -> None:
        """Read the lists of images of splits, unless they have been read before.

        Raises:
            ValueError: a folder or file is missing or wrong, or the images for validation have fewer than two classes.
        """
        config = self.config
        if "test" in names:
            raise ValueError("a pretraining has no test; run rcnn backbones probe RUN --data DATA")
        if "train" not in self.images:
            self.images["train"] = self.unlabelled(config.train)
        if "val" in names and "val" not in self.images and config.val is not None:
            self.images["val"] = self.labelled(config.val)

    def unlabelled(self, given: UnlabelledSplit) -> LabelledImages:
        """Return the images or crops of a split, without labels.

        Raises:
            ValueError: a folder or file is missing or wrong.
        """
        config, root = self.config, Path(with_home(self.config.root))
        folder, listed = root / with_home(given.images), root / with_home(given.annotations)
        if not given.annotations:
            if config.crops is not None:
                raise ValueError("data.crops needs the objects of a COCO file; set data.train.annotations")
            return from_folder(folder)
        if listed.suffix.lower() != ".json":
            raise ValueError(f"data.train: {listed} is no COCO file (.json); leave annotations out to take the folder")
        if not listed.is_file():
            raise ValueError(f"data.train: no file {listed}; set data.root or data.train.annotations")
        if not folder.is_dir():
            raise ValueError(f"data.train: no folder of images {folder}; set data.root or data.train.images")
        annotations = load_annotations(listed, max_pixels=config.max_pixels)
        if config.crops is None:
            return without_labels(from_coco_images(annotations, folder))
        return without_labels(from_coco(annotations, folder, config.crops.margin, config.crops.smallest))

    def labelled(self, given: LabelledSplit) -> LabelledImages:
        """Return the images for validation, with their labels.

        Raises:
            ValueError: a folder or file is missing or wrong, or there are fewer than two classes.
        """
        config = self.config
        crops = config.crops or Crops()
        images = LabelledDataModule(root=config.root, crops=crops, max_pixels=config.max_pixels).listed("val", given)
        if len(images.classes) < 2:
            raise ValueError(
                f"{images.source}: has {plural(len(images.classes), 'class')}, and the k-NN accuracy needs two; set "
                "data.val null"
            )
        return images
