"""Every faster form compared with its plain form: values and gradients in float32 and bfloat16, for odd sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import BackboneConfig
from backbones.resnet import VARIANTS, BasicBlock, Bottleneck, ResNet
from detection import fast
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHead, BoxHeadConfig, RoILinear
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig, CascadeHead, CascadeMaskRCNN, CascadeRCNN
from detection.models.conv_stack import ConvStack
from detection.models.fpn import FPN, FPNConfig
from detection.models.keypoint_head import KeypointHead, KeypointHeadConfig, KeypointRCNN
from detection.models.mask_head import MaskHead, MaskHeadConfig
from detection.models.necks import PAFPN
from detection.models.one_stage import OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN
from detection.models.point_head import PointHead, PointHeadConfig, PointRend
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.retinanet import RetinaNetConfig
from detection.models.rpn import RPN, RPNConfig
from detection.structures import IGNORE, RoISamples, Targets
from tests.support import detectors

Twin = tuple[nn.Module, Callable[[nn.Module, Any], Any], list[Tensor]]
"""A module, how to call it, and the maps that it is given."""


def maps(channels: int, batch: int, *sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.randn(batch, channels, *size).to(memory_format=torch.channels_last) for size in sizes]


def rois(batch: int) -> Tensor:
    corners = torch.rand(batch, 5, 2) * 40
    return torch.cat([corners, corners + 4 + torch.rand(batch, 5, 2) * 30], dim=-1)


def pyramid(batch: int, odd: bool) -> list[Tensor]:
    return maps(8, batch, *((13, 17), (7, 9)) if odd else ((16, 16), (8, 8)))


def module_call(module: nn.Module, given: list[Tensor]) -> Any:
    return module(*given)


def list_call(module: nn.Module, given: list[Tensor]) -> Any:
    return module(given)


POINTS = PointHeadConfig(resolution=4, channels=8, hidden=16, coarse=3, layer_channels=8, points=12)


def masked_rois(boxes: Tensor, labels: Tensor) -> tuple[RoISamples, Targets]:
    """RoIs with these labels, of which -1 is padding, and an object with a mask for each."""
    masks = torch.randint(0, 2, (*labels.shape, 112, 112), dtype=torch.uint8)
    matched = torch.arange(labels.shape[1]).expand_as(labels)
    return RoISamples(boxes, labels, matched, 4), Targets(boxes, labels, labels < -1, masks)


def twin(kind: type[nn.Module], batch: int, odd: bool) -> Twin:
    side = (13, 18) if odd else (16, 16)
    stages = [
        torch.randn(batch, c, *size) for c, size in zip((4, 6), (side, (side[0] // 2, side[1] // 2)), strict=True)
    ]
    heads = BoxHeadConfig(hidden=16, convs=1, resolution=3), MaskHeadConfig(convs=1, channels=8, resolution=4)
    labels, boxes, cells = torch.randint(-1, 3, (batch, 5)), rois(batch), torch.randint(-1, 256, (batch, 5, 3))
    cells[:, 1] = IGNORE
    targets = masked_rois(boxes, labels)
    image, count = torch.arange(batch).repeat_interleave(5), 5 * batch
    places = image, torch.randn(count, 3, 3, 3), torch.rand(count, 7, 2), torch.randint(0, 3, (count,))
    makers: dict[type[nn.Module], Callable[[], Twin]] = {
        nn.Conv2d: lambda: (nn.Conv2d(8, 8, 3, padding=1), module_call, maps(8, batch, side)),
        BasicBlock: lambda: (BasicBlock(8, 8, VARIANTS["resnet18"], "frozen"), module_call, maps(8, batch, side)),
        Bottleneck: lambda: (Bottleneck(8, 4, VARIANTS["resnet50"], "frozen"), module_call, maps(8, batch, side)),
        ResNet: lambda: (ResNet(VARIANTS["resnet10"], "frozen", width=8), module_call, maps(3, batch, (64, 33))),
        FPN: lambda: (FPN((4, 6), (4, 8), FPNConfig(channels=8)), list_call, stages),
        PAFPN: lambda: (PAFPN((4, 6), (4, 8), FPNConfig(channels=8)), list_call, stages),
        RPN: lambda: (RPN(8, (4, 8), RPNConfig(AnchorConfig((8, 16)))), list_call, pyramid(batch, odd)),
        ConvStack: lambda: (ConvStack(8, [8, 8], None), module_call, maps(8, batch, side)),
        RoILinear: lambda: (RoILinear(8, 3, 16), module_call, maps(8, batch, (3, 3))),
        BoxHead: lambda: (
            BoxHead(8, 3, (4, 8), heads[0]), lambda head, given: head(given, boxes), pyramid(batch, odd)
        ),
        MaskHead: lambda: (
            MaskHead(8, 3, (4, 8), heads[1]),
            lambda head, given: head(given, boxes, labels)[labels >= 0],
            pyramid(batch, odd),
        ),
        PointHead: lambda: (
            PointHead(8, 3, (4, 8), POINTS),
            lambda head, given: [
                *head.losses(given, *targets, torch.Generator().manual_seed(0)).values(),
                head.point_logits(given, boxes.flatten(0, 1), *places),
            ],
            pyramid(batch, odd),
        ),
        KeypointHead: lambda: (
            KeypointHead(8, 3, (4, 8), KeypointHeadConfig(keypoints=3, convs=1, channels=8, resolution=4)),
            lambda head, given: [head(given, boxes, labels >= 0)[labels >= 0], head.cross_entropy(given, boxes, cells)],
            pyramid(batch, odd),
        ),
    }  # fmt: skip
    return makers[kind]()


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [x for part in result for x in flat(part)]


def step(form: Callable[[nn.Module], nn.Module], given: Twin, dtype: torch.dtype) -> list[Tensor]:
    """What a module gives, and the gradients of its maps and parameters."""
    module, call, inputs = given
    form(module)
    leaves = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        results = flat(call(module, [leaf * 1 for leaf in leaves]))
    loss = sum((x.float() * torch.linspace(-1, 1, x.numel()).view(x.shape)).sum() for x in results)
    learning = [*leaves, *(p for p in module.parameters() if p.requires_grad)]
    grads = torch.autograd.grad(loss, learning, allow_unused=True)
    return [*results, *(torch.zeros_like(x) if g is None else g for x, g in zip(learning, grads, strict=True))]


WHOLE = (
    FasterRCNN,
    MaskRCNN,
    KeypointRCNN,
    PointRend,
    OneStage,
    CascadeHead,
    CascadeRCNN,
    CascadeMaskRCNN,
    SemanticFPN,
    PanopticFPN,
)
"""Classes that only complete detectors compare."""
MODULES = [kind for kind in fast.FASTER if kind not in WHOLE]


CASES = [
    pytest.param(dtype, batch, odd, id=f"{name}-{batch}-{'odd' if odd else 'even'}", marks=marks)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    for batch in (1, 3)
    for odd in (False, True)
    # Convolutions in bf16 are slow on a CPU without such instructions: two of these four are enough in quick tests.
    for marks in [[pytest.mark.slow] if name == "bf16" and (batch == 3) != odd else []]
]


@pytest.mark.parametrize(("dtype", "batch", "odd"), CASES)
@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_a_faster_module_is_its_plain_twin(kind, dtype, batch, odd):
    errors = []
    for seed in range(1 if dtype == torch.float32 else 5):
        torch.manual_seed(seed)
        given = twin(kind, batch, odd)
        plain, faster = (step(form, given, dtype) for form in (fast.revert, fast.convert))
        exact = step(fast.revert, given, torch.float32)
        errors.append((error(plain, exact), error(faster, exact)))
        if dtype == torch.float32:
            for mine, reference in zip(faster, exact, strict=True):
                assert (mine - reference).norm() <= 1e-5 * reference.norm() + 1e-6
    # In bfloat16 the two round at other places, and a ReLU may open for one of them alone; on average over some draws
    # the faster one is as near to float32 as the plain one.
    of_plain, of_faster = torch.tensor(errors).mean(dim=0).tolist()
    assert of_faster <= 1.5 * of_plain + 2e-3


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Root mean square over tensors of their relative errors."""
    pairs = list(zip(found, exact, strict=True))
    assert all(mine.shape == reference.shape for mine, reference in pairs)
    parts = [(mine.float() - reference).norm() / (reference.norm() + 1e-6) for mine, reference in pairs]
    return float(torch.stack(parts).square().mean().sqrt())


def detector(kind: str) -> nn.Module:
    if kind == "RetinaNet":
        torch.manual_seed(0)
        return build_detector(
            3,
            BackboneConfig("resnet18", norm="group"),
            FPNConfig(channels=64, extra="conv", finest=3),
            retinanet=RetinaNetConfig(),
        )
    model = detectors.make_tiny()
    if kind in ("keypoints", "points"):
        return detectors.make_keypoints() if kind == "keypoints" else detectors.make_points()
    if kind in ("cascade", "cascade with masks"):
        parts = {name: config for name, config in model.configs.items() if name != "mask_head" or "masks" in kind}
        return build_detector(3, **parts, cascade=CascadeConfig(mask_per_stage=True))
    return model if kind == "masks" else FasterRCNN(model.backbone, model.fpn, model.rpn, model.box_head)


@pytest.mark.parametrize(
    "kind", ["boxes", "masks", "keypoints", "points", "RetinaNet", "cascade", "cascade with masks"]
)
def test_a_faster_detector_is_its_plain_twin(kind):
    objects = [[([10.0, 10, 60, 60], 1, False), ([50.0, 20, 90, 80], 2, True)], [], [([5.0, 5, 40, 70], 0, False)]]
    batch = detectors.with_keypoints(detectors.make_batch(objects, sizes=[(96, 128), (70, 90), (96, 101)]))
    torch.set_default_dtype(torch.float64)  # of means and deviations, too
    try:
        model = detector(kind)
    finally:
        torch.set_default_dtype(torch.float32)
    model.double()
    results = []
    for form in (fast.revert, fast.convert):
        form(model)
        losses = model.train().losses(batch, generator=torch.Generator().manual_seed(0))
        model.zero_grad()
        sum(losses.values()).backward()
        with torch.no_grad():
            found = model.eval()(batch.images, batch.sizes)
        gradients = [p.grad for p in model.parameters()]
        results.append([*losses.values(), *gradients, *(x for x in found if x is not None)])
    for plain, faster in zip(*results, strict=True):
        # In float64 but for logits, deltas and boxes, which are float32.
        torch.testing.assert_close(plain, faster, rtol=1e-4, atol=1e-5, check_dtype=False)
