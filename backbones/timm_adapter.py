"""Any network of timm as a backbone: ``timm/convnextv2_tiny``."""

import difflib
from typing import Any

from torch import Tensor, nn

from backbones.base import Backbone


class TimmBackbone(Backbone):
    """Features of a timm model at strides 4, 8, 16 and 32 (those that it has).

    Raises:
        ValueError: timm is not installed, or has no such model, or the model has no pyramid of features.
    """

    def __init__(self, name: str, pretrained: bool = False, in_channels: int = 3) -> None:
        super().__init__()
        timm = _timm()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise ValueError(f"backbone timm/{name} is unknown to timm; nearest: {', '.join(near) or 'none'}")
        options: dict[str, Any] = {"features_only": True, "pretrained": pretrained, "in_chans": in_channels}
        model = _create(timm, name, options)
        reductions = model.feature_info.reduction()
        chosen = [i for i, reduction in enumerate(reductions) if reduction in (4, 8, 16, 32)]
        if len({reductions[i] for i in chosen}) < 2:
            raise ValueError(f"backbone timm/{name} has features at strides {reductions}; a pyramid needs several")
        self.body: nn.Module = _create(timm, name, {**options, "out_indices": tuple(chosen)})
        info = self.body.feature_info  # type: ignore[union-attr]
        self.channels, self.strides = tuple(info.channels()), tuple(info.reduction())  # type: ignore[union-attr, operator]
        config = getattr(self.body, "pretrained_cfg", None) or model.pretrained_cfg
        self.mean = tuple(255 * value for value in config["mean"])  # type: ignore[assignment]
        self.std = tuple(255 * value for value in config["std"])  # type: ignore[assignment]
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.body(images)
        return tuple(x.permute(0, 3, 1, 2) for x in features) if self._channels_last else tuple(features)

    def stages(self) -> list[nn.Module]:
        return list(self.body.children())


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError("backbone timm/...: timm is not installed; pip install 'rcnn-toolkit[timm]'") from error
    return timm


def _create(timm: Any, name: str, options: dict[str, Any]) -> Any:
    """The model, for images of any size where it can be asked for."""
    for extra in ({"strict_img_size": False}, {"dynamic_img_size": True}, {}):
        try:
            return timm.create_model(name, **options, **extra)
        except TypeError:
            continue
    raise ValueError(f"backbone timm/{name} cannot be built for features")


def timm_names() -> list[str]:
    """Names of timm's models, without ``timm/``; none where timm is not installed."""
    try:
        import timm
    except ModuleNotFoundError:
        return []
    return list(timm.list_models())
