"""Reject settings and checkpoints that do not fit together, before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

import backbones
from backbones import BackboneConfig
from detection.categories import Categories
from detection.foreign import shown
from detection.models.build import build_detector, frozen_at_random, learning_norm
from detection.models.detector import Detector


def check_configs(configs: Mapping[str, Any]) -> None:
    """Reject invalid settings of a detector before any data are read.

    Raises:
        ValueError: for example, the backbone is unknown or the anchors do not fit the pyramid.
    """
    backbone: BackboneConfig = configs["backbone"]
    backbones.check_name(backbone.name)
    if backbone.name in backbones.available():  # building a user's own class may have side effects
        _outline({**configs, "backbone": replace(backbone, weights=None)})


def outline(configs: Mapping[str, Any]) -> Detector | None:
    """Build a detector of one class without values, to ask what it predicts and which losses it has.

    A ResNet-18 stands for a backbone that only a user's own code can build.

    Returns:
        The detector on PyTorch's device ``meta``; None if a ResNet-18 does not fit the other settings.
    """
    backbone: BackboneConfig = configs["backbone"]
    if backbone.name in backbones.available():
        return _outline({**configs, "backbone": replace(backbone, weights=None)})
    try:
        return _outline({**configs, "backbone": BackboneConfig("resnet18")})
    except ValueError:
        return None


def _outline(configs: Mapping[str, Any]) -> Detector:
    with torch.device("meta"):
        return build_detector(1, **configs)


def check_combinations(config: Any) -> None:
    """Reject settings that contradict each other, and settings of Lightning that this toolkit does not support.

    Args:
        config: settings of a subcommand.

    Raises:
        ValueError: a combination is not supported; the message names an alternative.
    """
    trainer, model = config.trainer, config.model
    check_trainer(trainer)
    if model.compile == "graphs" and trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"model.compile graphs does not work with trainer.accumulate_grad_batches {trainer.accumulate_grad_batches}"
            ": each batch overwrites the gradients of the previous one; use model.compile true"
        )
    if model.compile and (trainer.sync_batchnorm or "sync" in (model.backbone.norm, model.fpn.norm)):
        raise ValueError(
            "model.compile does not work with norms that are synchronised over devices, since PyTorch does not compile "
            "them; use norm group or frozen"
        )


def check_trainer(trainer: Any) -> None:
    """Reject settings of Lightning's trainer that this toolkit does not support.

    Raises:
        ValueError: a setting is not supported; the message names an alternative.
    """
    if trainer.use_distributed_sampler:
        raise ValueError(
            "trainer.use_distributed_sampler must be false: the toolkit's samplers distribute the images over devices"
        )
    if trainer.overfit_batches:
        raise ValueError("trainer.overfit_batches would replace the samplers; use trainer.limit_train_batches")
    if trainer.accumulate_grad_batches < 1:
        raise ValueError(f"trainer.accumulate_grad_batches {trainer.accumulate_grad_batches} must be at least 1")
    if str(trainer.precision) in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision {trainer.precision} would also round the coordinates of the boxes; use "
            f"{trainer.precision.removesuffix('true')}mixed"
        )


def random_start(backbone: BackboneConfig) -> str | None:
    """Return a message about frozen parts without pretrained weights, with the remedy; None if there are none."""
    frozen = frozen_at_random(backbone)
    if not frozen:
        return None
    return (
        f"model.backbone.weights is null, and {' and '.join(frozen)} would keep random values for the whole training; "
        "give weights (imagenet, or a file), or train all of it with --model.backbone.norm "
        f"{learning_norm(backbone)} --model.backbone.freeze 0"
    )


def check_random_start(config: Any) -> str | None:
    """Reject a training whose frozen parts would keep random weights.

    Args:
        config: settings of ``fit``.

    Returns:
        A warning for a user's own backbone class, which may load weights itself; otherwise None.

    Raises:
        ValueError: frozen parts have no pretrained weights; the message names an alternative.
    """
    if config.get("ckpt_path") or config.model.weights is not None:
        return None
    problem = random_start(config.model.backbone)
    if problem is None or is_own(config.model.backbone):
        return problem and f"{problem}; fine if {config.model.backbone.name} comes with weights"
    raise ValueError(problem)


def is_own(backbone: BackboneConfig) -> bool:
    """Return whether the name of the backbone is the import path of a user's own class."""
    return "." in backbone.name and not backbone.name.startswith("timm/")


def check_same_training(
    checkpoint: Mapping[str, Any], optimizer: Mapping[str, Any], backbone: Mapping[str, Any]
) -> None:
    """Reject a resumed run whose optimizer settings or frozen stages differ from those of the checkpoint.

    The state of the optimizer would not fit.

    Args:
        checkpoint: checkpoint of Lightning; settings that it lacks are not compared.
        optimizer, backbone: settings of this run, as plain values.

    Raises:
        ValueError: a setting differs; the message names it.
    """
    frozen = {"freeze": backbone["freeze"]}
    for part, ours, saved in (
        ("optimizer", optimizer, checkpoint.get("optimizer_config", {})),
        ("backbone", frozen, checkpoint["rcnn"]["model"]["backbone"]),
    ):
        check_same_settings(part, saved, ours)


def check_same_settings(part: str, saved: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Reject a resumed run in which a setting of a part of the model differs from the saved one.

    Raises:
        ValueError: a setting differs; the message names it.
    """
    for key, now in ours.items():
        if saved.get(key, now) != now:
            raise ValueError(
                f"model.{part}.{key} is {now}, and {saved[key]} in the run that is resumed; keep that value, or "
                "start a new run from its weights with --init-from"
            )


def check_categories(theirs: Mapping[str, Sequence[Any]] | None, ours: Categories | None) -> None:
    """Reject a checkpoint whose classes differ from those of the annotations; None: not known, and not compared.

    Raises:
        ValueError: the IDs or names differ; the message lists up to four of them.
    """
    if theirs is None or ours is None:
        return
    names = dict(zip(theirs["ids"], theirs["names"], strict=True)), dict(zip(ours.ids, ours.names, strict=True))
    if names[0] == names[1]:
        return
    lines = [
        f"id {key}: {shown(names[0].get(key, 'none'))} in the checkpoint, {shown(names[1].get(key, 'none'))} in the "
        "annotations"
        for key in sorted({*names[0], *names[1]})
        if names[0].get(key) != names[1].get(key)
    ]
    listed = "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")
    raise ValueError(f"the checkpoint has other classes than the annotations: {listed}")
