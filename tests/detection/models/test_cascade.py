"""Cascade R-CNN: losses and detections beside loops over boxes, odd batches, gradients, files, and what is rejected."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, nms, roi_align

from backbones import BackboneConfig
from detection import fast
from detection.checkpoint import load_model, save_model
from detection.convert.export import save_safetensors, save_torchvision
from detection.convert.pretrained import load_pretrained
from detection.models.anchors import AnchorConfig
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig, CascadeMaskRCNN, CascadeRCNN
from detection.models.factories import cascade_mask_rcnn, cascade_rcnn
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.retinanet import RetinaNetConfig
from detection.models.roi_linear import as_linear
from detection.models.rpn import RPNConfig
from detection.structures import IGNORE, Batch, RoISamples

OBJECTS = [[([10.0, 10, 60, 60], 1, False), ([40.0, 30, 120, 90], 2, False)], [([5.0, 5, 30, 25], 0, False)]]
SIZES = [(96, 128), (70, 90)]


def make(masks: bool = True, **settings: object) -> CascadeRCNN | CascadeMaskRCNN:
    """A small cascade whose stages move boxes by about a pixel, and whose scores differ."""
    torch.manual_seed(0)
    model = build_detector(
        3,
        BackboneConfig("resnet18", norm="group", width=16),
        FPNConfig(channels=16),
        RPNConfig(AnchorConfig(sizes=(8, 16, 32, 64, 128)), proposals_train=60, proposals_test=40, samples=64),
        BoxHeadConfig(hidden=32, samples=32, score_threshold=0.1, detections=10),
        MaskHeadConfig(convs=1, channels=16) if masks else None,
        cascade=CascadeConfig(**settings),
    )
    assert isinstance(model, CascadeRCNN | CascadeMaskRCNN)
    with torch.no_grad():
        for stage in model.box_head.stages:
            stage.deltas.weight.mul_(100)
            stage.logits.weight.mul_(100)
    return model


def pooled(features: list[Tensor], image: int, box: Tensor) -> Tensor:
    """The features (C, 7, 7) of one box, by torchvision."""
    side = math.sqrt(max(float((box[2:] - box[:2]).clamp(min=0).prod()), 1e-12))
    level = min(3, max(0, math.floor(4 + math.log2(side / 224) + 1e-6) - 2))
    given = features[level][image : image + 1].contiguous()
    return roi_align(given, [box[None]], 7, 1 / 2 ** (level + 2), 2, aligned=True)[0]


def predicted(stage: nn.Module, features: list[Tensor], image: int, box: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (K + 1) and deltas (4) of one box."""
    state = as_linear({f"box_head.{name}": value for name, value in stage.state_dict().items()})
    x = pooled(features, image, box).flatten()
    for name in ("fcs.0", "fcs.1"):
        x = (state[f"box_head.{name}.weight"] @ x + state[f"box_head.{name}.bias"]).clamp(min=0)
    logits, deltas = (
        state[f"box_head.{name}.weight"] @ x + state[f"box_head.{name}.bias"] for name in ("logits", "deltas")
    )
    return logits, deltas


def moved(box: Tensor, deltas: Tensor, weights: tuple[float, ...], size: tuple[int, int]) -> Tensor:
    """One box after its deltas, clipped to the image."""
    dx, dy, dw, dh = (float(d) / w for d, w in zip(deltas, weights, strict=True))
    left, top, right, bottom = box.tolist()
    width, height = right - left, bottom - top
    x, y = left + width / 2 + dx * width, top + height / 2 + dy * height
    limit = math.log(1000 / 16)
    width, height = width * math.exp(min(dw, limit)), height * math.exp(min(dh, limit))
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return torch.tensor([min(max(c, 0), float(size[1 - k % 2])) for k, c in enumerate(corners)])


def wanted(box: Tensor, truth: Tensor, weights: tuple[float, ...]) -> Tensor:
    """The deltas (4) that move a box to its object."""
    own, other = box[2:] - box[:2], truth[2:] - truth[:2]
    shift = ((truth[:2] + truth[2:]) - (box[:2] + box[2:])) / 2 / own
    return torch.cat([shift, (other / own).log()]) * torch.tensor(weights)


def losses_by_loops(model: CascadeRCNN, batch: Batch, features: list[Tensor], samples: RoISamples) -> dict[str, float]:
    """The losses of all stages, box by box."""
    config, found = model.box_head.cascade, {}
    boxes = [  # (image, box, class, index of its object) of each RoI that is not padding
        (i, samples.boxes[i, s], int(samples.labels[i, s]), int(samples.matched[i, s]))
        for i in range(len(batch.images))
        for s in range(samples.boxes.shape[1])
        if samples.labels[i, s] != IGNORE
    ]
    for number, (stage, weights) in enumerate(zip(model.box_head.stages, config.weights, strict=True)):
        of_class = of_box = 0.0
        next_boxes = []
        for i, box, label, matched in boxes:
            truth = batch.targets.boxes[i]
            real = (batch.targets.labels[i] != IGNORE) & ~batch.targets.crowd[i]
            if number > 0:
                overlap = box_iou(box[None], truth)[0].masked_fill(~real, 0)
                best, matched = (float(overlap.max()), int(overlap.argmax()))
                label = int(batch.targets.labels[i, matched]) if best >= config.thresholds[number] else 3
            logits, deltas = predicted(stage, features, i, box)
            of_class += float(F.cross_entropy(logits[None], torch.tensor([label])))
            if label < 3:
                of_box += float((deltas - wanted(box, truth[matched], weights)).abs().sum())
            after = moved(box, deltas, weights, SIZES[i])
            if (after[2:] > after[:2]).all():
                next_boxes.append((i, after, label, matched))
        found[f"loss_cls_stage{number + 1}"] = of_class / len(boxes)
        found[f"loss_box_reg_stage{number + 1}"] = of_box / len(boxes)
        boxes = next_boxes
    return found


def test_the_losses_are_those_of_loops_over_boxes(make_batch):
    model, batch = make(masks=False), make_batch(OBJECTS, sizes=SIZES)
    with torch.no_grad():
        features = model.features(batch.images, batch.sizes)
        _, proposals = model.rpn.losses(features, batch, torch.Generator().manual_seed(1))
        samples = model.box_head.sample(proposals, batch.targets, torch.Generator().manual_seed(2))
        losses = model.box_head.losses(features, samples, batch.targets, batch.sizes)
        expected = losses_by_loops(model, batch, features, samples)
    assert list(losses) == list(expected)
    assert all(value > 0 for value in expected.values())
    for name, value in losses.items():
        assert float(value) == pytest.approx(expected[name], rel=2e-4), name


@pytest.mark.parametrize("average", ["scores", "logits"])
def test_the_detections_are_those_of_loops_over_boxes(average, make_batch):
    model, batch = make(masks=False, average=average).eval(), make_batch(OBJECTS, sizes=SIZES)
    with torch.no_grad():
        features = model.features(batch.images, batch.sizes)
        proposals = model.rpn.propose(features, (96, 128), batch.sizes)
        found = model(batch.images, batch.sizes, features)
        for i in range(2):
            boxes, scores = [], []
            for box in proposals.boxes[i][proposals.logits[i] > -torch.inf]:
                answers = []
                for stage, weights in zip(model.box_head.stages, model.box_head.cascade.weights, strict=True):
                    logits, deltas = predicted(stage, features, i, box)
                    box = moved(box, deltas, weights, SIZES[i])
                    answers.append(logits.softmax(0) if average == "scores" else logits)
                mean = sum(answers) / 3
                boxes.append(box)
                scores.append((mean if average == "scores" else mean.softmax(0))[:3])
            rows = best_by_loops(torch.stack(boxes), torch.stack(scores))
            own = found.image(i)
            assert len(rows) == len(own.scores) > 3
            torch.testing.assert_close(own.scores, torch.tensor([row[0] for row in rows]), rtol=1e-4, atol=1e-5)
            assert own.labels.tolist() == [row[1] for row in rows]
            torch.testing.assert_close(own.boxes, torch.stack([row[2] for row in rows]), rtol=1e-4, atol=1e-2)


def best_by_loops(boxes: Tensor, scores: Tensor) -> list[tuple[float, int, Tensor]]:
    """The ten best (score, class, box) after NMS within each class."""
    rows = []
    large = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= 0.01
    for k in range(3):
        own = large & (scores[:, k] > 0.1)
        stay = nms(boxes[own], scores[own, k], 0.5)
        rows += [(float(s), k, b) for s, b in zip(scores[own, k][stay], boxes[own][stay], strict=True)]
    return sorted(rows, key=lambda row: -row[0])[:10]


def test_stages_send_a_third_of_the_gradient_to_the_pyramid_and_keep_their_own(make_batch):
    batch, gradients = make_batch(OBJECTS), []
    for form in (fast.revert, fast.convert):
        for scale in (False, True):
            model = form(make(masks=False, scale_gradients=scale))
            with torch.no_grad():
                maps = [x.clone() for x in model.features(batch.images, batch.sizes)]
                proposals = model.rpn.propose(maps, (96, 128), batch.sizes)
            samples = model.box_head.sample(proposals, batch.targets, torch.Generator().manual_seed(0))
            maps = [x.requires_grad_() for x in maps]
            losses = model.box_head.losses(maps, samples, batch.targets, batch.sizes)
            sum(losses.values()).backward()
            gradients.append([maps[0].grad, *(p.grad for p in model.box_head.parameters())])
    plain, plain_third, whole, third = gradients
    for of_whole, of_third in ((plain, plain_third), (whole, third)):
        torch.testing.assert_close(of_third[0], of_whole[0] / 3, rtol=1e-4, atol=1e-7)
        for own, same in zip(of_third[1:], of_whole[1:], strict=True):
            torch.testing.assert_close(own, same)
    torch.testing.assert_close(third[0], plain_third[0], rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_through_the_boxes(make_batch):
    """The deltas of the first stage learn from its own loss alone."""
    batch, found = make_batch(OBJECTS), []
    for weights in ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        model = make(masks=False, loss_weights=weights)
        sum(model.losses(batch, generator=torch.Generator().manual_seed(0)).values()).backward()
        found.append(model.box_head.stages[0].deltas.weight.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_everything_learns(form, make_batch):
    model = make(mask_per_stage=True).train()
    model = fast.convert(model) if form == "fast" else model
    losses = model.losses(make_batch(OBJECTS))
    assert list(losses) == [
        "loss_rpn_cls",
        "loss_rpn_loc",
        *(f"{name}_stage{number}" for number in (1, 2, 3) for name in ("loss_cls", "loss_box_reg")),
        "loss_mask",
    ]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "objects",
    [[[], []], [[([0.0, 0, 128, 96], 0, True)], [([10.0, 10, 60, 60], 1, True)]], [OBJECTS[0], []]],
    ids=["no objects", "only crowds", "one image without"],
)
def test_odd_batches_have_finite_losses(objects, make_batch):
    model = make().train()
    losses = model.losses(make_batch(objects))
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    if objects != [OBJECTS[0], []]:
        assert all(losses[f"loss_box_reg_stage{number}"] == 0 for number in (1, 2, 3))
        assert losses["loss_mask"] == 0


def test_without_proposals_there_is_nothing_to_learn_or_to_find(make_batch):
    model, batch = make(masks=False), make_batch([[], []])
    features = model.features(batch.images, batch.sizes)
    none = model.rpn.propose(features, (96, 128), batch.sizes)
    none = none._replace(boxes=torch.zeros_like(none.boxes), logits=torch.full_like(none.logits, -torch.inf))
    samples = model.box_head.sample(none, batch.targets)
    losses = model.box_head.losses(features, samples, batch.targets, batch.sizes)
    assert all(value == 0 for value in losses.values())
    assert (model.box_head.detect(features, none, batch.sizes).labels == IGNORE).all()


def test_boxes_that_shrink_to_nothing_leave_the_next_stages(make_batch):
    model, batch = make(masks=False), make_batch(OBJECTS)
    with torch.no_grad():
        for stage in model.box_head.stages:
            nn.init.zeros_(stage.deltas.weight)
        model.box_head.stages[0].deltas.bias[0] = 1e4  # 1,000 widths to the right
        features = model.features(batch.images, batch.sizes)
        samples = model.box_head.sample(model.rpn.propose(features, (96, 128), batch.sizes), batch.targets)
        losses = model.box_head.losses(features, samples, batch.targets, batch.sizes)
    assert losses["loss_cls_stage1"] > 0
    assert losses["loss_cls_stage2"] == losses["loss_cls_stage3"] == 0


def test_one_stage_is_a_class_agnostic_faster_rcnn(make_batch):
    batch = make_batch(OBJECTS, sizes=SIZES)
    cascade = make(False, thresholds=(0.5,), weights=((10.0, 10.0, 5.0, 5.0),), loss_weights=(1.0,)).eval()
    configs = {name: config for name, config in cascade.configs.items() if name not in ("cascade", "box_head")}
    one = build_detector(3, **configs, box_head=replace(cascade.configs["box_head"], class_agnostic=True)).eval()
    state = cascade.state_dict()
    one.load_state_dict({name.replace(".stages.0", ""): value for name, value in state.items()})
    with torch.no_grad():
        for mine, its in zip(cascade(*batch[:2]), one(*batch[:2]), strict=True):
            assert mine is its is None or torch.equal(mine, its)
        generators = (torch.Generator().manual_seed(0) for _ in range(2))
        losses, its = (model.losses(batch, generator=next(generators)) for model in (cascade, one))
    assert list(losses.values()) == list(its.values())


def test_masks_of_all_stages_are_averaged(make_batch):
    model, batch = make(mask_per_stage=True).eval(), make_batch(OBJECTS)
    with torch.no_grad():
        features = model.features(*batch[:2])
        found = model(*batch[:2], features)
        single = [head(features, found.boxes, found.labels).sigmoid() for head in model.mask_head.stages]
    real = found.labels != IGNORE
    assert not torch.allclose(single[0][real], single[1][real], atol=1e-6)
    torch.testing.assert_close(found.masks[real], (sum(single) / 3)[real])
    assert (found.masks[~real] == 0).all()


@pytest.mark.parametrize("masks", [False, True])
def test_files_hold_the_whole_detector(masks, make_batch, tmp_path):
    model, batch = make(masks, average="logits", mask_per_stage=masks).eval(), make_batch([[], []])
    save_model(model, tmp_path / "a.ckpt")
    save_safetensors(model, tmp_path / "a.safetensors")
    with torch.no_grad():
        expected = model(*batch[:2])
        for again in (load_model(tmp_path / "a.ckpt")[0], load_pretrained(str(tmp_path / "a.safetensors")).build()):
            assert type(again) is type(model)
            assert again.configs == model.configs
            for mine, its in zip(again(*batch[:2]), expected, strict=True):
                assert mine is its is None or torch.equal(mine, its)
    with pytest.raises(ValueError, match="torchvision's layout has no Cascade"):
        save_torchvision(model, tmp_path / "a.pth")


def test_settings_of_the_last_stage_choose_the_detections(make_batch):
    model, batch = make(masks=False).eval(), make_batch([[]])
    model.last_head.config = replace(model.last_head.config, detections=2, score_threshold=0.0)
    assert model.box_head.stages[-1].config.detections == 2
    with torch.no_grad():
        assert model(*batch[:2]).boxes.shape == (1, 2, 4)


class Whole(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images, sizes))


@pytest.mark.slow
def test_the_whole_detector_is_exported(make_batch):
    model, given = make().eval(), make_batch([[], []], sizes=SIZES)[:2]
    with torch.no_grad():
        program = torch.export.export(Whole(model), given)
        other = make_batch([[], []], sizes=[(90, 128), (96, 101)], seed=2)[:2]
        for found, expected in zip(program.module()(*other), model(*other), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("function", "kind"), [(cascade_rcnn, CascadeRCNN), (cascade_mask_rcnn, CascadeMaskRCNN)])
def test_factories_build_three_stages(function, kind):
    model = function(BackboneConfig("resnet18", norm="group", freeze=0), categories=["a", "b"])
    assert type(model) is kind
    assert (model.num_classes, model.categories.names) == (2, ("a", "b"))
    assert [stage.config.threshold for stage in model.box_head.stages] == [0.5, 0.6, 0.7]
    assert [stage.config.weights[0] for stage in model.box_head.stages] == [10, 20, 30]
    assert all(stage.deltas.out_features == 4 for stage in model.box_head.stages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cascade": CascadeConfig(thresholds=(0.5, 0.6))}, "have lengths thresholds 2, weights 3, loss_weights 3"),
        ({"cascade": CascadeConfig((), (), ())}, "thresholds has 0 stages; it must have 1 to 16"),
        ({"cascade": CascadeConfig(), "box_head": BoxHeadConfig(threshold=0.6)}, "set model.cascade.thresholds"),
        ({"cascade": CascadeConfig(), "box_head": BoxHeadConfig(weights=(1.0,) * 4)}, "set model.cascade.weights"),
        ({"cascade": CascadeConfig(), "retinanet": RetinaNetConfig()}, "a detector without model.cascade"),
    ],
)
def test_what_makes_no_cascade_is_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        build_detector(2, BackboneConfig("resnet18", norm="group"), **options)


def test_targets_that_do_not_fit_are_rejected(make_batch):
    with pytest.raises(ValueError, match="label 3 is not in 0 to 2"):
        make().losses(make_batch([[([10.0, 10, 60, 60], 3, False)]]))
    with pytest.raises(ValueError, match="losses need a batch with targets"):
        make().losses(make_batch([[]])._replace(targets=None))
