"""Backbone weights from a file or by download, loaded by name, and nothing skipped in silence."""

import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from backbones import torch_files


def load_weights(model: nn.Module, name: str, weights: str) -> None:
    """Fill a backbone.

    Args:
        name: of the backbone, as torchvision knows it.
        weights: ``imagenet``, or a ``.pth``, ``.pt`` or ``.safetensors`` file in torchvision's layout.

    Raises:
        ValueError: no such weights, no network, or a file that does not fit; says which keys and what to do.
    """
    state = imagenet_weights(name) if weights == "imagenet" else read_weights(weights)
    load_state(model, state, weights if weights != "imagenet" else f"ImageNet weights of {name}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file; never runs code from it.

    Raises:
        ValueError: no such file, not a file of weights, a damaged one, or one with more than tensors in it.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ValueError(f"weights: no file {path}; give a path to a state dict, or `imagenet`")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch_files.read(path)
    except torch_files.DamagedError as error:
        raise ValueError(f"weights: {path}: {error}") from None
    except Exception as error:  # safetensors raises many kinds for a broken file
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"weights: {path} cannot be read as tensors alone: {reason}") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not is_state_dict(content):
        raise ValueError(f"weights: {path} holds no state dict (a mapping of names to tensors)")
    return dict(content)


def is_state_dict(content: Any) -> bool:
    """Whether this is a mapping of names to tensors, and of nothing else."""
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """torchvision's ImageNet weights, from its cache or by download.

    Raises:
        ValueError: torchvision has none for this network, or it cannot be reached; says which file to put where.
    """
    from torchvision.models import get_model_weights

    try:
        chosen = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    except ValueError:
        raise ValueError(
            f"weights: there are no ImageNet weights for {name}; leave weights out, or give a file"
        ) from None
    try:
        return dict(chosen.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        cache = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(chosen.url))
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise ValueError(
            f"weights: {chosen.url} could not be fetched ({reason}); fetch it elsewhere and put it at {cache}, or give "
            "weights None (null in a config) to begin without"
        ) from None


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str, needed: Set[str] | None = None) -> None:
    """Load by name.

    Args:
        needed: names of the parameters and buffers that a file must have; all of them if None.

    Raises:
        ValueError: as :func:`check_state`.
    """
    model.load_state_dict(check_state(model, state, source, needed), strict=False)


def check_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, needed: Set[str] | None = None
) -> dict[str, Tensor]:
    """What of a state dict is needed by a model, which may lie on the meta device.

    A classifier may be there, in any shape, or not: no backbone needs it.

    Args:
        needed: as for :func:`load_state`.

    Raises:
        ValueError: tensors that are missing, unknown, of another shape, or not finite.
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
        ("has values that are not finite in", broken),
    ]:
        if keys:
            listed = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
            raise ValueError(f"weights: {source} {problem} {listed}; is it a file for this very backbone and norm?")
    return known
