"""Add the toolkit's entries to Lightning's checkpoints, check them, and resume from them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from detection.engine.checkpoint_checks import check_progress
from detection.engine.errors import user_input
from detection.engine.lightning_mends.counters import correct_counters, count_validation
from detection.engine.lightning_mends.pending_evaluations import epoch_ends_with_evaluation, is_pending
from detection.engine.progress import rescale
from detection.plain import plain
from detection.wording import plural

if TYPE_CHECKING:
    from detection.engine.resumable_module import ResumableModule


def complete_checkpoint(checkpoint: dict[str, Any], module: "ResumableModule") -> None:
    """Add entries that describe the model and the run to a checkpoint, in place."""
    trainer = module.trainer
    checkpoint["rcnn"] = module.description()
    if trainer.state.fn != "fit":
        return
    checkpoint["optimizer_config"] = plain(asdict(module.given_optimizer))
    checkpoint["precision"] = str(trainer.precision)
    is_over = module.data.epoch_is_over
    correct_counters(checkpoint, is_over)
    checkpoint["evaluation_due"] = not is_over and is_pending(trainer, module.evaluated_batch)


def check_checkpoint(checkpoint: dict[str, Any], module: "ResumableModule", source: str) -> None:
    """Reject a checkpoint of other classes, of another model or of a training with other settings.

    Raises:
        InputError: the checkpoint does not fit this run; the message names the difference.
    """
    trainer = module.trainer
    with user_input():
        module.check_model(checkpoint, source)
        check_progress(checkpoint, trainer, source)
        if trainer.state.fn == "fit":
            given = str(trainer.precision)
            if (trained := str(checkpoint.get("precision", given))[:40]) != given:
                module.print(f"Precision {given}, as given; the run that is resumed was trained in {trained} so far")


def continue_training(checkpoint: dict[str, Any], module: "ResumableModule") -> None:
    """Convert the counters of a checkpoint to the batches of this run, in place.

    Set ``module.evaluation_due`` if the run that wrote the checkpoint did not finish its last evaluation.
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
        module.print(
            f"Resuming with {plural(new[0], 'image')} per step instead of {old[0]}; the schedule continues at the same "
            "number of images"
        )
    count_validation(checkpoint)
    module.evaluation_due = bool(checkpoint.get("evaluation_due"))
    module.evaluation_due |= ends and epoch_ends_with_evaluation(trainer, saved["epoch"], data.batches_per_epoch)
