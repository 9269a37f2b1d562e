"""Lightning's module for a pretraining without labels with SimSiam.

Training logs ``train/loss``, from -1 to 1, and ``train/spread`` and ``train/rank``, which show whether the outputs
collapse; see :mod:`backbones.simsiam`.
Validation logs ``val/knn``: the accuracy of a vote of the nearest other validation images, by their labels.

B images   D outputs   C features
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import backbones.fast
from backbones.classifiers import ClassifierConfig
from backbones.simsiam import SimSiam, SimSiamConfig, build_simsiam, rank, simsiam_loss, spread
from detection.checkpoint import check_weights, plain
from detection.classifier_description import describe_pretrained, network_of
from detection.classifier_files import without_prefix
from detection.data.labelled_dataset import LabelledBatch, random_numbers
from detection.engine.checks import check_same_settings
from detection.engine.data_of import data_of
from detection.engine.errors import InputError, user_input
from detection.engine.optim import OptimizerConfig
from detection.engine.resumable_module import ResumableModule
from detection.engine.schedule import ScheduleConfig
from detection.engine.summary import commands_after_pretraining
from detection.engine.trainer import log_interval
from detection.evaluation.percent import percent
from detection.evaluation.probe import leave_one_out
from detection.evaluation.ranks import states_of_ranks
from detection.wording import plural

if TYPE_CHECKING:
    from detection.engine.classify.datamodule import UnlabelledDataModule

COLLAPSED = {"spread": 0.2, "rank": 1.5}
"""Values below which the outputs have collapsed."""
READINGS = 3
"""Logged values in a row below these limits, after which a warning is printed."""


class PretrainingModule(ResumableModule):
    """Pretrain the network of a classifier or detector on images without labels.

    :meth:`setup` builds the network, as its preprocessing comes from the data module.
    """

    model: SimSiam

    def __init__(
        self,
        network: ClassifierConfig = ClassifierConfig(),  # noqa: B008 (frozen)
        simsiam: SimSiamConfig = SimSiamConfig(),  # noqa: B008
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        fast: bool = True,
    ) -> None:
        """Check and store the settings; :meth:`setup` builds the network.

        Args:
            network: Network to pretrain, and its initial weights. Its last layer is replaced.
            simsiam: Projector and predictor.
            optimizer: Optimizer, learning rate and weight decay.
            schedule: Length of the training, and the learning rate over its steps.
            fast: Use the faster forms of the layers, which give the same results up to rounding.

        Raises:
            InputError: the network is unknown, or a setting is invalid.
        """
        super().__init__(optimizer, schedule)
        self.configs = {"network": network, "simsiam": simsiam}
        self.network_config, self.simsiam_config, self.fast = network, simsiam, fast
        self._warned, self._low = False, 0  # logged values in a row that show collapsed outputs
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # ids, labels and features of the evaluated images
        with user_input():
            simsiam.check()
            with torch.device("meta"):
                build_simsiam(replace(network, weights=None), simsiam)

    def setup(self, stage: str) -> None:
        """Build the network."""
        if hasattr(self, "model"):
            return
        data = self.data
        with user_input():
            self.model = build_simsiam(self.network_config, self.simsiam_config)
        size = {"crop": data.config.size, "resize": data.config.resize, "interpolation": data.config.interpolation}
        self.model.set_preprocessing(replace(self.model.preprocessing, **size))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.fast:
            backbones.fast.convert(self.model)

    @property
    def data(self) -> "UnlabelledDataModule":
        """The data module of this run."""
        return data_of(self.trainer)  # type: ignore[return-value]  # the data module of a pretraining

    @property
    def model_name(self) -> str:
        """Name of the kind of the model, to print."""
        return f"SimSiam with {self.network_config.name}"

    def description(self) -> dict[str, Any]:
        """Return the settings of the network and its preprocessing, as plain values for checkpoints."""
        return describe_pretrained(self.model)

    def next_commands(self, folder: Path) -> dict[str, str]:
        """Return commands that a user may run next: give the network to a detector or classifier, or probe it."""
        return commands_after_pretraining(folder, self.network_config)

    def check_model(self, checkpoint: Mapping[str, Any], source: str) -> None:
        """Reject a checkpoint of another network, or of a training with other settings.

        Raises:
            ValueError: the checkpoint does not fit; the message names the difference.
        """
        config, _ = network_of(checkpoint.get("rcnn"), source)
        if config.name != self.network_config.name:
            raise ValueError(f"{source}: has the network {config.name}, this run {self.network_config.name}")
        check_weights(self.model, without_prefix(checkpoint["state_dict"]), source)
        if self.trainer.state.fn == "fit":
            given = plain(asdict(self.given_optimizer))
            check_same_settings("optimizer", checkpoint.get("optimizer_config", {}), given)

    def on_fit_start(self) -> None:
        """Reject a batch of one image, of which batch norms cannot learn."""
        super().on_fit_start()
        if (images := self.data.device_batch) < 2:
            raise InputError(f"data.batch_size gives {plural(images, 'image')} per device; SimSiam needs at least 2")

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> dict[str, Any]:
        """Return ``loss`` and its ``terms``, which have no gradient."""
        if self.clock is not None:
            self.clock("dense")
        # Stochastic depth draws the same in a resumed run as in an uninterrupted one.
        with random_numbers(self.data.config.seed, self.trainer.current_epoch, batch_idx, self.global_rank):
            outputs = self.model(*batch.images.unbind(1))
        loss = simsiam_loss(outputs)
        self.log("train/loss", loss.detach())
        if (self.trainer.global_step + 1) % log_interval(self.trainer) == 0:  # reading them synchronises with a GPU
            self._watch({"spread": spread(outputs.z1), "rank": rank(outputs.z1)})
        return {"loss": loss, "terms": {"loss": loss.detach()}}

    def transfer_batch_to_device(
        self, batch: LabelledBatch, device: torch.device, dataloader_idx: int
    ) -> LabelledBatch:
        """Copy a batch to the device."""
        copied: LabelledBatch = self._copied(dataloader_idx, device)(batch)
        return copied

    def on_validation_epoch_start(self) -> None:
        self._seen = []

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        self._seen.append((batch.image_ids.cpu(), batch.labels.cpu(), self.model.features(batch.images).float().cpu()))

    def on_validation_epoch_end(self) -> None:
        ids, labels, features = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        if (states := states_of_ranks(lambda: (ids, labels, features))) is not None:
            ids, labels, features = (torch.cat(parts) for parts in zip(*states, strict=True))
        order = ids.argsort()
        found = leave_one_out(features[order], labels[order])
        accuracy = float((found == labels[order]).float().mean())
        self.log("val/knn", accuracy)
        self._mark_evaluated()
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            self.print(f"val: k-NN accuracy {percent(accuracy)} of {plural(len(ids), 'image')}, in percent")

    def _optimizer(self, lr: float, fused: bool) -> Optimizer:
        """Return the optimizer; the parameters of the predictor have groups of their own if their rate is constant."""
        optimizer = super()._optimizer(lr, fused)
        constant = set(map(id, self.model.predictor.parameters())) if self.simsiam_config.constant_rate else set()
        for group in list(optimizer.param_groups) if constant else ():
            kept, own = ([p for p in group["params"] if (id(p) in constant) is moves] for moves in (False, True))
            group["params"] = kept
            if own:
                optimizer.add_param_group({**group, "params": own, "constant": True})
        return optimizer

    def _factors(self, factor: Callable[[int], float], optimizer: Optimizer) -> list[Callable[[int], float]]:
        """Return the factor of the learning rate at a step, for each group of parameters."""
        return [_one if group.get("constant") else factor for group in optimizer.param_groups]

    def _watch(self, values: Mapping[str, Tensor]) -> None:
        """Log how much the outputs differ; print a warning once if they have collapsed."""
        self.log_dict({f"train/{name}": value for name, value in values.items()})
        found = {name: float(value) for name, value in values.items()}
        self._low = self._low + 1 if any(found[name] < least for name, least in COLLAPSED.items()) else 0
        if self._low == READINGS and self.trainer.is_global_zero and not self._warned:
            self._warned = True
            line = (
                f"warning: step {self.trainer.global_step + 1}: the outputs of all images are nearly equal "
                f"(train/spread {found['spread']:.2f}, train/rank {found['rank']:.2f}): the training has collapsed; "
                "try a lower model.optimizer.lr or a larger data.batch_size"
            )
            print(line, file=sys.stderr, flush=True)


def _one(step: int) -> float:
    return 1.0
