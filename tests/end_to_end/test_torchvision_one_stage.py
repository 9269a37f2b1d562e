"""The same weights give the same answers in torchvision's RetinaNet and FCOS and here: detections, losses, gradients.

torchvision's detectors are initialised at random and prepared as in ``test_torchvision``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from detection.convert.one_stage import from_torchvision_one_stage
from detection.convert.pretrained import load_pretrained
from detection.inference import predict
from detection.models.one_stage import OneStage
from detection.structures import IGNORE, Batch, Targets

sys.path.insert(0, str(Path(__file__).parent))
from test_pretrained import SIZE, as_theirs, image_files
from test_torchvision import canvas, real_images

LAYOUTS = ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"]
LOSSES = {"classification": "loss_cls", "bbox_regression": "loss_box_reg", "bbox_ctrness": "loss_centreness"}


def prepare(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Plausible norm statistics, and outputs as spread as trained ones."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.25)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            # Without a shift, a channel without variance is zero up to rounding, whose sign differs between networks.
            nn.init.normal_(module.bias, std=0.1)
    regression = model.head.regression_head
    spreads = {model.head.classification_head.cls_logits: 1.5, regression.bbox_reg: 0.5}
    if hasattr(regression, "bbox_ctrness"):
        spreads |= {regression.bbox_ctrness: 1.0, regression.bbox_reg: 2.0}
    with torch.no_grad():
        model.train()
        for image in images:
            model.backbone(model.transform([image])[0].tensors)
        model.eval()
        for layer, spread in spreads.items():
            outputs: list[Tensor] = []
            hook = layer.register_forward_hook(lambda _m, _i, out, into=outputs: into.append(out.flatten()))
            model([images[0]])
            hook.remove()
            layer.weight.mul_(spread / torch.cat(outputs).std())
        # Its label 0 is nobody's, but counts in its loss, unless its score is zero.
        outputs_of_classes = model.head.classification_head.cls_logits
        outputs_of_classes.bias.fill_(-3.0).view(-1, 21)[:, 0] = -60.0
        outputs_of_classes.weight.unflatten(0, (-1, 21))[:, 0] = 0.0


def make_pair(kind: str, folder: Path, images: Sequence[Tensor], **options) -> tuple[nn.Module, OneStage]:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.detection, kind)(
        weights=None, weights_backbone=None, num_classes=21, detections_per_img=100, score_thresh=0.05, **options
    )
    prepare(theirs, images)
    torch.save(theirs.state_dict(), folder / f"{kind}.pth")
    ours = load_pretrained(f"torchvision:{folder / kind}.pth").build()
    assert isinstance(ours, OneStage)
    changed = {"detections": 100, "score_threshold": 0.05}
    ours.head.config = type(ours.head.config)(**{**vars(ours.head.config), **changed})
    return theirs, ours


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYOUTS)
def test_files_give_the_same_boxes(kind, tmp_path):
    paths = image_files(tmp_path)[:2]
    theirs, ours = make_pair(kind, tmp_path, [as_theirs(path) for path in paths], **SIZE)
    ours.test_size = (SIZE["min_size"], SIZE["max_size"])
    for path in paths:
        with torch.no_grad():
            expected = theirs([as_theirs(path)])[0]
        found = predict(ours, path, score_threshold=0)
        assert len(expected["scores"]) == len(found) == 100
        distance = np.abs(found.boxes - expected["boxes"].numpy()[:, None]).max(axis=2)
        # By class and place: two scores that differ by rounding alone may change places.
        distance[found.labels != expected["labels"].numpy()[:, None] - 1] = np.inf
        same = distance.argmin(axis=1)
        near = distance.min(axis=1) < 0.01
        assert near.mean() >= 0.98  # of two boxes at the end of the list with one score, either may be in it
        assert np.abs(found.scores[same] - expected["scores"].numpy())[near].max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYOUTS)
def test_losses_and_gradients_agree(kind, tmp_path):
    image = real_images()[0][:, :160, :288]
    theirs, ours = make_pair(kind, tmp_path, [image / 255])
    # In float64, as an untrained backbone makes rounding a thousand times larger.
    theirs, ours, image = theirs.double(), ours.double(), image.double()
    # Ours are float32 numbers; their last digits decide on which side of ReLU's corner some values are.
    for mine, other in ((ours.pixel_mean, theirs.transform.image_mean), (ours.pixel_std, theirs.transform.image_std)):
        mine.copy_(255 * torch.tensor(other, dtype=torch.float64).view_as(mine))
    theirs.transform.resize = lambda image, target=None: (image, target)  # the image comes at the size wanted
    boxes = torch.tensor([[20.3, 30.1, 140.2, 150.7], [90, 40.5, 280, 155], [5, 5, 60, 50], [200.2, 20, 260, 90.9]])
    labels = torch.tensor([3, 7, 7, 0])
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    expected = theirs([image / 255], [{"boxes": boxes, "labels": labels + 1}])
    sum(expected.values()).backward()
    padded, sizes = canvas(image)
    targets = Targets(
        torch.cat([boxes, torch.zeros(3, 4)])[None],
        torch.cat([labels, torch.full((3,), IGNORE)])[None],
        torch.zeros(1, 7, dtype=torch.bool),
    )
    for parameter in ours.parameters():
        parameter.requires_grad_()
    losses = ours.losses(Batch(padded, sizes, sizes, torch.tensor([1]), targets))
    for name, value in expected.items():
        assert losses[LOSSES[name]].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-4), name
    sum(losses.values()).backward()
    named = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    expected = from_torchvision_one_stage(named)  # under our names, in our order
    compared = [name for name, value in ours.named_parameters() if name in expected]
    assert {name.split(".")[0] for name in compared} == {"backbone", "fpn", "head"}
    assert all(name in expected for name, _ in [*ours.fpn.named_parameters("fpn"), *ours.head.named_parameters("head")])
    for name in compared:
        gradient = expected[name]
        assert (ours.get_parameter(name).grad - gradient).abs().max() < 1e-5 * gradient.abs().max(), name
