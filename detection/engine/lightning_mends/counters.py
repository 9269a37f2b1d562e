"""Correct Lightning's counters of epochs and batches in a checkpoint, so that a run resumes at the right place."""

from typing import Any


def correct_counters(checkpoint: dict[str, Any], is_over: bool) -> None:
    """Correct the counters of a checkpoint before it is saved, in place.

    In a run that was resumed from the last batch of an epoch, Lightning does not count the next epoch as started. A run
    that resumes from a later checkpoint, in the middle of that epoch, would repeat the epoch.

    Lightning also reads a checkpoint from between two epochs as the end of the next one, and skips that epoch. This
    function saves such a checkpoint as one after the last batch of the epoch.

    Args:
        is_over: the epoch of the last batch has ended, and no other has started.
    """
    loop = checkpoint["loops"]["fit_loop"]
    for counts in loop["epoch_progress"].values():
        if is_over:
            counts["ready"] = counts["started"] = counts["processed"]
            counts["completed"] = counts["processed"] = counts["processed"] - 1
        elif counts["ready"] <= counts["completed"]:
            counts["ready"] = counts["started"] = counts["completed"] + 1
    if is_over:
        _leave_last_batch_open(loop["epoch_loop.batch_progress"])
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def count_validation(checkpoint: dict[str, Any]) -> None:
    """Mark the validation at the end of an epoch as done, in place, in a checkpoint that was saved after it.

    Otherwise Lightning returns to that validation, and trains one batch too many if the resumed run does not validate
    there.
    """
    loop = checkpoint["loops"]["fit_loop"]
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["total"]
    if batches["is_last_batch"] and epochs["processed"] < epochs["started"]:
        _leave_last_batch_open(batches)


def _leave_last_batch_open(batches: dict[str, Any]) -> None:
    """Count the last batch as processed, but not as completed: Lightning then continues with the next epoch."""
    for counts in (batches["total"], batches["current"]):
        if counts["completed"] == counts["processed"]:
            counts["completed"] -= 1
