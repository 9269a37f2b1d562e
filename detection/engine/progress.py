"""Change Lightning's counters in a checkpoint, for another batch size or to restart an epoch."""

from typing import Any


def rescale(
    checkpoint: dict[str, Any], before: tuple[int, int], now: tuple[int, int], in_epoch: int, epoch: int
) -> bool:
    """Change a checkpoint of Lightning in place, so that its run resumes with another batch size or accumulation.

    The schedule continues at the same number of seen images. The learning rate is proportional to the batch size
    (Goyal et al. 2017, section 2.1).

    Args:
        before: images and accumulated batches per optimizer step of the run that saved the checkpoint.
        now: images and accumulated batches per optimizer step of this run.
        in_epoch: finished batches of the current epoch, counted in batches of this run.
        epoch: batches per epoch of this run.

    Returns:
        Whether the current epoch ends now, because its remaining images do not fill a step of this run.
    """
    (images, accumulated), (images_now, accumulated_now) = before, now
    steps = images / images_now
    batches = steps * accumulated_now / accumulated
    loop = checkpoint["loops"]["fit_loop"]
    progress, state = loop["epoch_loop.batch_progress"], loop["epoch_loop.state_dict"]
    if "_batches_that_stepped" in state:
        # Lightning counts a step after its checkpoint; here the last step counts as finished.
        last = progress["total"]["completed"] < progress["total"]["processed"]
        state["_batches_that_stepped"] = round((state["_batches_that_stepped"] + last) * steps)
    progress["total"] = dict.fromkeys(progress["total"], round(progress["total"]["processed"] * batches))
    progress["current"] = dict.fromkeys(progress["current"], in_epoch)
    ends = in_epoch >= epoch and not progress["is_last_batch"]
    progress["is_last_batch"] = progress["is_last_batch"] or ends
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for count in (optimizer["step"], optimizer["zero_grad"], loop["epoch_loop.scheduler_progress"]):
        count["total"] = _times(count["total"], steps)
        count["current"] = dict.fromkeys(count["current"], in_epoch // accumulated_now)
    checkpoint["global_step"] = optimizer["step"]["total"]["completed"]
    for state in checkpoint.get("callbacks", {}).values():
        if "latest_update_step" in state:  # of the averaged weights, which only later steps update
            state["latest_update_step"] = min(state["latest_update_step"], checkpoint["global_step"])
    factor = images_now / images
    for schedule in checkpoint["lr_schedulers"]:
        schedule["last_epoch"] = round(schedule["last_epoch"] * steps)
        schedule["_step_count"] = schedule["last_epoch"] + 1
        for key in ("base_lrs", "_last_lr"):
            schedule[key] = [lr * factor for lr in schedule[key]]
    for one in checkpoint["optimizer_states"]:
        for group in one["param_groups"]:
            group |= {key: group[key] * factor for key in ("lr", "initial_lr") if key in group}
    return ends


def begin_epoch(checkpoint: dict[str, Any]) -> int:
    """Restart the epoch of a checkpoint, in place, or start the next epoch if it has ended; return its number.

    This is for a run with other images than before, for which it is unknown which images training has seen.
    """
    loop = checkpoint["loops"]["fit_loop"]
    batches, epoch = loop["epoch_loop.batch_progress"], int(loop["epoch_progress"]["current"]["processed"])
    if batches["is_last_batch"]:
        return epoch + 1
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for counts in (batches, optimizer["step"], optimizer["zero_grad"], loop["epoch_loop.scheduler_progress"]):
        counts["current"] = dict.fromkeys(counts["current"], 0)
    batches["total"] = dict.fromkeys(batches["total"], batches["total"]["ready"])
    return epoch


def _times(counts: dict[str, int], factor: float) -> dict[str, int]:
    return {name: round(count * factor) for name, count in counts.items()}
