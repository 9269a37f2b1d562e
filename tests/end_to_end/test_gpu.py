"""Tests that need a GPU; skipped on machines without one."""

import pytest
import torch

from backbones import BackboneConfig
from backbones.fast import switch
from detection import fast
from detection.coco.annotations import load_annotations
from detection.data.collate import collate
from detection.data.dataset import CocoDataset
from detection.data.transforms import Resize
from detection.engine.transfer import SideStream
from detection.fast import nms as fast_nms
from detection.fast.rcnn import compile_model
from detection.models.factories import mask_rcnn
from detection.shapes import write_shapes
from detection.structures import Batch
from tools.benchmark.contestants import move

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """Two of drawn shapes, of two sizes."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=4, val=1)
    annotations = load_annotations(folder / "annotations" / "instances_train.json", need_masks=True)
    data = [CocoDataset(annotations, folder / "train", [Resize(size, 512)], masks=True) for size in (128, 192)]
    return [move(collate([images[i] for i in range(4)]), torch.device("cuda")) for images in data]


@pytest.fixture
def exact(monkeypatch):
    """Convolutions in float32 as they are, not rounded to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def detector(norm):
    torch.manual_seed(0)
    model = fast.convert(mask_rcnn(BackboneConfig("resnet18", norm=norm), num_classes=5))
    return model.cuda().to(memory_format=torch.channels_last)


@pytest.mark.parametrize("words", [(), ("no-triton",)], ids=["kernels", "PyTorch's operations"])
def test_a_steady_step_waits_for_nothing_or_in_the_nms_alone(batches, monkeypatch, words):
    monkeypatch.setattr(switch, "words", lambda: frozenset(words))
    model = detector("frozen")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.stack(list(model.losses(batches[1]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()

    inner = fast_nms._nms_by_rounds

    def free(*arguments):
        torch.cuda.set_sync_debug_mode("default")
        try:
            return inner(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    if words:
        monkeypatch.setattr(fast_nms, "_nms_by_rounds", free)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_kernels_give_the_losses_and_gradients_of_pytorchs_operations(batches, exact, monkeypatch, norm):
    model, found = detector(norm), []
    for words in ((), ("no-triton",)):
        monkeypatch.setattr(switch, "words", lambda words=words: frozenset(words))
        model.zero_grad()
        losses = model.losses(batches[1], generator=torch.Generator("cuda").manual_seed(0))
        torch.stack(list(losses.values())).sum().backward()
        found.append((losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    (losses, gradients), (expected, plain) = found
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-6)
    assert gradients.keys() == plain.keys()
    for name, gradient in gradients.items():
        assert (gradient - plain[name]).norm() <= 5e-3 * plain[name].norm() + 1e-6, name


def test_kernels_find_what_pytorchs_operations_find(batches, exact, monkeypatch):
    model, found = detector("frozen").eval(), []
    for words in ((), ("no-triton",)):
        monkeypatch.setattr(switch, "words", lambda words=words: frozenset(words))
        with torch.inference_mode():
            found.append(model(batches[1].images, batches[1].sizes))
    assert (found[0].labels >= 0).any()
    assert torch.equal(found[0].labels, found[1].labels)
    torch.testing.assert_close(found[0].boxes, found[1].boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found[0].masks, found[1].masks, rtol=1e-2, atol=1e-3)


def test_replayed_graphs_compute_what_is_launched_anew(batches, exact):
    # What follows is chaotic, as an NMS is: a last bit may change which objects are sampled.
    models = [detector("group"), detector("group")]
    compile_model(models[0], graphs=True)
    for turn in range(6):  # the first of each shape warms up, the second is recorded
        batch, found = batches[turn % 2], []
        for model in models:
            model.zero_grad()
            features = model.features(batch.images, batch.sizes)
            vectors, logits = features.levels.vectors, features.rpn_outputs[0]
            (vectors * vectors.detach().cos()).sum().backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found.append([vectors.detach().clone(), *(x.clone() for x in logits), *gradients])
        for one, other in zip(*found, strict=True):
            assert (one - other).norm() <= 5e-3 * other.norm() + 1e-6, turn


def test_a_batch_is_copied_while_the_step_before_is_computed():
    device = torch.device("cuda")
    images = torch.randint(0, 255, (2, 3, 64, 96), dtype=torch.uint8).pin_memory()
    sizes = torch.tensor([[64, 96]] * 2)
    batch = Batch(images, sizes, sizes, torch.arange(2), None)
    side = SideStream(device)
    torch.cuda._sleep(2_000_000_000)  # about a second on the network's stream
    moved = side(lambda: batch._replace(images=batch.images.to(device, non_blocking=True)))  # the others stay
    side._stream.synchronize()
    assert not torch.cuda.current_stream().query()
    assert torch.equal(moved.images.cpu(), batch.images)
