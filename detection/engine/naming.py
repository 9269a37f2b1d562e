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
from detection.models.detector import Detector
from detection.models.mask_forms import iou_types, loss_names
from detection.models.panoptic import PanopticFPN, SemanticFPN, WithSemanticHead

FIELD = re.compile(r"\{([^{}:]*)(:[^{}]*)?\}")
"""Pattern of ``{name}`` or ``{name:format}``."""
EXAMPLE = "{epoch}-{val/AP:.3f}"


def metric_names(model: Detector) -> list[str]:
    """Return the names of the metrics of a detector's training that callbacks can use."""
    losses, kinds = ["loss", *loss_names(model)], iou_types(model)
    objects = ["AP", *(f"{kind}/{name}" for kind in kinds for name in statistics(iou_type=kind))]
    val = [*losses, *([] if isinstance(model, SemanticFPN) else objects)]
    val += [f"semantic/{name}" for name in SCORES] if isinstance(model, WithSemanticHead) else []
    val += [f"panoptic/{name}" for name in QUALITIES] if isinstance(model, PanopticFPN) else []
    train = [*losses, "lr", "images_per_second", "data_wait"]
    return [f"train/{name}" for name in train] + [f"val/{name}" for name in val]


def prepare_metric_names(callbacks: Sequence[Callback], model: Detector | None) -> None:
    """Replace slashes of metric names in file names, and reject misspelt metric names before the training starts.

    ``{epoch}-{val/bbox/AP:.3f}`` becomes ``epoch=3-val_bbox_AP=0.412.ckpt``.

    Args:
        callbacks: callbacks of the user; this function changes their file names.
        model: the detector, possibly without values; None: its metrics are not known, and not checked.

    Raises:
        InputError: a name or a file name is wrong; the message suggests a correct one.
    """
    # A callback that is not Lightning's may log metrics with other names.
    ours = all(type(one).__module__.startswith("lightning.") for one in callbacks)
    known = metric_names(model) if ours and model is not None else []
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
