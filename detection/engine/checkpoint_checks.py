"""Checks of everything in a checkpoint but the weights, before Lightning uses it.

Lightning copies counters, rates and paths into its objects without a check. A wrong value could raise an obscure error
hours later; these checks raise at once, with a message that names the file.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from backbones.pretrained import is_state_dict
from detection.foreign import shown
from detection.wording import plural

KINDS: dict[str, Any] = {
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "optimizer_config": dict,
    "MixedPrecision": dict,
    "CocoDataModule": dict,
    "LabelledDataModule": dict,
    "UnlabelledDataModule": dict,
    "precision": str,
    "evaluation_due": bool,
    "made_of": dict,
}
"""Type of each entry that Lightning and this toolkit write. Entries may be absent; users' callbacks may add others."""
TENSORS = {SGD: {"momentum_buffer"}, AdamW: {"step", "exp_avg", "exp_avg_sq"}}
"""Tensors that an optimizer keeps for each parameter."""
PLACE = {"epoch": 0, "images": 0, "grouped": 1, "step_images": 1, "accumulated": 1}
"""Numbers that record which images a training has seen, and the smallest value of each."""
DATA_MODULES = ("CocoDataModule", "LabelledDataModule", "UnlabelledDataModule")
LARGEST = 2**53


def check_layout(content: dict[str, Any], source: str) -> None:
    """Check a checkpoint's entries before Lightning uses them; add, in place, entries that a detector's file lacks.

    Raises:
        ValueError: an entry has a wrong type or value, or Lightning before 2.0 wrote the checkpoint.
    """
    for key, wanted in (("state_dict", Mapping), *KINDS.items()):
        if key in content and not _is(content[key], wanted):
            raise ValueError(f"{source}: its entry {key} is a {type(content[key]).__name__}, not a {wanted.__name__}")
    if not is_state_dict(content.get("state_dict", {})):
        raise ValueError(f"{source}: its state_dict must map names to tensors")
    for key in ("epoch", "global_step"):
        _check_number(content.setdefault(key, 0), key, source)
    version = content.setdefault("pytorch-lightning_version", lightning.__version__)
    if not isinstance(version, str) or not re.fullmatch(r"[2-9]\.\d{1,4}(\.\w{1,20})*(\+\w{1,20})?", version):
        raise ValueError(f"{source}: written by Lightning {shown(version)}, which this toolkit does not read")
    for key in ("hyper_parameters", "native_amp_scaling_state"):
        content.pop(key, None)  # Lightning would use them; this toolkit writes none
    for name in DATA_MODULES:
        place = content.get(name)
        if place and not all(_is(place.get(key), int) and place[key] >= least for key, least in PLACE.items()):
            raise ValueError(f"{source}: its {name} must have whole numbers for {', '.join(PLACE)}")
    for name in (*DATA_MODULES, "MixedPrecision"):
        for key, value in content.get(name, {}).items():
            _check_plain(value, f"{name}.{shown(key)}", source)


def check_progress(content: Mapping[str, Any], trainer: Trainer, source: str) -> None:
    """Check the saved states of loops and callbacks against those of this run.

    Raises:
        ValueError: a counter, score or path has a wrong type or value, or the file to resume from holds no training.
    """
    if trainer.state.fn == "fit":
        lacking = [key for key in ("loops", "optimizer_states", "lr_schedulers") if key not in content]
        if lacking:
            raise ValueError(
                f"{source}: holds a detector, but no training to resume (it lacks {', '.join(lacking)}); start a new "
                "run from its weights with --init-from"
            )
    loops = content.get("loops")
    own = {"fit": "fit_loop", "validate": "validate_loop", "test": "test_loop", "predict": "predict_loop"}
    name = own[str(trainer.state.fn.value)]  # type: ignore[union-attr]
    if loops is not None:
        if not isinstance(loops.get(name), dict):
            raise ValueError(f"{source}: its loops lack {name}")
        _check_like(loops[name], getattr(trainer, name).state_dict(), f"loops.{name}", source)
    saved = content.get("callbacks", {})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = saved.get(callback.state_key)
        if state is not None:
            _check_callback(state, callback, source)


def check_optimizers(content: Mapping[str, Any], trainer: Trainer, source: str) -> None:
    """Check the saved states of optimizers and schedules against those of this run.

    Raises:
        ValueError: the number of states, or a parameter, shape, name or rate, does not fit this run.
    """
    states, schedules = content["optimizer_states"], content["lr_schedulers"]
    if len(states) != len(trainer.optimizers) or len(schedules) != len(trainer.lr_scheduler_configs):
        optimizers = plural(len(states), "optimizer")
        raise ValueError(
            f"{source}: has {optimizers} and {plural(len(schedules), 'schedule')}; this run has one of each"
        )
    for number, (state, optimizer) in enumerate(zip(states, trainer.optimizers, strict=True)):
        _check_optimizer(state, getattr(optimizer, "optimizer", optimizer), f"optimizer_states[{number}]", source)
    for number, (state, config) in enumerate(zip(schedules, trainer.lr_scheduler_configs, strict=True)):
        _check_like(state, config.scheduler.state_dict(), f"lr_schedulers[{number}]", source)


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _check_number(value: Any, name: str, source: str) -> None:
    if not _is(value, int | float) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise ValueError(f"{source}: its {name} is {shown(value)}; expected a number of at least 0")


def _check_plain(value: Any, name: str, source: str) -> None:
    """Check that a value consists of numbers of at least 0, strings, booleans and None, also in lists and dicts."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_plain(inner, name, source)
    elif not isinstance(value, bool | str | None):
        _check_number(value, name, source)


def _check_like(saved: Any, own: Any, name: str, source: str) -> None:
    """Check a saved state against a state of this run: only its keys, the same types, and numbers of at least 0.

    Entries may be absent, since older versions wrote fewer.
    """
    if isinstance(own, dict) and isinstance(saved, dict):
        if unknown := [key for key in saved if key not in own]:
            raise ValueError(f"{source}: its {name} has an unknown entry {shown(unknown[0])}")
        for key, value in saved.items():
            _check_like(value, own[key], f"{name}.{key}", source)
    elif isinstance(own, list | tuple) and isinstance(saved, list | tuple):
        if len(saved) != len(own):
            raise ValueError(f"{source}: its {name} has {plural(len(saved), 'entry')} instead of {len(own)}")
        for one, like in zip(saved, own, strict=True):
            _check_like(one, like, name, source)
    elif isinstance(own, int | float) and not isinstance(own, bool):
        _check_number(saved, name, source)
    elif own is None or isinstance(own, bool):
        _check_plain(saved, name, source)
        if isinstance(own, bool) and not isinstance(saved, bool | None):
            raise ValueError(f"{source}: its {name} is {shown(saved)}; expected true or false")
    elif type(saved) is not type(own):
        raise ValueError(f"{source}: its {name} is a {type(saved).__name__}, not a {type(own).__name__}")


def _check_callback(state: Any, callback: Any, source: str) -> None:
    name = f"callbacks.{type(callback).__name__}"
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{source}: its {name} must map names to values")
    if isinstance(callback, ModelCheckpoint):
        _check_scores(state, name, source)
        return
    for key, like in callback.state_dict().items():
        if key in state and isinstance(like, bool | int | float | str):
            _check_like(state[key], like, f"{name}.{key}", source)


def _check_scores(state: dict[str, Any], name: str, source: str) -> None:
    """Check the state of a ``ModelCheckpoint``: the best scores, and paths of files that Lightning may remove."""
    for key, value in state.items():
        if key == "best_k_models":
            good = isinstance(value, dict) and all(isinstance(k, str) and _is_score(v) for k, v in value.items())
        elif key.endswith(("score", "value")):
            good = value is None or _is_score(value)
        else:
            good = value is None or isinstance(value, str | int | float)
        if not good:
            raise ValueError(f"{source}: its {name}.{shown(key)} is {shown(value)}; expected a score or a path")


def _is_score(value: Any) -> bool:
    return isinstance(value, float | int) or (isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex())


def _check_optimizer(saved: Any, optimizer: Optimizer, name: str, source: str) -> None:
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        raise ValueError(f"{source}: its {name} is not the state of an optimizer")
    groups = optimizer.state_dict()["param_groups"]
    if not isinstance(saved.get("param_groups"), list) or len(saved["param_groups"]) != len(groups):
        raise ValueError(f"{source}: its {name} does not have the groups of parameters of this run ({len(groups)})")
    for group, own in zip(saved["param_groups"], groups, strict=True):
        if not isinstance(group, dict) or group.get("params") != own["params"]:
            raise ValueError(f"{source}: its {name} has other parameters than this run")
        _check_like(group, {"initial_lr": 0.0, **own}, f"{name}.param_groups", source)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = next((tensors for kind, tensors in TENSORS.items() if isinstance(optimizer, kind)), None)
    for number, tensors in saved["state"].items():
        if not _is(number, int) or not 0 <= number < len(parameters) or not isinstance(tensors, dict):
            raise ValueError(f"{source}: its {name}.state has an entry {shown(number)} that belongs to no parameter")
        if wanted is not None and tensors and tensors.keys() != wanted:
            raise ValueError(f"{source}: its {name}.state[{number}] must have the tensors {', '.join(sorted(wanted))}")
        for key, value in tensors.items():
            _check_tensor(value, parameters[number], f"{name}.state[{number}].{shown(key)}", source)


def _check_tensor(value: Any, parameter: Tensor, name: str, source: str) -> None:
    """Check that an optimizer's value for a parameter is finite, and one number or of the parameter's shape."""
    if value is None or _is(value, int | float):
        good = value is None or math.isfinite(value)
    elif isinstance(value, Tensor):
        good = value.numel() == 1 or value.shape == parameter.shape
        good = good and bool(value.isfinite().all())
    else:
        good = False
    if not good:
        raise ValueError(f"{source}: its {name} does not fit a parameter of {tuple(parameter.shape)}, or is not finite")
