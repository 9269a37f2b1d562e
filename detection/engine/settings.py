"""Build the model's settings and the data module as ``rcnn fit`` does, for tools that do not train."""

import warnings
from collections.abc import Sequence

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from detection.engine.datamodule import CocoDataModule
from detection.engine.links import link_data_to_model
from detection.engine.module import DetectionModule
from detection.engine.parser import STRICT, ConfigFile, Parser
from detection.engine.run import RunConfig
from detection.home import settle_home, with_home


def read_settings(arguments: Sequence[str]) -> tuple[DetectionModule, CocoDataModule]:
    """Return the module and the data module of a command line, without building the detector or reading data.

    Args:
        arguments: arguments of ``rcnn fit``: ``--config NAME --data.root FOLDER ...``.

    Raises:
        InputError: a setting is unknown or invalid.
    """
    parser = Parser(**STRICT)
    parser.add_argument("-c", "--config", action=ConfigFile)
    parser.add_lightning_class_args(DetectionModule, "model")
    parser.add_lightning_class_args(CocoDataModule, "data")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_class_arguments(RunConfig, "run")
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    link_data_to_model(parser)
    config = parser.parse_args(with_home(list(arguments)))
    settle_home(config)
    # Without the trainer, which would need the devices.
    wanted = Parser(**STRICT)
    wanted.add_lightning_class_args(DetectionModule, "model")
    wanted.add_lightning_class_args(CocoDataModule, "data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a new name from jsonargparse 4.49 on
        made = wanted.instantiate_classes(Namespace(model=config.model, data=config.data))
    return made.model, made.data
