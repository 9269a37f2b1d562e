"""Lightning's module for a detector: steps of training and evaluation, optimizer, and logged metrics.

Training logs ``train/loss`` and ``train/loss_*``. Validation logs ``val/loss``, ``val/loss_*`` and ``val/bbox/AP`` to
``val/segm/ARl`` or ``val/keypoints/ARl``; a test logs the same with ``test/``. ``val/AP`` is the AP of keypoints or
masks, or of boxes without them.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from backbones import BackboneConfig
from detection import fast as faster
from detection.checkpoint import check_weights, checked_info, describe_model, detector_weights, plain
from detection.convert.pretrained import initialise
from detection.data.sample import Unresized
from detection.engine.checks import check_categories, check_configs, check_same_training
from detection.engine.data_of import data_of
from detection.engine.divisors import common_divisors
from detection.engine.errors import user_input
from detection.engine.evaluated_model import EvaluatedModel
from detection.engine.evaluating import Evaluation
from detection.engine.opening import precision_name
from detection.engine.optim import OptimizerConfig
from detection.engine.resumable_module import ResumableModule
from detection.engine.schedule import ScheduleConfig
from detection.engine.sharding import shard
from detection.engine.transfer import Transfer
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.maps import MapEvaluator, Merging
from detection.fast.rcnn import compile_model
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.cascade import CascadeConfig
from detection.models.detector import Detector
from detection.models.fcos import FCOSConfig
from detection.models.fpn import FPNConfig
from detection.models.keypoint_head import KeypointHeadConfig
from detection.models.mask_forms import has_pixel_corners, has_rounded_frames, iou_types
from detection.models.mask_head import MaskHeadConfig
from detection.models.one_stage import OneStage
from detection.models.panoptic import PanopticFPN, SemanticFPN, WithSemanticHead
from detection.models.point_head import PointHeadConfig
from detection.models.retinanet import RetinaNetConfig
from detection.models.roi_linear import as_linear
from detection.models.rpn import RPNConfig
from detection.models.semantic_head import SemanticHeadConfig
from detection.models.task_aligned import TaskAlignedConfig
from detection.structures import Batch, Detections

if TYPE_CHECKING:
    from detection.engine.datamodule import CocoDataModule


class DetectionModule(ResumableModule):
    """Train and evaluate a detector.

    :meth:`setup` builds the detector, since its classes come from the data module's annotations.
    """

    model: Detector

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        fpn: FPNConfig = FPNConfig(),  # noqa: B008
        rpn: RPNConfig = RPNConfig(),  # noqa: B008
        box_head: BoxHeadConfig = BoxHeadConfig(),  # noqa: B008
        mask_head: MaskHeadConfig | None = None,
        retinanet: RetinaNetConfig | None = None,
        fcos: FCOSConfig | None = None,
        cascade: CascadeConfig | None = None,
        task_aligned: TaskAlignedConfig | None = None,
        semantic_head: SemanticHeadConfig | None = None,
        keypoint_head: KeypointHeadConfig | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        weights: str | None = None,
        compile: bool | Literal["graphs"] = False,
        fast: bool = True,
        point_head: PointHeadConfig | None = None,
    ) -> None:
        """Check and store the settings; :meth:`setup` builds the detector.

        Args:
            backbone: Architecture, initial weights and frozen stages of the backbone.
            fpn: Channels and kind of the feature pyramid.
            rpn: Anchors, training samples and proposals.
            box_head: Layers, training samples and detections.
            mask_head: Layers of the mask head; null for Faster R-CNN.
            retinanet: Anchors, layers, losses and detections of a RetinaNet, which replaces rpn and box_head.
            fcos: Layers, losses and detections of an FCOS, which replaces rpn and box_head.
            cascade: Stages of a Cascade R-CNN; each has the layers of box_head.
            task_aligned: Layers, losses and detections of a task-aligned detector, which replaces rpn and box_head.
            semantic_head: Layers of a semantic head. Alone, it makes a Semantic FPN; with mask_head, a Panoptic FPN.
            keypoint_head: Layers of the keypoint head of a Keypoint R-CNN; it has no mask_head.
            optimizer: Optimizer, learning rate and weight decay.
            schedule: Length of the training, and the learning rate over its steps.
            weights: Weights of a whole detector to start from; the model settings of these weights apply, too:
                torchvision:maskrcnn_resnet50_fpn_v2, detectron2:mask_rcnn_R_50_FPN_3x, mmdetection:NAME,
                ORIGIN:FILE, or a file; see docs/how-to/pretrained.md. backbone.weights then has no effect.
            compile: Compile backbone, pyramid and RPN head with torch.compile. Training then pads images to a few
                sizes; compiling takes a minute for each size, once. Evaluation compiles only the most common sizes.
                A CPU needs a C++ compiler. With graphs, a GPU also records its kernels for each size as a CUDA graph.
            fast: Use the faster forms of the layers, which give the same results up to rounding.
            point_head: Layers and points of the mask head of a PointRend; it has no mask_head.

        Raises:
            InputError: the backbone is unknown, or a setting is invalid.
        """
        super().__init__(optimizer, schedule)
        self.configs = {"backbone": backbone, "fpn": fpn, "rpn": rpn, "box_head": box_head, "mask_head": mask_head}
        self.configs |= {"retinanet": retinanet, "fcos": fcos, "task_aligned": task_aligned, "cascade": cascade}
        self.configs["semantic_head"] = semantic_head
        self.configs |= {"keypoint_head": keypoint_head, "point_head": point_head}
        self.weights, self.fast, self.compile_dense = weights, fast, compile is not False
        self._graphs = compile == "graphs"
        self.evaluations: dict[str, Evaluation] = {}  # by split
        self._evaluated_model = EvaluatedModel(self.compile_dense)
        self._transfer = Transfer()
        with user_input():
            check_configs(self.configs)

    def setup(self, stage: str) -> None:
        """Build the detector for the classes of the annotations."""
        if hasattr(self, "model"):
            return
        data, configs = self.data, dict[str, Any](self.configs)
        if self.weights is not None:
            configs["backbone"] = replace(configs["backbone"], weights=None)
        if configs["keypoint_head"] is not None:
            head = replace(configs["keypoint_head"], keypoints=data.categories.keypoints or 1)
            configs["keypoint_head"] = self.configs["keypoint_head"] = head
        classes = data.semantic_categories if data.config.maps == "all" else data.categories
        if data.config.maps == "stuff":
            stuff = data.semantic_categories
            named = {"stuff": stuff.names[1:], "stuff_ids": stuff.ids[1:]}
            self.configs["semantic_head"] = configs["semantic_head"] = replace(configs["semantic_head"], **named)
        with user_input():
            self.model = build_detector(len(classes), **configs)
            self.model.categories, self.model.test_size = classes, data.config.test_size
            self.model.resize, self.model.depth = data.config.resize, data.config.depth
            if self.weights is not None:
                self.print(initialise(self.model, self.weights))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.fast:
            faster.convert(self.model)
        if self.compile_dense:
            compile_model(self.model, graphs=self._graphs)

    @property
    def data(self) -> "CocoDataModule":
        """The data module of this run."""
        return data_of(self.trainer)  # type: ignore[return-value]  # the data module of a detector

    @property
    def model_name(self) -> str:
        """Name of the kind of the detector, to print."""
        return self.model.head.kind if isinstance(self.model, OneStage) else faster.plain_class(self.model).__name__

    def description(self) -> dict[str, Any]:
        """Return settings, classes and preprocessing of the detector, as plain values for checkpoints."""
        return describe_model(self.model, self.configs)

    def check_model(self, checkpoint: Mapping[str, Any], source: str) -> None:
        """Reject a checkpoint of other classes, of another detector or of a training with other settings.

        Raises:
            ValueError: the checkpoint does not fit; the message names the difference.
        """
        info = checked_info(checkpoint, source)
        check_categories(info["categories"], self.model.categories)
        if isinstance(self.model, PanopticFPN):
            stuff = info["model"].get("semantic_head") or {"stuff": [], "stuff_ids": []}
            named = {"names": ["things", *stuff["stuff"]], "ids": [0, *stuff["stuff_ids"]]}
            check_categories(named, self.model.semantic_categories)
        # Lightning loads the weights later, but its error message would be a page long.
        check_weights(self.model, detector_weights(checkpoint["state_dict"]), source)
        if self.trainer.state.fn == "fit":
            backbone = self.configs["backbone"]
            check_same_training(checkpoint, plain(asdict(self.given_optimizer)), plain(asdict(backbone)))

    def configure_model(self) -> None:
        """Shard the detector over the devices if the strategy does so; Lightning calls this method after setup."""
        if self._is_sharded:
            shard(self, self.model.backbone, self.trainer.strategy.root_device)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``loss`` and its ``terms``, which have no gradient."""
        # Not the global generator, so that a resumed run samples the same as an uninterrupted one.
        generator = self._generator((self.data.config.seed, self.trainer.current_epoch, batch_idx, self.global_rank))
        with common_divisors(self.model):
            losses = self.model.losses(batch, generator=generator)
        loss = torch.stack(list(losses.values())).sum()
        terms = {name: value.detach() for name, value in losses.items()}
        self.log_dict({"train/loss": loss.detach()} | {f"train/{name}": value for name, value in terms.items()})
        return {"loss": loss, "terms": terms}

    def transfer_batch_to_device(self, batch: Batch | Unresized, device: torch.device, dataloader_idx: int) -> Batch:
        """Copy a batch to the device, and resize images there if the loader has not done so."""
        return self._transfer(batch, device, self._copied(dataloader_idx, device))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``detections``; compute the losses from the same pass through the backbone."""
        return {"detections": self._evaluation_step(batch, "val")}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return ``detections`` as :meth:`validation_step` does."""
        return {"detections": self._evaluation_step(batch, "test")}

    def predict_step(self, batch: Batch, batch_idx: int) -> Detections:
        """Return detections on the CPU, with boxes in pixels of the canvas."""
        with self._evaluated_model.eager_if_rare(batch):
            detections: Detections = self._evaluated_model.of(self.model)(batch.images, batch.sizes).cpu()
        self.evaluations["predict"].add(batch, detections)
        return detections

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._start_evaluation("test")

    def on_predict_epoch_start(self) -> None:
        self._start_evaluation("predict")

    def on_validation_epoch_end(self) -> None:
        self._score("val")
        self._mark_evaluated()

    def on_test_epoch_end(self) -> None:
        self._score("test")
        self._write_results("test")

    def on_predict_epoch_end(self) -> None:
        self._evaluated_model.end(self)
        self.evaluations["predict"].gather()
        self._write_results("predict")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = as_linear(checkpoint["state_dict"])
        super().on_save_checkpoint(checkpoint)

    def _evaluation_step(self, batch: Batch, split: str) -> Detections:
        model, losses = self._evaluated_model.of(self.model), None
        with self._evaluated_model.eager_if_rare(batch):
            features = model.features(batch.images, batch.sizes)
        # Each evaluation draws the same samples for the same images, so that losses are comparable.
        generator = self._generator(tuple(batch.image_ids.tolist()))
        if batch.targets is not None:
            losses = model.losses(batch, features, generator)
        detections: Detections = model(batch.images, batch.sizes, features)
        self.evaluations[split].add(batch, detections, losses)
        return detections

    def _start_evaluation(self, split: str) -> None:
        if split not in self.evaluations:
            with user_input():
                self.evaluations[split] = Evaluation(split, self._evaluator(split), self._map_evaluator(split))
        self.evaluations[split].start()
        self._evaluated_model.start(self, self.data.common_shapes(split) if self.compile_dense else set())

    def _map_evaluator(self, split: str) -> MapEvaluator | None:
        if not isinstance(self.model, WithSemanticHead):
            return None
        truth, config = self.data.splits.maps[self.data.splits.of_stage(split)], self.model.semantic_head.config
        if isinstance(self.model, SemanticFPN):
            return MapEvaluator(truth)
        merging = Merging(config.overlap, config.stuff_area, config.score)
        return MapEvaluator(truth, self.data.categories, merging, has_rounded_frames(self.model))

    def _evaluator(self, split: str) -> CocoEvaluator | None:
        if isinstance(self.model, SemanticFPN):
            return None
        return CocoEvaluator(
            self.data.ground_truth(split),
            iou_types(self.model),
            rounded_frames=has_rounded_frames(self.model),
            max_detections=self.data.config.detection_limits,
            keypoint_sigmas=self.data.config.keypoint_sigmas,
            pixel_corners=has_pixel_corners(self.model),
        )

    def _score(self, split: str) -> None:
        self._evaluated_model.end(self)
        evaluation, is_first = self.evaluations[split], self.trainer.is_global_zero
        losses, folder = evaluation.gather(), self.trainer.log_dir  # all ranks must call it
        metrics = self.trainer.strategy.broadcast(evaluation.score(losses) if is_first else {})
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})
        if is_first and not self.trainer.sanity_checking:
            for line in evaluation.report(metrics, precision_name(self.trainer.precision)):
                self.print(line)
            if folder is not None:
                evaluation.write_classes(Path(folder))

    def _write_results(self, split: str) -> None:
        folder = self.trainer.log_dir  # all ranks must call it
        if self.trainer.is_global_zero and folder is not None:
            for path in self.evaluations[split].write_results(Path(folder)):
                self.print(f"Results: {path}")
