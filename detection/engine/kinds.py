"""The kinds of models that a command trains: detectors, classifiers, and networks without labels.

A config whose ``model`` has the group ``simsiam`` is of a pretraining without labels, and one with the group
``classifier`` of a classifier; any other is of a detector. A kind has the
module and the data module, and what the command line does for them alone.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from backbones import BackboneConfig
from backbones.classifiers import ClassifierConfig
from detection.classifier_files import classifier_file, handed_over, pretrained_file, taken_by_classifier
from detection.engine.checks import check_combinations, check_random_start, check_trainer, outline
from detection.engine.classify.best_classes import BestClasses
from detection.engine.classify.datamodule import LabelledDataModule, UnlabelledDataModule
from detection.engine.classify.module import ClassificationModule
from detection.engine.datamodule import CocoDataModule
from detection.engine.early_options import is_of_classifier, is_of_pretraining
from detection.engine.first_step import FirstStepMemory
from detection.engine.links import link_data_to_model
from detection.engine.module import DetectionModule
from detection.engine.naming import prepare_metric_names
from detection.engine.parts import BEST, BEST_OF_MAPS, Parts
from detection.engine.pretrain.module import PretrainingModule
from detection.engine.resumable_data import ResumableData
from detection.engine.resumable_module import ResumableModule
from detection.engine.unvalidated import why_unvalidated
from detection.memory import finest_map


class Kind:
    """A kind of models; the methods here fit any kind."""

    module: type[ResumableModule]
    data: type[ResumableData]
    parts = Parts()
    """Callbacks that the kind has."""
    weights: tuple[str, ...]
    """Settings that name initial weights; the first one is of the whole model."""
    noun: str

    def link(self, parser: Any) -> None:
        """Link options whose values follow from others."""
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: int(seed))

    def check(self, config: Any, trains: bool) -> None:
        """Reject settings that contradict each other.

        Args:
            config: settings of a subcommand.
            trains: the subcommand is ``fit``.

        Raises:
            ValueError: a combination is not supported; the message names an alternative.
        """
        check_trainer(config.trainer)

    def monitor(self, built: Any) -> str:
        """Return the metric that determines the best checkpoint.

        Args:
            built: module and data module of a subcommand, as ``model`` and ``data``.
        """
        raise NotImplementedError

    def why_unvalidated(self, config: Any) -> str | None:
        """Return the setting that disables validation; None if the run validates."""
        return why_unvalidated(config)

    def prepare(self, config: Any, built: Any, callbacks: Sequence[Callback]) -> list[Callback]:
        """Check the user's callbacks for a training, and return the kind's own ones."""
        return []


class Detectors(Kind):
    """Faster R-CNN, Mask R-CNN and all other detectors."""

    module, data, noun = DetectionModule, CocoDataModule, "detector"
    weights = ("model.weights", "model.backbone.weights")

    def link(self, parser: Any) -> None:
        """Link options whose values follow from others."""
        parser.link_arguments("model.compile", "data.few_canvases", compute_fn=bool)
        link_data_to_model(parser)
        super().link(parser)

    def check(self, config: Any, trains: bool) -> None:
        """Reject settings that contradict each other."""
        _hand_over(config.model)
        check_combinations(config)
        if trains and (warning := check_random_start(config)):
            rank_zero_warn(warning)

    def monitor(self, built: Any) -> str:
        """Return the metric that determines the best checkpoint."""
        return BEST_OF_MAPS.get(built.data.config.maps, BEST)

    def prepare(self, config: Any, built: Any, callbacks: Sequence[Callback]) -> list[Callback]:
        """Check the names of metrics in the user's callbacks, and keep the memory of the first step."""
        prepare_metric_names(callbacks, outline(built.model.configs))
        return [FirstStepMemory(_finest_map(config))]


class Classifiers(Kind):
    """Image classifiers."""

    module, data, noun = ClassificationModule, LabelledDataModule, "classifier"
    weights = ("model.classifier.weights",)
    parts = Parts(best=BestClasses, pictures=False)

    def check(self, config: Any, trains: bool) -> None:
        """Reject settings that contradict each other, and find the file of the initial weights in a run's folder."""
        super().check(config, trains)
        if config.data.multi_label and config.model.loss.kind != "binary":
            raise ValueError("data.multi_label needs a sigmoid for each class: set --model.loss.kind binary")
        _take_weights(config.model.classifier, "model.classifier")

    def monitor(self, built: Any) -> str:
        """Return the metric that determines the best checkpoint."""
        return "val/mAP" if built.data.config.multi_label else "val/top1"

    def why_unvalidated(self, config: Any) -> str | None:
        """Return the setting that disables validation; None if the run validates."""
        if config.data.val is None and config.data.val_fraction and config.trainer.limit_val_batches != 0:
            return None
        return why_unvalidated(config)


class Pretraining(Kind):
    """Networks that learn from images without labels."""

    module, data, noun = PretrainingModule, UnlabelledDataModule, "pretrained network"
    weights = ("model.network.weights",)
    parts = Parts(pictures=False, report=False)

    def check(self, config: Any, trains: bool) -> None:
        """Reject settings that contradict each other, and find the file of the initial weights in a run's folder."""
        super().check(config, trains)
        _take_weights(config.model.network, "model.network")

    def monitor(self, built: Any) -> str:
        """Return the metric that determines the best checkpoint."""
        return "val/knn"


def kind_of(arguments: Sequence[str]) -> Kind:
    """Return the kind of models of a command line."""
    if is_of_pretraining(arguments):
        return Pretraining()
    return Classifiers() if is_of_classifier(arguments) else Detectors()


def _take_weights(network: Any, group: str) -> None:
    """Set the weights of a network to the file of the run that they name; print what it takes of a pretraining.

    Args:
        network: settings of :class:`~backbones.classifiers.ClassifierConfig`.
        group: their name, for messages.
    """
    given = network.weights
    if given is None:
        return
    if (file := classifier_file(given)) is not None:
        network.weights = str(file)
    elif pretrained_file(given) is not None:
        values = {field.name: network[field.name] for field in fields(ClassifierConfig)}
        changed, line = taken_by_classifier(ClassifierConfig(**values), group)
        network.weights = changed.weights
        rank_zero_info(line)


def _hand_over(model: Any) -> None:
    """Set a detector's backbone to that of another run if its weights name one, and print what it takes."""
    names = [field.name for field in fields(BackboneConfig)]
    given = BackboneConfig(**{name: model.backbone[name] for name in names})
    changed, line = handed_over(given)
    if line is not None:
        for name in ("weights", "mean", "std", "norm"):
            model.backbone[name] = getattr(changed, name)
        rank_zero_info(line)


def _finest_map(config: Any) -> float:
    """Return the bytes of the pyramid's map at stride 4 in training."""
    sides = config.data.short_side
    short = max(sides, default=0) if isinstance(sides, list | tuple) else sides
    data, channels = config.data, config.model.fpn.channels
    return finest_map(data.batch_size, short, data.long_side, channels, str(config.trainer.precision))
