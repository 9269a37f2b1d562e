"""What Lightning writes down about where a run is: mended, and counted anew for another batch."""

from typing import Any


def rescale(
    checkpoint: dict[str, Any], before: tuple[int, int], now: tuple[int, int], in_epoch: int, epoch: int
) -> bool:
    """Change a checkpoint of Lightning in place, so that its run goes on with another batch size or accumulation.

    Whether the running epoch is over by that: the images that are left of it fill no step of this run.

    The schedule keeps its place in images seen; the learning rate follows the batch (Goyal et al. 2017, section 2.1).

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


def mend(checkpoint: dict[str, Any], over: bool) -> None:
    """Say where a run is in the way that Lightning (2.6) goes on from rightly, in place.

    A run that goes on from the last batch of an epoch does not count the next epoch as begun; a checkpoint from its
    middle would then begin that epoch again. And what is saved when an epoch is over would be taken for the next one's
    end, which would then be left out: it is saved as after the epoch's last batch.

    Args:
        over: the epoch of the last batch has ended, and no other has begun.
    """
    loop = checkpoint["loops"]["fit_loop"]
    for counts in loop["epoch_progress"].values():
        if over:
            counts["ready"] = counts["started"] = counts["processed"]
            counts["completed"] = counts["processed"] = counts["processed"] - 1
        elif counts["ready"] <= counts["completed"]:
            counts["ready"] = counts["started"] = counts["completed"] + 1
    if over:
        _before_its_end(loop["epoch_loop.batch_progress"])
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def begin_epoch(checkpoint: dict[str, Any]) -> int:
    """Begin the epoch of a checkpoint again, in place, or the next one if it has ended; which one that is.

    For images of which nobody can say which ones of the epoch the run has seen.
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


def validated(checkpoint: dict[str, Any]) -> None:
    """Count the validation at the end of an epoch as done, in place, in a checkpoint that was saved after it.

    Lightning (2.6) goes back to it, and trains one batch too many if the run that goes on does not validate there.
    """
    loop = checkpoint["loops"]["fit_loop"]
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["total"]
    if batches["is_last_batch"] and epochs["processed"] < epochs["started"]:
        _before_its_end(batches)


def _before_its_end(batches: dict[str, Any]) -> None:
    """As at the end of the last batch, after which Lightning makes up for nothing."""
    for counts in (batches["total"], batches["current"]):
        if counts["completed"] == counts["processed"]:
            counts["completed"] -= 1


def _times(counts: dict[str, int], factor: float) -> dict[str, int]:
    return {name: round(count * factor) for name, count in counts.items()}
