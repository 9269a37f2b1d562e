"""timm networks as backbones, such as ``timm/convnextv2_tiny``.

The adapter runs a copy on PyTorch's meta device, which needs no memory, at several image sizes. The run shows the
strides, the channel axis and the parameters that no feature depends on.
"""

import difflib
import re
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.padding import cut_to, pad_to
from backbones.pretrained import check_state, read_weights
from backbones.simple_pyramid import PATCH, SimplePyramid

STRIDES = (4, 8, 16, 32)
PROBES = ((128, 192), (160, 96))
"""Heights and widths of the images that show whether a network accepts any size."""
INNER = re.compile(r"(layer|stage|block|feature|cell|trunk|level)")
"""timm's names for the modules after the stem."""


class TimmBackbone(Backbone):
    """A timm network with features at those of the strides 4, 8, 16 and 32 that it has.

    A plain ViT, which has a single stride, gets a simple pyramid on top.

    Args:
        name: timm's name of the model, without ``timm/``.
        weights: ``imagenet`` (timm's weights for this name), a file in timm's layout, or None (random).
        norm: ``batch``, ``sync`` or ``frozen``.
        drop_path: probability with which training skips the last block; None: timm's default, mostly 0.

    Raises:
        ValueError: timm is not installed or does not know the model. Or the model has features at one stride only,
            accepts images of one size only, or has no stochastic depth.
    """

    def __init__(
        self, name: str, weights: str | None = None, norm: str = "batch", drop_path: float | None = None
    ) -> None:
        super().__init__()
        timm = check_timm_name(name)
        options = _options(timm, name)
        with torch.device("meta"), torch.inference_mode(False):
            probe = timm.create_model(name, **options)
        self.multiple, layout = _any_size(name, probe)
        reached = [_reached(probe, self.multiple, i) for i in range(len(probe.feature_info.channels()))]
        needed = {name for names in reached for name in names} | {name for name, _ in probe.named_buffers()}
        depth = {} if drop_path is None else {"drop_path_rate": drop_path}
        self.body = _create(timm, name, options | depth, weights, needed)
        _remove(self.body, {name for name, _ in probe.named_parameters()}.difference(*reached))
        self._channels_last = layout == "NHWC"
        info = self.body.feature_info
        self.pyramid = SimplePyramid(info.channels()[-1]) if len(info.channels()) == 1 else None
        self.channels = tuple(info.channels()) if self.pyramid is None else self.pyramid.channels
        self.strides = tuple(info.reduction()) if self.pyramid is None else self.pyramid.strides
        config = probe.pretrained_cfg
        self.mean = tuple(255 * value for value in config["mean"])
        self.std = tuple(255 * value for value in config["std"])
        self._stages = _stages(self.body, reached)
        self.body = _with_norm(self.body, norm, name)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        padded = pad_to(images, self.multiple)
        self.check_size(padded)
        features = self.body(padded)
        if self._channels_last:
            features = [x.permute(0, 3, 1, 2) for x in features]
        if self.pyramid is not None:
            features = self.pyramid(features[-1])
        return cut_to(features, images, self.strides)

    def stages(self) -> list[list[nn.Module | nn.Parameter]]:
        """Return the stem, then for each feature map the parts that no earlier map depends on."""
        return [[_part(self.body, name) for name in names] for names in self._stages]

    def layers(self) -> list[list[nn.Module | nn.Parameter]]:
        """Return the layers for layer-wise learning-rate decay; each block of a plain ViT is one layer."""
        blocks = _blocks(self.body)
        if self.pyramid is None or not blocks:
            return self.stages()
        return [self.stages()[0], *([block] for block in blocks)]  # type: ignore[list-item]


def timm_names() -> list[str]:
    """Return the names of timm's models without ``timm/``; an empty list if timm is not installed."""
    try:
        import timm
    except ModuleNotFoundError:
        return []
    return list(timm.list_models())


def check_timm_name(name: str) -> Any:
    """Return the module ``timm``.

    Raises:
        ValueError: timm is not installed, or has no model of this name; the message suggests similar names.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError("backbone timm/...: timm is not installed; run pip install 'rcnn-toolkit[timm]'") from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists its models"
        raise ValueError(f"backbone timm/{name}: timm has no model of this name; {hint}")
    return timm


def _options(timm: Any, name: str) -> dict[str, Any]:
    """Return the arguments with which timm builds the features: for any image size, at the strides of a pyramid."""
    for extra in (
        {"strict_img_size": False},  # Swin
        {"dynamic_img_size": True, "patch_size": PATCH},  # ViT; timm resamples embeddings of other patch sizes
        {"dynamic_img_size": True},
        {},
    ):
        try:
            with torch.device("meta"):
                info = timm.create_model(name, features_only=True, **extra).feature_info
                reductions, places = info.reduction(), info.out_indices
        except TypeError:
            continue
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"backbone timm/{name}: timm cannot extract its features ({_short(error)}); use another model"
            ) from error
        chosen = {r: i for r, i in zip(reductions, places, strict=True) if r in STRIDES}
        plain = set(reductions) == {PATCH}
        if len(chosen) < 2 and not plain:
            raise ValueError(
                f"backbone timm/{name} has features at strides {reductions}; a pyramid needs at least two of "
                f"{STRIDES}. Use another model"
            )
        return {"features_only": True, **extra, "out_indices": (-1,) if plain else tuple(chosen.values())}
    raise ValueError(f"backbone timm/{name}: timm cannot build it as a feature extractor; use another model")


def _any_size(name: str, probe: nn.Module) -> tuple[int, str]:
    """Return the number that image sides must be multiples of, and the layout of the features (NCHW or NHWC).

    Raises:
        ValueError: the network accepts one size only; the message names it.
    """
    size: int = probe.pretrained_cfg["input_size"][-1]  # type: ignore[index, assignment]
    strides = probe.feature_info.reduction()  # type: ignore[operator, union-attr]
    channels = probe.feature_info.channels()  # type: ignore[operator, union-attr]
    problem = ""
    for multiple in (32, size):  # windows of fixed size fit into multiples of the network's default size
        sides = PROBES if multiple == 32 else ((size, 2 * size), (2 * size, size))
        for layout in ("NCHW", "NHWC"):
            axis = 1 if layout == "NCHW" else 3
            try:
                for height, width in sides:
                    for x, stride, count in zip(_run(probe, height, width), strides, channels, strict=True):
                        found = x.shape[axis], *(n for i, n in enumerate(x.shape[1:], 1) if i != axis)
                        wanted = (count, height // stride, width // stride)
                        if found != wanted:
                            raise ValueError(f"it returns {found} instead of {wanted} for {height} x {width}")
                return multiple, layout
            except (RuntimeError, AssertionError, ValueError) as error:
                problem = problem or _short(error)
    raise ValueError(
        f"backbone timm/{name} accepts images of {size} x {size} only ({problem}); detection needs any size. Use a "
        "model of another family; `rcnn backbones list convnext` lists some"
    )


def _run(model: nn.Module, height: int, width: int) -> list[Tensor]:
    return model(torch.empty(2, 3, height, width, device="meta"))  # type: ignore[no-any-return]


@torch.inference_mode(False)
@torch.enable_grad()
def _reached(probe: nn.Module, multiple: int, index: int) -> list[str]:
    """Return the names of the parameters that a feature depends on; works also where gradients are switched off."""
    _run(probe, 2 * multiple, 2 * multiple)[index].sum().backward()
    names = [name for name, parameter in probe.named_parameters() if parameter.grad is not None]
    probe.zero_grad()
    return names


def _create(timm: Any, name: str, options: dict[str, Any], weights: str | None, needed: set[str]) -> Any:
    """Create the network with its weights, after a check: timm silently skips tensors that a file lacks.

    Args:
        needed: names of the parameters and buffers that the features need, as in timm's feature extractor.
    """
    overlay = {}
    if weights not in (None, "imagenet"):
        with torch.device("meta"):
            whole = timm.create_model(name, num_classes=0)
        plain = {_plain_name(name) for name in needed}
        names = {name for name in whole.state_dict() if _plain_name(name) in plain}
        check_state(whole, read_weights(str(weights)), str(weights), names)
        overlay = {"pretrained_cfg_overlay": {"file": weights}}
    try:
        return timm.create_model(name, pretrained=weights is not None, **overlay, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise ValueError(f"backbone.drop_path: timm/{name} has no stochastic depth; leave drop_path out") from None
    except (RuntimeError, OSError) as error:
        if weights is None:
            raise
        raise ValueError(
            f"weights: timm could not load {weights} for timm/{name} ({_short(error)}); give a file, or copy "
            f"timm/{name} from another machine into the cache of the Hugging Face Hub"
        ) from None


def _plain_name(name: str) -> str:
    """Return a name that is the same in the complete network and in timm's feature extractor.

    The feature extractor writes ``stages_0`` where the complete network writes ``stages.0``.
    """
    return name.removeprefix("model.").replace("_", ".")


def _remove(body: nn.Module, unused: set[str]) -> None:
    """Remove the parts that no feature depends on: distributed training rejects parameters without a gradient."""
    for name, module in list(body.named_modules()):
        parameters = {f"{name}.{key}" for key, _ in module.named_parameters()}
        if name and parameters and parameters <= unused:
            parent, _, key = name.rpartition(".")
            setattr(body.get_submodule(parent), key, nn.Identity())
            unused -= parameters
    for name in unused:
        body.get_parameter(name).requires_grad_(False)


def _stages(body: nn.Module, reached: list[list[str]]) -> list[list[str]]:
    """Return the names of modules and parameters of the stem and of each stage.

    A stage holds the parameters that its feature map depends on and no earlier map does.
    """
    tops = [name for name, child in body.named_children() if any(True for _ in child.parameters())]
    if len(tops) == 1:  # another module wraps the network
        tops = [f"{tops[0]}.{name}" for name, _ in body.get_submodule(tops[0]).named_children()]
    inner = next((i for i, name in enumerate(tops) if INNER.search(name.rpartition(".")[2])), 1)
    stem = tuple(f"{name}." for name in tops[: max(1, inner)])
    existing = dict(body.named_parameters())
    parts: list[list[str]] = []
    for i, names in enumerate(reached):
        before = {name for earlier in reached[:i] for name in earlier}
        parts.append([name for name in names if name not in before])
    first = [name for name in parts[0] if name.startswith(stem)]
    parts[0] = [name for name in parts[0] if not name.startswith(stem)]
    blocks = _blocks(body)
    if len(parts) == 1 and blocks:
        inside = {id(p): str(i * 4 // len(blocks)) for i, block in enumerate(blocks) for p in block.parameters()}
        groups: list[list[str]] = [[], [], [], []]
        for name in parts[0]:
            place = inside.get(id(existing[name]))
            (first if place is None else groups[int(place)]).append(name)
        parts = groups
    return [_owners(body, names) for names in (first, *parts)]


def _owners(body: nn.Module, names: list[str]) -> list[str]:
    """Return the modules that hold these parameters; or the parameters, if their module holds others as well."""
    found: dict[str, None] = {}
    for name in names:
        owner = name.rpartition(".")[0]
        inside = {f"{owner}.{key}" for key, _ in body.get_submodule(owner).named_parameters()}
        found[owner if owner and inside <= set(names) else name] = None
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def _part(body: nn.Module, name: str) -> nn.Module | nn.Parameter:
    parent, _, key = name.rpartition(".")
    return getattr(body.get_submodule(parent), key)  # type: ignore[no-any-return]


def _blocks(body: nn.Module) -> list[nn.Module]:
    """Return the blocks of a plain ViT; an empty list for other networks."""
    blocks = getattr(getattr(body, "model", body), "blocks", None)
    return list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else []


def _with_norm(body: nn.Module, norm: str, name: str) -> nn.Module:
    """Replace the batch norms with timm's functions, which keep the activation inside timm's batch norms."""
    if norm == "batch":
        return body
    if norm == "frozen":
        from timm.layers import freeze_batch_norm_2d

        return freeze_batch_norm_2d(body)  # type: ignore[no-any-return]
    if norm == "sync":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(body)  # type: ignore[no-any-return]
    raise ValueError(f"backbone.norm: {norm}; timm/{name} supports batch, sync and frozen only")


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
