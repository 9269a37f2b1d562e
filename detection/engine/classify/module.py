"""Lightning's module for a classifier: steps of training and evaluation, and logged metrics.

Training logs ``train/loss``. Validation logs ``val/loss``, ``val/top1``, ``val/class_mean`` and, for more than five
classes, ``val/top5``; a test logs the same with ``test/``. For images with several classes, validation logs
``val/loss``, ``val/mAP``, ``val/F1``, ``val/class_mean_F1`` and ``val/exact``.

B images   K classes
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

import backbones.fast
from backbones.classifiers import Classifier, ClassifierConfig, build_classifier
from detection.checkpoint import check_weights, plain
from detection.classifier_description import describe_classifier, restored
from detection.classifier_files import without_prefix
from detection.data.labelled_dataset import LabelledBatch, random_numbers
from detection.engine.checks import check_same_settings
from detection.engine.classify.report import write_report
from detection.engine.data_of import data_of
from detection.engine.errors import user_input
from detection.engine.optim import OptimizerConfig
from detection.engine.resumable_module import ResumableModule
from detection.engine.schedule import ScheduleConfig
from detection.evaluation.classification import ClassificationEvaluator
from detection.evaluation.multi_label import MultiLabelEvaluator
from detection.evaluation.percent import percent
from detection.evaluation.ranks import states_of_ranks
from detection.wording import plural

if TYPE_CHECKING:
    from detection.engine.classify.datamodule import LabelledDataModule


@dataclass(frozen=True)
class LossConfig:
    """Loss of a classifier, and the mixing of images in training."""

    kind: Literal["cross_entropy", "binary"] = "cross_entropy"
    """cross_entropy: softmax over the classes. binary: one sigmoid for each class (Wightman et al. 2021, section 3)."""
    label_smoothing: float = 0.0
    """Part of a target that is spread over all classes. With data.multi_label, half of it goes to the other answer."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight the loss of an image by the inverse frequency of its class in the training images. With
    data.multi_label, weight the presence of a class by the number of images without it for each image with it."""
    mixup: float = 0.0
    """Parameter alpha of mixup (Zhang et al. 2017); 0: none."""
    cutmix: float = 0.0
    """Parameter alpha of CutMix (Yun et al. 2019); 0: none. With both, each batch gets one of them at random."""
    mixed_are_present: bool = False
    """With kind binary, the target of each class in a mixed image is 1, not its part of the image."""

    def check(self) -> None:
        """Reject invalid settings.

        Raises:
            ValueError: a setting is out of its range.
        """
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"model.loss.label_smoothing {self.label_smoothing} must be from 0 to below 1")
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError(f"model.loss.mixup {self.mixup} and cutmix {self.cutmix} must not be below 0")
        if self.mixed_are_present and self.kind != "binary":
            raise ValueError("model.loss.mixed_are_present needs model.loss.kind binary")


class ClassificationModule(ResumableModule):
    """Train and evaluate a classifier.

    :meth:`setup` builds the classifier, since its classes come from the data module.
    """

    model: Classifier
    class_weights: Tensor | None

    def __init__(
        self,
        classifier: ClassifierConfig = ClassifierConfig(),  # noqa: B008 (frozen)
        loss: LossConfig = LossConfig(),
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        fast: bool = True,
    ) -> None:
        """Check and store the settings; :meth:`setup` builds the classifier.

        Args:
            classifier: Network, initial weights and output layer.
            loss: Loss, label smoothing, class weights and mixing of images.
            optimizer: Optimizer, learning rate and weight decay.
            schedule: Length of the training, and the learning rate over its steps.
            fast: Use the faster forms of the layers, which give the same results up to rounding.

        Raises:
            InputError: the network is unknown, or a setting is invalid.
        """
        super().__init__(optimizer, schedule)
        self.configs = {"classifier": classifier, "loss": loss}
        self.classifier_config, self.loss_config, self.fast = classifier, loss, fast
        self.multi_label = False  # set from the data
        self.evaluators: dict[str, ClassificationEvaluator | MultiLabelEvaluator] = {}  # by split
        self.register_buffer("class_weights", None, persistent=False)
        with user_input():
            loss.check()
            with torch.device("meta"):
                build_classifier(2, replace(classifier, weights=None))

    def setup(self, stage: str) -> None:
        """Build the classifier for the classes of the images."""
        if hasattr(self, "model"):
            return
        data = self.data
        with user_input():
            self.model = build_classifier(len(data.categories), self.classifier_config)
        size = {"crop": data.config.size, "resize": data.config.resize, "interpolation": data.config.interpolation}
        self.model.names, self.multi_label = data.categories.names, data.config.multi_label
        self.model.multi_label = self.multi_label
        self.model.set_preprocessing(replace(self.model.preprocessing, **size))
        if self.loss_config.class_weights == "balanced" and stage == "fit":
            counts = torch.from_numpy(data.images["train"].counts()).float()
            weights = counts.sum() / (len(counts) * counts.clamp(min=1))
            if self.multi_label:
                weights = (len(data.images["train"]) - counts) / counts.clamp(min=1)
            self.class_weights = torch.where(counts > 0, weights, float(self.multi_label))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.fast:
            backbones.fast.convert(self.model)

    @property
    def data(self) -> "LabelledDataModule":
        """The data module of this run."""
        return data_of(self.trainer)  # type: ignore[return-value]  # the data module of a classifier

    @property
    def model_name(self) -> str:
        """Name of the kind of the model, to print."""
        return f"classifier {self.classifier_config.name}"

    def description(self) -> dict[str, Any]:
        """Return settings, classes and preprocessing of the classifier, as plain values for checkpoints."""
        return describe_classifier(self.model)

    def check_model(self, checkpoint: Mapping[str, Any], source: str) -> None:
        """Reject a checkpoint of other classes, of another classifier or of a training with other settings.

        Raises:
            ValueError: the checkpoint does not fit; the message names the difference.
        """
        config, _, names, _, multi_label = restored(checkpoint.get("rcnn"), source)
        if names != self.model.names:
            raise ValueError(f"{source}: has other classes than the images: {_difference(names, self.model.names)}")
        if multi_label != self.multi_label:
            raise ValueError(f"{source}: was trained with data.multi_label {str(multi_label).lower()}; set the same")
        if config.name != self.classifier_config.name:
            raise ValueError(f"{source}: has the network {config.name}, this run {self.classifier_config.name}")
        check_weights(self.model, without_prefix(checkpoint["state_dict"]), source)
        if self.trainer.state.fn == "fit":
            check_same_settings(
                "optimizer", checkpoint.get("optimizer_config", {}), plain(asdict(self.given_optimizer))
            )

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> dict[str, Any]:
        """Return ``loss`` and its ``terms``, which have no gradient."""
        if self.clock is not None:
            self.clock("dense")
        # Not the state of the global generator, so that a resumed run draws the same as an uninterrupted one.
        with random_numbers(self.data.config.seed, self.trainer.current_epoch, batch_idx, self.global_rank):
            images, targets = self._mixed(batch)
            logits = self.model(images)
        loss = self._losses(logits, targets).mean()
        self.log("train/loss", loss.detach())
        return {"loss": loss, "terms": {"loss": loss.detach()}}

    def transfer_batch_to_device(
        self, batch: LabelledBatch, device: torch.device, dataloader_idx: int
    ) -> LabelledBatch:
        """Copy a batch to the device."""
        copied: LabelledBatch = self._copied(dataloader_idx, device)(batch)
        return copied

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        self._evaluation_step(batch, "val")

    def test_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        self._evaluation_step(batch, "test")

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation("test")

    def on_validation_epoch_end(self) -> None:
        self._score("val")
        self._mark_evaluated()

    def on_test_epoch_end(self) -> None:
        self._score("test")

    def _mixed(self, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Return the images (B, C, H, W) and their targets (B, K), mixed by mixup or CutMix."""
        classes, loss = self.model.num_classes, self.loss_config
        kinds = ((v2.MixUp, loss.mixup), (v2.CutMix, loss.cutmix))
        mixes = [kind(num_classes=classes, alpha=alpha) for kind, alpha in kinds if alpha]
        if not mixes or len(batch.labels) < 2:
            return batch.images, self._targets(batch.labels)
        mix = mixes[int(torch.randint(len(mixes), ()))]
        images, targets = mix(batch.images.float(), batch.labels)
        return images, targets

    def _targets(self, labels: Tensor) -> Tensor:
        """Return the targets (B, K) of labels."""
        return labels.float() if self.multi_label else F.one_hot(labels, self.model.num_classes).float()

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each image, (B,), for targets (B, K); they add up to 1, but for several classes."""
        loss, logits = self.loss_config, logits.float()
        shares, targets = targets, (targets > 0).float() if loss.mixed_are_present else targets
        if self.multi_label:
            smooth = targets * (1 - loss.label_smoothing) + loss.label_smoothing / 2
            weights = self.class_weights
            return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights, reduction="none").mean(dim=1)
        smooth = targets * (1 - loss.label_smoothing) + loss.label_smoothing / logits.shape[1]
        if loss.kind == "binary":
            losses = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(dim=1)
        else:
            losses = -(smooth * logits.log_softmax(dim=1)).sum(dim=1)
        return losses if self.class_weights is None else losses * (shares @ self.class_weights)

    def _start_evaluation(self, split: str) -> None:
        kind = MultiLabelEvaluator if self.multi_label else ClassificationEvaluator
        self.evaluators.setdefault(split, kind(self.data.categories.names)).reset()

    def _evaluation_step(self, batch: LabelledBatch, split: str) -> None:
        logits = self.model(batch.images).float()
        if self.loss_config.kind == "binary":
            losses = self._losses(logits, self._targets(batch.labels))
        else:
            losses = F.cross_entropy(logits, batch.labels, reduction="none")
        self.evaluators[split].add(batch.image_ids, batch.labels, logits, losses)

    def _score(self, split: str) -> None:
        evaluator, folder = self.evaluators[split], self.trainer.log_dir  # all ranks must call it
        if (states := states_of_ranks(evaluator.state)) is not None:
            evaluator.merge(states)  # type: ignore[arg-type]  # states of evaluators of the same kind
        metrics = evaluator.evaluate()
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})
        if not self.trainer.is_global_zero or self.trainer.sanity_checking:
            return
        scores = ", ".join(f"{name} {percent(value)}" for name, value in metrics.items() if name != "loss")
        self.print(f"{split}: {scores}, in percent; loss {metrics['loss']:.3f}")
        if folder is not None:
            write_report(Path(folder), split, evaluator.report())


def _difference(theirs: tuple[str, ...] | None, ours: tuple[str, ...] | None) -> str:
    """Return the numbers of classes, and up to three names that only one side has."""
    first, second = theirs or (), ours or ()
    names = ", ".join(sorted({*first} ^ {*second})[:3])
    return f"{len(first)} and {plural(len(second), 'class')}" + (
        f"; only one has {names}" if names else ", in another order"
    )
