"""Classifiers equal torchvision's and timm's with the same weights, and weights are exchanged in both directions."""

import pytest
import torch
from torch import nn
from torchvision import models

from backbones import classifier

OWN = ("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
ADAPTED = (
    "vgg16",
    "vgg11_bn",
    "densenet121",
    "mobilenet_v3_small",
    "efficientnet_v2_s",
    "swin_t",
    "swin_v2_t",
    "vit_b_16",
)
LARGE = ("resnet101", "resnet152", "resnext101_32x8d", "wide_resnet101_2")


def trained(name: str, num_classes: int = 1000) -> nn.Module:
    """Return torchvision's network with random weights, and with statistics unlike those of a new one."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, num_classes=num_classes).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet50", "efficientnet_b0"),
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in (*OWN, *ADAPTED, *LARGE)
            if n not in ("resnet18", "resnet50")
        ),
    ],
)
def test_logits_equal_torchvisions(name, tmp_path):
    theirs = trained(name)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = classifier(name, weights=str(tmp_path / "weights.pth")).eval()
    images = torch.randint(0, 256, (2, 3, 224, 224))
    with torch.inference_mode():
        expected, found = theirs(normalised(images)), ours(images)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    theirs.load_state_dict(ours.network.state_dict())  # raises an error for any other name


def test_number_of_parameters():
    assert sum(p.numel() for p in classifier("resnet50").parameters()) == 25_557_032
    assert sum(p.numel() for p in classifier("resnet18", 10).parameters()) == 11_181_642


@pytest.mark.parametrize("name", ["resnet18", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
def test_other_classes_get_a_new_last_layer(name, tmp_path):
    theirs = trained(name)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = classifier(name, 7, str(tmp_path / "weights.pth"))
    assert (ours.num_classes, ours.last_layer.out_features) == (7, 7)
    state = theirs.state_dict()
    for key, value in ours.network.state_dict().items():
        if not key.startswith(ours.last):
            assert torch.equal(value, state[key]), key


def test_weights_of_a_backbone_without_a_last_layer_fit(tmp_path):
    state = {k: v for k, v in trained("resnet18").state_dict().items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "body.pth")
    ours = classifier("resnet18", 1000, str(tmp_path / "body.pth"))
    assert torch.equal(ours.network.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_weights_with_a_missing_tensor_are_rejected(tmp_path):
    state = {k: v for k, v in trained("resnet18").state_dict().items() if not k.startswith("layer3.0.conv1")}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"lacks layer3\.0\.conv1\.weight"):
        classifier("resnet18", 1000, str(tmp_path / "weights.pth"))


def test_features_are_the_inputs_of_the_last_layer():
    model = classifier("resnet18", 5).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96))
    features = model.features(images)
    assert features.shape == (2, 512)
    assert torch.allclose(model.last_layer(features), model(images))


@pytest.mark.parametrize("name", ["resnet10", "mobilenet_v3_small"])
def test_dropout_acts_in_training_only(name):
    model = classifier(name, 5, dropout=0.5).eval()
    seen = []
    model.last_layer.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0], output)))
    images = torch.randint(0, 256, (2, 3, 64, 64))
    assert torch.equal(model(images), model(images))
    model.last_layer.train()  # only this layer: batch norms would change the features
    torch.manual_seed(0)
    assert not torch.equal(model(images), model(images))
    plain = classifier(name, 5).state_dict()
    assert plain.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet51"}, "unknown backbone 'resnet51'; did you mean resnet50"),
        ({"name": "swin_t", "width": 32}, "width: swin_t does not support this option"),
        ({"num_classes": 0}, "num_classes is 0; a classifier needs at least 1 class"),
        ({"weights": "no.pth"}, "weights: no.pth does not exist"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        classifier(**options)


def test_timm():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    ours = classifier("timm/resnet18", 10).eval()
    theirs = timm.create_model("resnet18", num_classes=10).eval()
    theirs.load_state_dict(ours.network.state_dict())
    assert ours.preprocessing.crop == 224
    images = torch.randint(0, 256, (1, 3, 64, 64))
    with torch.inference_mode():
        assert torch.allclose(ours(images), theirs((images - ours.mean) / ours.std), atol=1e-5)
    with pytest.raises(ValueError, match="timm has no model of this name"):
        classifier("timm/resnet1818")
