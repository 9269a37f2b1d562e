"""Differences between a resumed run and the run that wrote its checkpoint: images, annotations, augmentation, model.

The run prints a line for each change. Other images, or another order of images, raise an error unless the user allows
them: the run could not continue with the next unseen image.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from detection.checkpoint import plain
from detection.engine.errors import InputError
from detection.engine.progress import begin_epoch
from detection.foreign import shown
from detection.wording import plural

if TYPE_CHECKING:
    from detection.engine.resumable_data import ResumableData

ORDER = ("data.train.images", "data.train.list", "seed_everything")
"""Settings that decide which image is next. Batch size and accumulation do not, since a resumed run counts images."""
NO_CHANGE = ("model.backbone.weights",)
"""Settings that only a new run uses."""


class Changes(Callback):
    """Store the settings and data of a run in each checkpoint, and compare them when the run is resumed.

    Args:
        allowed: continue with other images, from the start of the epoch, instead of raising an error.
    """

    def __init__(self, allowed: bool = False) -> None:
        self._allowed, self._known = allowed, dict[str, Any]()

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            self._known = self._known or ingredients(trainer.datamodule, module)  # type: ignore[attr-defined]
            checkpoint["made_of"] = self._known

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        before = checkpoint.get("made_of")
        if trainer.state.fn != "fit" or not isinstance(before, Mapping):
            return
        self._known = ingredients(trainer.datamodule, module)  # type: ignore[attr-defined]
        found = changes(before, self._known)
        broken = [change for key, change in found.items() if key in ORDER]
        if broken and not self._allowed:
            raise InputError(
                f"{'; '.join(broken)}: the next image is unknown. Use the images and the seed of the checkpoint, start "
                "a new run with --init-from, or restart the epoch with --run.allow_changed_data true"
            )
        for change in found.values():
            module.print(f"Changed since the checkpoint: {change}")
        if broken:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            data.place.restart_epoch(begin_epoch(checkpoint))


def ingredients(data: "ResumableData", module: Any) -> dict[str, Any]:
    """Return the settings of a run, and descriptions of its images, as plain values by the names of the settings."""
    configs = {name: config and asdict(config) for name, config in module.configs.items()}
    found = data.ingredients() | _flat({**configs, "schedule": asdict(module.schedule_config)}, "model")
    return {key: plain(value, key) for key, value in found.items()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return a sentence for each difference, by the name of the setting; ignore settings that only one side has."""
    differing = [key for key in now if key in before and not _same(before[key], now[key]) and key not in NO_CHANGE]
    found = {key: f"{key} is {shown(now[key])}, and was {shown(before[key])}" for key in differing}
    for split in ("train", "val"):
        count, listed, file = (f"data.{split}.{key}" for key in ("images", "list", "annotations"))
        if count in found:
            found[count] = f"data.{split} has {plural(now[count], 'image')}, and had {shown(before[count])}"
            found.pop(listed, None)
        elif listed in found:
            found[listed] = f"data.{split} has other images, or the same images in another order or of other sizes"
        if {count, listed} & found.keys():
            found.pop(file, None)
        elif file in found:
            found[file] = f"data.{split}.annotations has other content, for the same images"
        if split == "val" and {count, listed, file} & found.keys():
            key = next(key for key in (count, listed, file) if key in found)
            found[key] += "; later APs, and the choice of the best checkpoint, do not compare with earlier ones"
    return found


def _same(one: Any, other: Any) -> bool:
    """Return whether two plain values have the same type and are equal; a value from a file may have any type."""
    return type(one) is type(other) and bool(one == other)


def _flat(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return nested settings as a flat dict such as ``{"model.rpn.samples": 256, ...}``."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{name}.{key}") if isinstance(value, Mapping) else {f"{name}.{key}": value}
    return found
