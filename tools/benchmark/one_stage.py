"""torchvision's RetinaNet and FCOS, and our settings for the same weights."""

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from backbones import BackboneConfig
from detection.convert.settings import DetectorConfig, torchvision_fcos_config, torchvision_retinanet_config

SPREAD = {"cls_logits": 1.5, "bbox_reg": 0.5, "bbox_ctrness": 1.0}
"""Standard deviations to which outputs of an untrained network are scaled, so that it detects 100 objects."""
CLASS_BIAS = -3.0


def peer_and_config(name: str, backbone: str, classes: int) -> tuple[nn.Module, DetectorConfig]:
    """Return torchvision's detector with frozen norms and two frozen stages, and the settings of the same one here."""
    body = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3,
        returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256),
    )  # fmt: skip
    ours = BackboneConfig(backbone, norm="frozen", freeze=2)
    if name == "retinanet":
        return RetinaNet(body, classes + 1), torchvision_retinanet_config(1, ours)
    return FCOS(body, classes + 1), torchvision_fcos_config(ours)


@torch.no_grad()
def spread_answers(model: nn.Module, images: list[Tensor]) -> None:
    """Scale the outputs of an untrained detector like those of a trained one."""
    model.eval()
    heads = model.head.classification_head, model.head.regression_head  # type: ignore[union-attr]
    layers = {name: getattr(head, name) for head in heads for name in SPREAD if hasattr(head, name)}
    for name, layer in layers.items():
        outputs: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _m, _i, out, into=outputs: into.append(out.flatten()))
        model(images)
        hook.remove()
        layer.weight.mul_(SPREAD[name] / torch.cat(outputs).std())
    logits = layers["cls_logits"]
    logits.bias.fill_(CLASS_BIAS)
    per_anchor = logits.bias.view(-1, model.head.classification_head.num_classes)  # type: ignore[union-attr]
    per_anchor[:, 0] = -20.0  # the background, which is none of our classes
    logits.weight.unflatten(0, per_anchor.shape)[:, 0] = 0.0
