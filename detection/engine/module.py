"""The detector in Lightning's hands: what is computed at each step, and what is logged under which name.

Training logs ``train/loss`` and ``train/loss_*``; evaluation ``val/loss``, ``val/loss_*`` and ``val/bbox/AP`` ...
``val/segm/ARl`` (and the same under ``test/``); ``val/AP`` is that of masks, or of boxes where there are none.
"""

import math
import re
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from backbones import BackboneConfig
from detection import fast as faster
from detection.checkpoint import check_weights, checked_info, describe_model, detector_weights, plain
from detection.convert.pretrained import initialise
from detection.data.sample import Unresized
from detection.engine.checks import check_categories, check_configs, check_same_training
from detection.engine.clock import Clock
from detection.engine.due import evaluates_after, is_due
from detection.engine.errors import user_input
from detection.engine.opening import PRECISIONS
from detection.engine.optim import OptimizerConfig, build_optimizer
from detection.engine.progress import mend, rescale, validated
from detection.engine.resuming import Restoring, check_optimizers, check_progress
from detection.engine.schedule import ScheduleConfig, describe, plan
from detection.engine.sharding import Sharded, gather, release, shard
from detection.engine.transfer import SideStream
from detection.evaluation.coco import CocoEvaluator
from detection.evaluation.percent import percent
from detection.evaluation.results import write_results
from detection.fast.folding import folded
from detection.fast.rcnn import compile_model
from detection.models.box_head import BoxHeadConfig
from detection.models.build import build_detector
from detection.models.fpn import FPNConfig
from detection.models.mask_head import MaskHeadConfig
from detection.models.rcnn import FasterRCNN, MaskRCNN
from detection.models.roi_linear import as_linear
from detection.models.rpn import RPNConfig
from detection.ops.resize import resize_images
from detection.structures import Batch, Detections
from detection.wording import plural

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""Of the table of an evaluation, and recall at the largest limit."""
RAISE_LIMIT = "--data.max_detections {most}, with a model.box_head.detections that finds as many"
"""Of the table that an evaluation prints; all twelve numbers are logged."""


class DetectionModule(Restoring, LightningModule):
    """A detector, its optimizer and its evaluation.

    The detector is built in :meth:`setup`, since its classes come from the data module's annotations.
    """

    model: FasterRCNN

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        fpn: FPNConfig = FPNConfig(),  # noqa: B008
        rpn: RPNConfig = RPNConfig(),  # noqa: B008
        box_head: BoxHeadConfig = BoxHeadConfig(),  # noqa: B008
        mask_head: MaskHeadConfig | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008
        weights: str | None = None,
        compile: bool | Literal["graphs"] = False,
        fast: bool = True,
    ) -> None:
        """Take the settings; nothing is built yet, but settings that do not fit are refused.

        Args:
            backbone: Which backbone, with what weights, and what of it learns.
            fpn: Width and kind of the pyramid.
            rpn: Anchors, training samples and proposals.
            box_head: Layers, training samples and detections.
            mask_head: Layers of the mask head; null for Faster R-CNN.
            optimizer: What turns gradients into steps.
            schedule: How long training lasts, and how the learning rate rises and falls.
            weights: A whole detector's weights to start from, whose settings are then taken, too:
                torchvision:maskrcnn_resnet50_fpn_v2, detectron2:mask_rcnn_R_50_FPN_3x, mmdetection:NAME,
                ORIGIN:FILE, or a file; see docs/how-to/pretrained.md. backbone.weights is then not used.
            compile: Compile backbone, pyramid and RPN head with torch.compile. Training images are then padded to a
                few sizes, for each of which it takes a minute once; in evaluation, which pads each image as if it were
                alone, the most common sizes are compiled. Needs a C++ compiler on a CPU. With graphs, a GPU also
                records what is launched for each size, and replays it.
            fast: Use the faster forms of the layers, which give the same numbers up to rounding.

        Raises:
            InputError: an unknown backbone, or settings that no detector can have.
        """
        super().__init__()
        self.configs = {"backbone": backbone, "fpn": fpn, "rpn": rpn, "box_head": box_head, "mask_head": mask_head}
        self.optimizer_config, self.schedule_config, self.weights = optimizer, schedule, weights
        self._given_optimizer = optimizer  # Lightning's finder changes the other
        self.fast, self.compile_dense = fast, compile is not False
        self._graphs = compile == "graphs"
        self.clock: Clock | None = None  # set for a step whose parts are timed
        self.evaluators: dict[str, CocoEvaluator] = {}
        self._limits_told: set[str] = set()  # splits
        self._losses: list[tuple[int, Tensor]] = []  # of each evaluated batch: its images, and its losses
        self._loss_names: list[str] = []
        self._side_stream: SideStream | None = None  # on CUDA
        self._common_shapes: set[tuple[int, ...]] = set()  # of evaluation, if those are compiled
        self._resumed: tuple[dict[str, Any], str] | None = None  # a checkpoint and its path, until fit has begun
        self._folded: list[FasterRCNN] = []  # no part of this module, hence the list
        self._scored: int | None = None  # the batch, counted over epochs, after which the last evaluation finished
        self.evaluation_due = False  # in the run that is resumed, after its last step
        with user_input():
            check_configs(self.configs)
            optimizer.check()
            schedule.check()

    def setup(self, stage: str) -> None:
        """Build the detector for the classes of the annotations."""
        if hasattr(self, "model"):
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        configs: dict[str, Any] = dict(self.configs)
        if self.weights is not None:
            configs["backbone"] = replace(configs["backbone"], weights=None)
        with user_input():
            self.model = build_detector(len(data.categories), **configs)
            self.model.categories, self.model.test_size = data.categories, data.test_size
            self.model.resize, self.model.depth = data.resize, data.reading.depth
            if self.weights is not None:
                self.print(initialise(self.model, self.weights))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.fast:
            faster.convert(self.model)
        if self.compile_dense:
            compile_model(self.model, graphs=self._graphs)

    def configure_model(self) -> None:
        """Share the detector out over the devices where that was asked for; Lightning calls this after setup."""
        if self._is_sharded:
            shard(self, self.model.backbone, self.trainer.strategy.root_device)

    @property
    def _is_sharded(self) -> bool:
        return isinstance(self.trainer.strategy, Sharded)

    @property
    def lr(self) -> float:
        """The learning rate in use, after scaling; Lightning's finder reads and sets it."""
        return self.optimizer_config.lr * self._lr_scale

    @lr.setter
    def lr(self, value: float) -> None:
        factor = value / self.lr
        self.optimizer_config = replace(self.optimizer_config, lr=value / self._lr_scale)
        # The schedule multiplies what it began with.
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.base_lrs = [lr * factor for lr in config.scheduler.base_lrs]

    @property
    def _lr_scale(self) -> float:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return float(data.batch_size / self.schedule_config.reference_batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, its learning rate scaled with the batch, and the schedule in steps."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batch, epoch = data.batch_size, data.steps_per_epoch
        ends = [self.trainer.max_steps] if self.trainer.max_steps >= 0 else []
        if self.trainer.max_epochs is not None and self.trainer.max_epochs >= 0:
            ends.append(self.trainer.max_epochs * epoch)
        schedule = plan(self.schedule_config, batch, epoch, min(ends, default=None))
        lr = self.lr
        # Lightning cannot clip gradients that a fused optimizer still has to unscale (float16).
        # Not all fused kernels take parameters that are shared out.
        scaled = str(self.trainer.precision).startswith("16")
        fused = self.device.type in ("cuda", "cpu") and not scaled and not self._is_sharded
        optimizer = build_optimizer(self.model, self.optimizer_config, lr, fused)
        every, learn = (sum(p.numel() for p in self.parameters() if p.requires_grad or some) / 1e6 for some in (1, 0))
        name, precision = faster.plain_class(self.model).__name__, self.trainer.precision
        self.print(f"Model: {name}, {every:.1f} M parameters, {learn:.1f} M of them learn, in {precision}")
        self.print(describe(schedule, lr, batch, epoch))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule.factor), "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Check the optimizers' states, which Lightning takes in next, once there are optimizers."""
        if self._resumed is not None:
            with user_input():
                check_optimizers(self._resumed[0], self.trainer, self._resumed[1])
            self._resumed = None

    def on_train_start(self) -> None:
        """Begin with the schedule's rate; Lightning's finder leaves its own in the optimizer."""
        for config in self.trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if not isinstance(schedule, LambdaLR):  # the finder's own, while it looks
                continue
            rates = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
            for group, base, factor in rates:
                group["lr"] = base * factor(schedule.last_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Hold no gradients of the last step through the forward pass; they take as much as the weights that learn.

        Lightning would let them go behind it.
        """
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.zero_grad()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """``loss``, and its ``terms`` without gradient."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        # Not the global stream, so that a run that goes on draws what the uninterrupted one would have drawn.
        generator = self._generator((data.seed, self.trainer.current_epoch, batch_idx, self.global_rank))
        losses = self.model.losses(batch, generator=generator)
        loss = torch.stack(list(losses.values())).sum()
        terms = {name: value.detach() for name, value in losses.items()}
        self.log_dict({"train/loss": loss.detach()} | {f"train/{name}": value for name, value in terms.items()})
        return {"loss": loss, "terms": terms}

    def transfer_batch_to_device(self, batch: Batch | Unresized, device: torch.device, dataloader_idx: int) -> Batch:
        """Lightning's, timed; images that the loader has not resized are."""
        if self.clock is not None:
            self.clock("transfer")
        raw = batch.batch if isinstance(batch, Unresized) else batch
        copy = partial(super().transfer_batch_to_device, raw, device, dataloader_idx)
        if device.type == "cuda" and self._side_stream is None:
            self._side_stream = SideStream(device)
        moved: Batch = copy() if self._side_stream is None else self._side_stream(copy)
        # Nothing on the device asks for them, and after an error of the device nobody could read them there.
        moved = moved._replace(image_ids=raw.image_ids)
        if isinstance(batch, Unresized):
            sizes, wanted, mirrored = batch.stored.tolist(), raw.sizes.tolist(), batch.mirrored.tolist()
            images = resize_images(moved.images, sizes, wanted, tuple(batch.canvas.tolist()), mirrored)
            moved = moved._replace(images=images)
        return moved

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """``detections``; from one pass through the backbone, the losses are computed, too."""
        return {"detections": self._evaluation_step(batch, "val")}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """As validation."""
        return {"detections": self._evaluation_step(batch, "test")}

    def predict_step(self, batch: Batch, batch_idx: int) -> Detections:
        """Detections in canvas pixels, on the CPU."""
        with self._as_compiled(batch):
            detections: Detections = self._evaluated(batch.images, batch.sizes).cpu()
        self.evaluators["predict"].add(batch, detections)
        return detections

    def on_validation_epoch_start(self) -> None:
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        self._begin("test")

    def on_predict_epoch_start(self) -> None:
        self._begin("predict")

    def on_validation_epoch_end(self) -> None:
        self._score("val")
        if not self.trainer.sanity_checking:
            self._scored = self.trainer.fit_loop.total_batch_idx

    def on_test_epoch_end(self) -> None:
        self._score("test")
        self._write_results("test")

    def on_predict_epoch_end(self) -> None:
        self._gather("predict")
        self._write_results("predict")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = as_linear(checkpoint["state_dict"])
        checkpoint["rcnn"] = describe_model(self.model, self.configs)
        if self.trainer.state.fn == "fit":
            checkpoint["optimizer_config"] = plain(asdict(self._given_optimizer))
            checkpoint["precision"] = str(self.trainer.precision)
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            mend(checkpoint, data.epoch_is_over)
            checkpoint["evaluation_due"] = not data.epoch_is_over and is_due(self.trainer, self._scored)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what was trained for other classes or with other settings, by name; count on in images."""
        with user_input():
            source = str(self.trainer.ckpt_path or "checkpoint")
            info = checked_info(checkpoint, source)
            check_progress(checkpoint, self.trainer, source)
            self._resumed = checkpoint, source
            check_categories(info["categories"], self.model.categories)
            # Lightning will fill in the weights, but its error would be a page long.
            check_weights(self.model, detector_weights(checkpoint["state_dict"]), source)
            if self.trainer.state.fn == "fit":
                backbone: Any = self.configs["backbone"]
                check_same_training(checkpoint, plain(asdict(self._given_optimizer)), plain(asdict(backbone)))
                given = str(self.trainer.precision)
                if (trained := str(checkpoint.get("precision", given))[:40]) != given:
                    self.print(f"Precision {given}, as given; the run that is resumed was trained in {trained} so far")
        saved = checkpoint.get(type(self.trainer.datamodule).__name__)  # type: ignore[attr-defined]
        if self.trainer.state.fn == "fit" and saved:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            old = saved["step_images"], saved["accumulated"]
            new = data.batch_size, self.trainer.accumulate_grad_batches
            ends = False
            if old != new:
                data.load_state_dict(saved)  # Lightning does so after the module
                ends = rescale(checkpoint, old, new, data.batches_done(), data.batches_per_epoch)
                self.print(f"Goes on with batches of {new[0]} instead of {old[0]}; the schedule is kept in images")
            validated(checkpoint)
            self.evaluation_due = bool(checkpoint.get("evaluation_due"))
            self.evaluation_due |= ends and evaluates_after(self.trainer, saved["epoch"], data.batches_per_epoch)

    def _evaluation_step(self, batch: Batch, split: str) -> Detections:
        model = self._evaluated
        with self._as_compiled(batch):
            features = model.features(batch.images, batch.sizes)
        # The same samples for the same images at every evaluation, so that losses can be compared.
        generator = self._generator(tuple(batch.image_ids.tolist()))
        if batch.targets is not None:
            losses = model.losses(batch, features, generator)
            self._loss_names = list(losses)
            self._losses.append((len(batch.images), torch.stack(list(losses.values()))))
        detections: Detections = model(batch.images, batch.sizes, features)
        self.evaluators[split].add(batch, detections)
        return detections

    @property
    def _evaluated(self) -> FasterRCNN:
        return self._folded[0] if self._folded else self.model

    def _as_compiled(self, batch: Batch) -> AbstractContextManager[Any]:
        """Evaluation pads each image as if it were alone, to many sizes; the rare ones are not worth compiling."""
        size, _, *canvas = batch.images.shape
        eager = self.compile_dense and (size, *canvas) not in self._common_shapes
        return torch.compiler.set_stance("force_eager") if eager else nullcontext()

    def _generator(self, key: tuple[int, ...]) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(zlib.crc32(repr(key).encode()))

    def _begin(self, split: str) -> None:
        self._losses = []
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.compile_dense:
            self._common_shapes = data.common_shapes(split)
        if split not in self.evaluators:
            iou_types = ("bbox", "segm") if self.configs["mask_head"] is not None else ("bbox",)
            with user_input():
                rounded = isinstance(self.model, MaskRCNN) and self.model.mask_head.config.rounded_frames
                self.evaluators[split] = CocoEvaluator(
                    data.ground_truth(split), iou_types, rounded_frames=rounded, max_detections=data.max_detections
                )
        self.evaluators[split].reset()
        if self._is_sharded:
            gather(self)
        elif self.trainer.precision == "bf16-mixed" and not self.compile_dense:
            self._folded = [folded(self.model)]

    def _gather(self, split: str) -> list[float]:
        """Bring the detections of all ranks together, in one exchange; the mean losses over all images."""
        self._folded = []
        if self._is_sharded:
            release(self)
        evaluator = self.evaluators[split]
        sums = []
        if self._losses:
            images = torch.tensor([[images] for images, _ in self._losses], dtype=torch.float64)
            means = torch.stack([losses for _, losses in self._losses]).cpu().double()  # no float64 on Apple's GPUs
            sums = torch.cat([means * images, images], dim=1).sum(dim=0).tolist()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            states: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(states, (evaluator.state(), sums))
            evaluator.reset()
            evaluator.merge(state for state, _ in states)
            sums = [sum(values) for values in zip(*(part for _, part in states if part), strict=True)]
        return [value / sums[-1] for value in sums[:-1]]

    def _score(self, split: str) -> None:
        means = self._gather(split)
        metrics: dict[str, float] = {}
        if self.trainer.is_global_zero:
            if means:
                metrics = {"loss": sum(means)} | dict(zip(self._loss_names, means, strict=True))
            metrics |= self.evaluators[split].evaluate()
            both = (metrics.get(f"{iou_type}/AP", math.nan) for iou_type in ("segm", "bbox"))
            metrics["AP"] = next((ap for ap in both if not math.isnan(ap)), math.nan)
        metrics = self.trainer.strategy.broadcast(metrics)
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})
        if not self.trainer.sanity_checking:
            self.print(table(metrics, split, PRECISIONS.get(str(self.trainer.precision), str(self.trainer.precision))))
            self._tell_limits(split)
            if self.evaluators[split].dropped:
                self.print(f"Not scored, as not finite: {plural(self.evaluators[split].dropped, 'detection')}")

    def _tell_limits(self, split: str) -> None:
        """Tell once which images have more than is scored."""
        evaluator = self.evaluators[split]
        if split in self._limits_told or not self.trainer.is_global_zero:
            return
        self._limits_told.add(split)
        for iou_type in evaluator.iou_types:
            for line in evaluator.beyond_limit(iou_type, RAISE_LIMIT):
                self.print(line)

    def _write_results(self, split: str) -> None:
        folder = self.trainer.log_dir  # asks all ranks
        if self.trainer.is_global_zero and folder is not None:
            for iou_type in self.evaluators[split].iou_types:
                path = Path(folder) / f"results_{iou_type}.json"
                write_results(path, self.evaluators[split].results(iou_type))
                self.print(f"Results: {path}")


def table(metrics: Mapping[str, float], split: str, precision: str) -> str:
    """The important numbers of an evaluation, in percent, and the precision it was computed in."""
    recall = [name.partition("/")[2] for name in metrics if re.fullmatch(r"\w+/AR\d+", name)]
    columns = (*COLUMNS, *sorted(recall, key=lambda name: int(name[2:]))[-1:])
    rows = [f"{split}: COCO numbers in percent, computed in {precision}"]
    rows.append(" " * 8 + "".join(f"{name:>7s}" for name in columns))
    for iou_type in ("bbox", "segm"):
        if f"{iou_type}/AP" in metrics:
            numbers = (percent(metrics[f"{iou_type}/{name}"], "n/a") for name in columns)
            rows.append(f"{iou_type:8s}" + "".join(f"{number:>7s}" for number in numbers))
    losses = [f"{name} {value:.3f}" for name, value in metrics.items() if name.startswith("loss")]
    return "\n".join([*rows, *([" ".join(losses)] if losses else [])])
