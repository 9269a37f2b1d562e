"""Entries that a training adds to Lightning's checkpoints, and its continuation from one."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from detection.checkpoint import check_weights, checked_info, describe_model, detector_weights, plain
from detection.engine.checkpoint_checks import check_progress
from detection.engine.checks import check_categories, check_same_training
from detection.engine.errors import user_input
from detection.engine.lightning_mends.counters import correct_counters, count_validation
from detection.engine.lightning_mends.pending_evaluations import epoch_ends_with_evaluation, is_pending
from detection.engine.progress import rescale
from detection.models.roi_linear import as_linear

if TYPE_CHECKING:
    from detection.engine.module import DetectionModule


def complete_checkpoint(checkpoint: dict[str, Any], module: "DetectionModule") -> None:
    """Add to a checkpoint what describes the detector and the run, in place."""
    trainer = module.trainer
    checkpoint["state_dict"] = as_linear(checkpoint["state_dict"])
    checkpoint["rcnn"] = describe_model(module.model, module.configs)
    if trainer.state.fn != "fit":
        return
    checkpoint["optimizer_config"] = plain(asdict(module.given_optimizer))
    checkpoint["precision"] = str(trainer.precision)
    is_over = module.data.epoch_is_over
    correct_counters(checkpoint, is_over)
    checkpoint["evaluation_due"] = not is_over and is_pending(trainer, module.evaluated_batch)


def check_checkpoint(checkpoint: dict[str, Any], module: "DetectionModule", source: str) -> None:
    """Reject a checkpoint of other classes, of another detector or of a training with other settings, by name.

    Raises:
        InputError: naming what differs.
    """
    trainer = module.trainer
    with user_input():
        info = checked_info(checkpoint, source)
        check_progress(checkpoint, trainer, source)
        check_categories(info["categories"], module.model.categories)
        # Lightning will fill in the weights, but its error would be a page long.
        check_weights(module.model, detector_weights(checkpoint["state_dict"]), source)
        if trainer.state.fn == "fit":
            backbone: Any = module.configs["backbone"]
            check_same_training(checkpoint, plain(asdict(module.given_optimizer)), plain(asdict(backbone)))
            given = str(trainer.precision)
            if (trained := str(checkpoint.get("precision", given))[:40]) != given:
                module.print(f"Precision {given}, as given; the run that is resumed was trained in {trained} so far")


def continue_training(checkpoint: dict[str, Any], module: "DetectionModule") -> None:
    """Change the place of a training in its checkpoint to the batches of this run, in place.

    Sets ``module.evaluation_due`` where the run that wrote the checkpoint did not finish its last evaluation.
    """
    trainer, data = module.trainer, module.data
    saved = checkpoint.get(type(data).__name__)
    if trainer.state.fn != "fit" or not saved:
        return
    old = saved["step_images"], saved["accumulated"]
    new = data.config.batch_size, trainer.accumulate_grad_batches
    ends = False
    if old != new:
        data.load_state_dict(saved)  # Lightning does so after the module
        ends = rescale(checkpoint, old, new, data.batches_done, data.batches_per_epoch)
        module.print(f"Continues with batches of {new[0]} instead of {old[0]}; the schedule is kept in images")
    count_validation(checkpoint)
    module.evaluation_due = bool(checkpoint.get("evaluation_due"))
    module.evaluation_due |= ends and epoch_ends_with_evaluation(trainer, saved["epoch"], data.batches_per_epoch)
