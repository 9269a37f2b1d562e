"""What a step has logged, for a run that ends within a callback of that step."""

from lightning.pytorch import Trainer


def log_step(trainer: Trainer) -> None:
    """Give the metrics of the running step to the loggers, if this step is one that is logged.

    Lightning does so after the callbacks of a step's end, so it loses the metrics if one of them raises an error.

    Example:
        >>> log_step(trainer)  # doctest: +SKIP
        >>> raise StoppedError(15, "after step 20")  # doctest: +SKIP
    """
    connector = trainer._logger_connector
    connector.on_batch_end()
    connector.update_train_step_metrics()
