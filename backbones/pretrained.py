"""Load backbone weights from a file or a download. A tensor that does not fit raises an error; none is skipped."""

import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from backbones import torch_files


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Load weights into a backbone.

    Args:
        model: the backbone.
        name: torchvision's name of the backbone.
        weights: ``imagenet``, or a ``.pth``, ``.pt`` or ``.safetensors`` file in torchvision's layout.

    Raises:
        ValueError: the weights do not exist, cannot be downloaded, or do not fit. The message names keys and a remedy.
    """
    state = imagenet_weights(name) if weights == "imagenet" else read_weights(weights)
    load_state(model, state, weights if weights != "imagenet" else f"ImageNet weights of {name}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict in a file, without running code from it.

    Raises:
        ValueError: the file does not exist, is damaged, holds no state dict, or holds other objects than tensors.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ValueError(f"weights: {path} does not exist; give the path of a state dict, or `imagenet`")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return without_classifier_prefix(load_file(path))
        content = torch_files.read(path)
    except torch_files.DamagedError as error:
        raise ValueError(f"weights: {path}: {error}") from None
    except Exception as error:  # safetensors raises many kinds of exceptions for a broken file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"weights: {path} cannot be read as a file of tensors: {reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not is_state_dict(content):
        raise ValueError(
            f"weights: {path} holds no state dict (a mapping of names to tensors); save model.state_dict() instead"
        )
    return without_classifier_prefix(content)


def without_classifier_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the names of the network, also those of a :class:`~backbones.classifiers.Classifier`.

    Of a checkpoint of :class:`~backbones.simsiam.SimSiam`, leave out projector and predictor, which no other model has.
    """
    for prefix in ("", "model."):
        network, parts = (
            f"{prefix}network.",
            tuple(f"{prefix}{part}." for part in ("network", "projector", "predictor")),
        )
        if any(name.startswith(network) for name in state) and all(name.startswith(parts) for name in state):
            return {name.removeprefix(network): v for name, v in state.items() if name.startswith(network)}
    return dict(state)


def is_state_dict(content: Any) -> bool:
    """Return whether an object is a mapping of names to tensors only."""
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights, from its cache or by download.

    Raises:
        ValueError: torchvision has no weights for this network, or the download failed. The message names the URL and
            the place in the cache.
    """
    from torchvision.models import get_model_weights

    try:
        chosen = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    except ValueError:
        raise ValueError(
            f"weights: torchvision has no ImageNet weights for {name}; leave weights out, or give a file"
        ) from None
    try:
        return dict(chosen.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        cache = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(chosen.url))
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise ValueError(
            f"weights: the download of {chosen.url} failed ({reason}); download it on another machine and put it at "
            f"{cache}, or set weights to None (null in a config) to start from random weights"
        ) from None


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str, needed: Set[str] | None = None) -> None:
    """Load a state dict into a model, by name.

    Args:
        needed: names of the parameters and buffers that the state dict must have; None: all.

    Raises:
        ValueError: as :func:`check_state`.
    """
    model.load_state_dict(check_state(model, state, source, needed), strict=False)


def check_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, needed: Set[str] | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a state dict that a model needs; the model may be on the meta device.

    The state dict may contain a classifier of any shape, which no backbone needs.

    Args:
        needed: as for :func:`load_state`.

    Raises:
        ValueError: a tensor is missing, unknown, has another shape, or holds NaN or Inf.
    """
    whole = model.state_dict()
    own = {key: value for key, value in whole.items() if needed is None or key in needed}
    known = {key: value for key, value in state.items() if key in own}
    unused = ("fc.", "classifier.", "head.", "heads.")
    extra = [k for k in state if k not in whole and not k.startswith(unused) and not k.endswith("num_batches_tracked")]
    missing = [k for k in own if k not in known and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k} {tuple(v.shape)} instead of {tuple(own[k].shape)}" for k, v in known.items() if v.shape != own[k].shape
    ]
    broken = [k for k, v in known.items() if v.is_floating_point() and not v.isfinite().all()]
    for problem, keys in [
        ("lacks", missing),
        ("has unknown", extra),
        ("has another shape of", shapes),
        ("has NaN or Inf in", broken),
    ]:
        if keys:
            listed = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
            raise ValueError(f"weights: {source} {problem} {listed}; use a file for exactly this backbone and norm")
    return known
