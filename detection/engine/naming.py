"""Check the names of metrics in a user's callbacks, and remove their slashes from file names of checkpoints.

Names of metrics contain slashes (``val/bbox/AP``); in a file name, each slash would create a folder.
"""

import difflib
import re
from collections.abc import Sequence

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from detection.engine.errors import InputError
from detection.evaluation.confusion import SCORES
from detection.evaluation.engines import statistics
from detection.evaluation.panoptic import QUALITIES

LOSSES = ("loss", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")
STAGE_LOSSES = ("loss_cls", "loss_box_reg")
"""Losses that a cascade has for each stage."""
FIELD = re.compile(r"\{([^{}:]*)(:[^{}]*)?\}")
"""Pattern of ``{name}`` or ``{name:format}``."""
EXAMPLE = "{epoch}-{val/AP:.3f}"


def metric_names(masks: bool, stages: int = 0, keypoints: bool = False, maps: str | None = None) -> list[str]:
    """Return the names of the metrics of a training that callbacks can use.

    Args:
        masks: the detector has a mask head.
        stages: stages of a cascade; 0 for other detectors.
        keypoints: the detector has a keypoint head.
        maps: ``all`` for a Semantic FPN, ``stuff`` for a Panoptic FPN, None for other detectors.
    """
    losses = list(LOSSES if masks else LOSSES[:-1])
    if stages:
        losses = [name for name in losses if name not in STAGE_LOSSES]
        losses += [f"{name}_stage{number + 1}" for number in range(stages) for name in STAGE_LOSSES]
    losses += ["loss_keypoint"] if keypoints else []
    losses = ["loss"] if maps == "all" else losses
    losses += ["loss_semantic"] if maps else []
    kinds = ["bbox", *(["segm"] if masks else []), *(["keypoints"] if keypoints else [])]
    train = [*losses, "lr", "images_per_second", "data_wait"]
    objects = ["AP", *(f"{kind}/{name}" for kind in kinds for name in statistics(iou_type=kind))]
    val = [*losses, *([] if maps == "all" else objects)]
    val += [f"semantic/{name}" for name in SCORES] if maps else []
    val += [f"panoptic/{name}" for name in QUALITIES] if maps == "stuff" else []
    return [f"train/{name}" for name in train] + [f"val/{name}" for name in val]


def prepare_metric_names(
    callbacks: Sequence[Callback], masks: bool, stages: int = 0, keypoints: bool = False, maps: str | None = None
) -> None:
    """Replace slashes of metric names in file names, and reject misspelt metric names before the training starts.

    ``{epoch}-{val/bbox/AP:.3f}`` becomes ``epoch=3-val_bbox_AP=0.412.ckpt``.

    Args:
        callbacks: callbacks of the user; this function changes their file names.
        masks, stages, keypoints, maps: as for :func:`metric_names`.

    Raises:
        InputError: a name or a file name is wrong; the message suggests a correct one.
    """
    # A callback that is not Lightning's may log metrics with other names.
    ours = all(type(one).__module__.startswith("lightning.") for one in callbacks)
    known = metric_names(masks, stages, keypoints, maps) if ours else []
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor is not None:
            _check_name(f"{type(callback).__name__}: monitor", callback.monitor, known)
        if isinstance(callback, ModelCheckpoint) and callback.filename:
            _settle_file_name(callback, str(callback.filename), known)


def _settle_file_name(callback: ModelCheckpoint, pattern: str, known: Sequence[str]) -> None:
    rest = FIELD.sub("", pattern)
    if "{" in rest or "}" in rest:
        raise InputError(f"ModelCheckpoint: filename {pattern} has an unmatched brace; write {EXAMPLE}")
    if "/" in rest:
        written = FIELD.sub(lambda field: field[0].replace("/", "\0"), pattern).replace("/", "_").replace("\0", "/")
        raise InputError(
            f"ModelCheckpoint: filename {pattern} has a slash outside of braces, which would create folders; write "
            f"{written}, and set a folder with dirpath"
        )
    for field in FIELD.finditer(pattern):
        if field[1] not in ("epoch", "step"):
            _check_name(f"ModelCheckpoint: filename {pattern}: ", field[1], known)
    if callback.auto_insert_metric_name:
        callback.filename = FIELD.sub(lambda field: f"{field[1].replace('/', '_')}={field[0]}", pattern)
        callback.auto_insert_metric_name = False
    numbers = {field[1]: torch.tensor(0.5) for field in FIELD.finditer(pattern)}
    try:
        callback.format_checkpoint_name(numbers | {"epoch": torch.tensor(1), "step": torch.tensor(1)})
    except (ValueError, LookupError) as error:
        raise InputError(f"ModelCheckpoint: filename {pattern}: {error}; write {EXAMPLE}") from error


def _check_name(where: str, name: str, known: Sequence[str]) -> None:
    if not known or name in known:
        return
    alike = {re.sub(r"\W|_", "", one).lower(): one for one in reversed(known)}
    near = difflib.get_close_matches(re.sub(r"\W|_", "", name).lower(), list(alike), n=1, cutoff=0.5)
    hint = f"write {alike[near[0]]}" if near else f"there are {', '.join(known)}"
    raise InputError(f"{where} {name} is no metric of this training; {hint}")
