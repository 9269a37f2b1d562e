"""Cascade R-CNN: box heads one after the other, each trained with better boxes than the one before.

B images   P proposals   G ground truths   S RoI samples   D detections   K classes   m mask side.
Cai and Vasconcelos 2018 (Cascade R-CNN), section 4; with masks: Cai and Vasconcelos 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.models.rcnn import FasterRCNN, MaskRCNN, TwoStage
from detection.structures import IGNORE, Batch, Detections, Proposals, RoISamples, Targets

if TYPE_CHECKING:
    from detection.models.box_head import BoxHead, BoxHeadConfig
    from detection.models.fpn import FPN
    from detection.models.mask_head import MaskHead
    from detection.models.rpn import RPN

MOST_STAGES = 16
"""Largest number of stages."""


@dataclass(frozen=True)
class CascadeConfig:
    """Stages of a cascade of box heads."""

    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7)
    """For each stage: a RoI whose best IoU is at least this is positive."""
    weights: tuple[tuple[float, float, float, float], ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    """For each stage: factors of the deltas x, y, width, height."""
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    """For each stage: factor of its losses; mmdetection uses 1, 0.5, 0.25."""
    scale_gradients: bool = True
    """Divide the gradient that the stages send to the pyramid by their number, as detectron2 does."""
    average: Literal["scores", "logits"] = "scores"
    """What to average over the stages at test time: scores (detectron2), or logits before the softmax (mmdetection)."""
    mask_per_stage: bool = False
    """Give each stage its own mask head, and average the masks at test time, as mmdetection does."""

    def of_stages(self, config: "BoxHeadConfig") -> list["BoxHeadConfig"]:
        """Return the config of each stage's box head: all predict one box for all classes.

        Args:
            config: layers, samples and detections; the same for all stages.

        Raises:
            ValueError: there are no stages or too many, their settings have different lengths, or ``config`` has a
                threshold or factors of its own.
        """
        lengths = {name: len(getattr(self, name)) for name in ("thresholds", "weights", "loss_weights")}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"model.cascade: the settings need one value for each stage, but have lengths {listed}")
        if not 1 <= lengths["thresholds"] <= MOST_STAGES:
            raise ValueError(
                f"model.cascade.thresholds has {lengths['thresholds']} stages; it must have 1 to {MOST_STAGES}"
            )
        default = type(config)()
        for name, instead in (("threshold", "thresholds"), ("weights", "weights")):
            if getattr(config, name) != getattr(default, name):
                raise ValueError(f"model.box_head.{name} has no effect in a cascade; set model.cascade.{instead}")
        return [
            replace(config, threshold=threshold, weights=weights, class_agnostic=True)
            for threshold, weights in zip(self.thresholds, self.weights, strict=True)
        ]


class CascadeHead(nn.Module):
    """Box heads of several stages; takes the place of one box head.

    Args:
        stages: the box heads in order, with the configs of :meth:`CascadeConfig.of_stages`.
        cascade: settings of the stages.
    """

    def __init__(self, stages: Sequence["BoxHead"], cascade: CascadeConfig) -> None:
        super().__init__()
        self.num_classes, self.cascade = stages[0].num_classes, cascade
        self.stages = nn.ModuleList(stages)
        self.loss_names = tuple(
            f"{name}_stage{number}" for number, stage in enumerate(stages, 1) for name in stage.loss_names
        )

    def heads(self) -> list["BoxHead"]:
        """Return the box heads in order."""
        return list(self.stages)  # type: ignore[arg-type]

    @property
    def config(self) -> "BoxHeadConfig":
        """The settings of the last stage, which chooses the detections."""
        return self.heads()[-1].config

    @config.setter
    def config(self, config: "BoxHeadConfig") -> None:
        self.heads()[-1].config = config

    def sample(self, proposals: Proposals, targets: Targets, generator: torch.Generator | None = None) -> RoISamples:
        """Draw the RoIs of the first stage from proposals and ground-truth boxes."""
        return self.heads()[0].sample(proposals, targets, generator)

    def losses(
        self, features: Sequence[Tensor], samples: RoISamples, targets: Targets, sizes: Tensor
    ) -> dict[str, Tensor]:
        """Return ``loss_cls_stage1``, ``loss_box_reg_stage1`` and so on; each stage learns from the boxes before it.

        Args:
            features: P2...
            samples: from :meth:`sample`.
            targets: ground truth.
            sizes: (B, 2) height, width of the images.
        """
        losses: dict[str, Tensor] = {}
        features = self.scaled(features)
        real = samples.labels != IGNORE  # (B, S)
        for number, (stage, weight) in enumerate(zip(self.heads(), self.cascade.loss_weights, strict=True), 1):
            if number > 1:
                samples = _matched(stage, samples.boxes, real, targets)
            logits, deltas = stage(features, samples.boxes)
            for name, loss in stage.losses_of(logits, deltas, samples, targets).items():
                losses[f"{name}_stage{number}"] = loss * weight
            boxes = stage.moved(samples.boxes, deltas.detach().squeeze(2), sizes)
            real = real & ((boxes[..., 2:] - boxes[..., :2]).amin(dim=-1) > 0)
            samples = samples._replace(boxes=boxes)
        return losses

    def scaled(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the same features; their gradient is multiplied by :attr:`gradient_factor`."""
        return [scale_gradient(x, self.gradient_factor) for x in features]

    @property
    def gradient_factor(self) -> float:
        """Factor of the gradient that the stages send to the pyramid."""
        return 1 / len(self.stages) if self.cascade.scale_gradients else 1.0

    def detect(self, features: Sequence[Tensor], proposals: Proposals, sizes: Tensor) -> Detections:
        """Return the best boxes of the last stage after NMS within each class, scored by all stages."""
        boxes, answers = proposals.boxes, []
        for stage in self.heads():
            logits, deltas = stage(features, boxes)
            boxes = stage.moved(boxes, deltas.squeeze(2), sizes)
            answers.append(logits.softmax(dim=-1) if self.cascade.average == "scores" else logits)
        scores = torch.stack(answers).mean(dim=0)  # (B, P, K + 1)
        if self.cascade.average == "logits":
            scores = scores.softmax(dim=-1)
        return stage.refine(features, stage.select(scores, boxes[:, :, None], proposals), sizes)


@torch.no_grad()
def _matched(stage: "BoxHead", boxes: Tensor, real: Tensor, targets: Targets) -> RoISamples:
    """Label the boxes (B, S, 4) of the stage before, of which ``real`` (B, S) are not padding; draw none."""
    matched, label = stage.match(targets, boxes)
    labels = torch.where(label == 1, targets.labels.gather(1, matched), label)
    labels = labels.masked_fill(label == 0, stage.num_classes).masked_fill(~real, IGNORE)
    return RoISamples(boxes, labels, matched, boxes.shape[1])


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return a view of a tensor that multiplies the gradient by a factor."""
    if factor == 1 or not x.requires_grad or not torch.is_grad_enabled():
        return x
    x = x.view_as(x)
    x.register_hook(partial(torch.mul, other=factor))  # type: ignore[no-untyped-call]
    return x


class CascadeMaskHeads(nn.Module):
    """A mask head for each stage of a cascade, on the same RoIs.

    Args:
        stages: the mask heads.
        weights: for each stage, the factor of its loss.
    """

    def __init__(self, stages: Sequence["MaskHead"], weights: Sequence[float]) -> None:
        super().__init__()
        self.needs, self.missing, self.config = stages[0].needs, stages[0].missing, stages[0].config
        self.loss_names = stages[0].loss_names
        self.stages, self.weights = nn.ModuleList(stages), tuple(weights)

    def losses(self, features: Sequence[Tensor], samples: RoISamples, targets: Targets) -> dict[str, Tensor]:
        """Return ``loss_mask``: the sum over the stages, each with its factor."""
        found = [head.losses(features, samples, targets)["loss_mask"] for head in self.stages]  # type: ignore[operator]
        return {"loss_mask": sum(loss * weight for loss, weight in zip(found, self.weights, strict=True))}  # type: ignore[dict-item]

    def detect(self, features: Sequence[Tensor], detections: Detections) -> Detections:
        """Return the detections with the mean mask probabilities (B, D, m, m) of all stages."""
        found = [head.detect(features, detections).masks for head in self.stages]  # type: ignore[operator]
        return detections._replace(masks=torch.stack(found).mean(dim=0))


class _Cascade(TwoStage):
    """A two-stage detector whose box head is a :class:`CascadeHead`."""

    box_head: CascadeHead  # type: ignore[assignment]  # it has the methods of a box head

    def losses(
        self, batch: Batch, features: list[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the proposals, of all stages and of the region heads; see :meth:`TwoStage.losses`.

        The region heads learn from the samples of the first stage.

        Raises:
            ValueError: as for :meth:`TwoStage.losses`.
        """
        self.check_targets(batch)
        assert batch.targets is not None
        features = self.features(batch.images, batch.sizes) if features is None else features
        losses, proposals = self.rpn.losses(features, batch, generator)
        samples = self.box_head.sample(proposals, batch.targets, generator)
        losses |= self.box_head.losses(features, samples, batch.targets, batch.sizes)
        for head in self.region_heads:
            losses |= head.losses(features, samples, batch.targets)  # type: ignore[operator]
        return losses


class CascadeRCNN(_Cascade, FasterRCNN):
    """A Faster R-CNN with a cascade of box heads."""

    def __init__(self, backbone: Backbone, fpn: "FPN", rpn: "RPN", box_head: CascadeHead) -> None:
        TwoStage.__init__(self, backbone, fpn, rpn, box_head)  # type: ignore[arg-type]


class CascadeMaskRCNN(_Cascade, MaskRCNN):
    """A Mask R-CNN with a cascade of box heads."""

    def __init__(
        self,
        backbone: Backbone,
        fpn: "FPN",
        rpn: "RPN",
        box_head: CascadeHead,
        mask_head: "MaskHead | CascadeMaskHeads",
    ) -> None:
        TwoStage.__init__(self, backbone, fpn, rpn, box_head, {"mask_head": mask_head})  # type: ignore[arg-type]
