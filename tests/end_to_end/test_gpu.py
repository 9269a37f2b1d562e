"""What only a GPU can show; skipped where there is none."""

import pytest
import torch

from backbones import BackboneConfig
from detection.benchmark.contestants import move
from detection.data.annotations import load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.engine.transfer import SideStream
from detection.models.rcnn import mask_rcnn
from detection.shapes import write_shapes
from detection.structures import Batch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_a_steady_step_waits_for_the_device_in_the_nms_alone(tmp_path, monkeypatch):
    write_shapes(tmp_path, train=4, val=1)
    annotations = load_annotations(tmp_path / "annotations" / "instances_train.json", need_masks=True)
    data = CocoDataset(annotations, tmp_path / "train", [Resize(256, 512)], masks=True)
    batch = move(collate([data[i] for i in range(4)]), torch.device("cuda"))
    model = mask_rcnn(BackboneConfig("resnet18"), num_classes=5).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.stack(list(model.losses(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()

    from detection.models import rpn

    inner = rpn.nms

    def free(*arguments):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return inner(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(rpn, "nms", free)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_replayed_graphs_train_as_what_is_launched_anew(tmp_path):
    write_shapes(tmp_path, train=4, val=1)
    annotations = load_annotations(tmp_path / "annotations" / "instances_train.json", need_masks=True)
    batches = []
    for size in (128, 192):
        data = CocoDataset(annotations, tmp_path / "train", [Resize(size, 512)], masks=True)
        batches.append(move(collate([data[i] for i in range(4)]), torch.device("cuda")))

    def weights(compiled: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = mask_rcnn(BackboneConfig("resnet18", norm="group"), num_classes=5)
        model = model.cuda().to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
        if compiled:
            model.compile_dense(graphs=True)
        for turn in range(8):  # the first of each shape warms up, the second is recorded
            optimizer.zero_grad()
            losses = model.losses(batches[turn % 2], generator=torch.Generator("cuda").manual_seed(turn))
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    for one, other in zip(weights(True), weights(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


def test_a_batch_is_copied_while_the_step_before_is_computed():
    device = torch.device("cuda")
    images = torch.randint(0, 255, (2, 3, 64, 96), dtype=torch.uint8).pin_memory()
    sizes = torch.tensor([[64, 96]] * 2)
    batch = Batch(images, sizes, sizes, torch.arange(2), None)
    side = SideStream(device)
    torch.cuda._sleep(2_000_000_000)  # about a second on the network's stream
    moved = side(lambda: batch._replace(images=batch.images.to(device, non_blocking=True)))
    side._stream.synchronize()
    assert not torch.cuda.current_stream().query()
    assert torch.equal(moved.images.cpu(), batch.images)
