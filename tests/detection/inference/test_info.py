import pytest
import torch

from detection import Predictor, mask_rcnn, model_info
from detection.models.factories import faster_rcnn


@pytest.mark.parametrize("backbone", ["resnet10", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)])
def test_operations_are_those_of_the_layers(backbone):
    """Counted by hooks on every convolution, of which backbone and pyramid consist here."""
    model = mask_rcnn(backbone, num_classes=2)
    counted = 0

    def count(layer, _, output):
        nonlocal counted
        counted += output.numel() * layer.weight[0].numel()

    parts = [*model.backbone.modules(), *model.fpn.modules()]
    hooks = [part.register_forward_hook(count) for part in parts if isinstance(part, torch.nn.Conv2d)]
    with torch.no_grad():
        model.eval().features(torch.zeros(1, 3, 64, 96), torch.tensor([[64, 96]]))
    for hook in hooks:
        hook.remove()
    assert model_info(model, (64, 96)).multiply_adds == counted


def test_info_counts_the_detector():
    model = faster_rcnn("resnet50", num_classes=80)
    info = model_info(model)
    assert info.kind == "Faster R-CNN"
    assert info.backbone == "resnet50"
    assert info.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert len(info.classes) == 80
    # ResNet-50 takes 4.1 billion multiply-adds for 224 x 224, which is 87 billion here; the pyramid is as large again.
    assert 130e9 < info.multiply_adds < 200e9
    text = str(info)
    assert "and 70 more" in text
    assert f"{info.multiply_adds / 1e9:.1f} billion multiply-adds" in text
    assert model_info(model, (128, 128)).multiply_adds < info.multiply_adds / 50


def test_info_of_a_detector_made_by_hand_leaves_out_what_is_not_known(tiny_model, monkeypatch):
    monkeypatch.setattr(tiny_model, "configs", None)
    info = Predictor(tiny_model).info()
    assert (info.kind, info.backbone, info.multiply_adds) == ("Mask R-CNN", None, None)
    assert "backbone" not in str(info)
    assert info.classes == ("cat", "dog")
