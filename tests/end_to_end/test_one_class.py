"""The README's training loop on one class without clipping converges from the first step."""

import json

import pytest
import torch
from torch.utils.data import DataLoader

from backbones import BackboneConfig
from detection import mask_rcnn
from detection.coco.annotations import load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.shapes import write_shapes


@pytest.fixture(scope="module")
def one_class(tmp_path_factory):
    """Drawn shapes, all of which are things."""
    root = write_shapes(tmp_path_factory.mktemp("shapes"), train=40, val=1)
    path = root / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 1, "name": "thing"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    path.write_text(json.dumps(content))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_twenty_steps_on_one_class_stay_healthy_without_clipping(one_class, norm):
    torch.manual_seed(0)
    annotations = load_annotations(one_class / "annotations/instances_train.json")
    model = mask_rcnn(BackboneConfig("resnet18", norm=norm), categories=annotations.categories)
    dataset = CocoDataset(annotations, one_class / "train", [Resize(96, 160)], masks=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    totals = []
    for batch in DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=collate):
        loss = sum(model.losses(batch).values())
        optimizer.zero_grad()
        loss.backward()
        norms = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        assert torch.stack(norms).norm() < 100, len(totals)
        optimizer.step()
        totals.append(loss.item())
    assert len(totals) == 20
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert max(totals) < 2 * totals[0]
    assert sum(totals[-5:]) < sum(totals[:5])
