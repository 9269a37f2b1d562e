"""Lightning's counters in a checkpoint, changed for another batch size, or to begin an epoch again."""

from typing import Any


def rescale(
    checkpoint: dict[str, Any], before: tuple[int, int], now: tuple[int, int], in_epoch: int, epoch: int
) -> bool:
    """Change a checkpoint of Lightning in place, so that its run continues with another batch size or accumulation.

    The schedule keeps its place in images seen; the learning rate follows the batch (Goyal et al. 2017, section 2.1).

    Returns:
        Whether the running epoch ends by that, because the images that are left of it fill no step of this run.

    Args:
        before: images per optimizer step, and batches accumulated for it, when it was saved.
        now: the same in this run.
        in_epoch: batches of the running epoch that count as done, in this run's batches.
        epoch: batches of an epoch, in this run's batches.
    """
    (images, accumulated), (images_now, accumulated_now) = before, now
    steps = images / images_now
    batches = steps * accumulated_now / accumulated
    loop = checkpoint["loops"]["fit_loop"]
    progress, state = loop["epoch_loop.batch_progress"], loop["epoch_loop.state_dict"]
    if "_batches_that_stepped" in state:
        # Lightning counts a step after its checkpoint; here the last step counts as over.
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
        if "latest_update_step" in state:  # of the average, which takes in later steps only
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
    """Begin the epoch of a checkpoint again, in place, or the next epoch if it has ended; returns its number.

    For a run that has other images than before: nobody can say which of them it has seen.
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
