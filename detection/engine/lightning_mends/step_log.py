"""Log the metrics of a step if the run ends inside a callback of that step."""

from lightning.pytorch import Trainer


def log_step(trainer: Trainer) -> None:
    """Send the metrics of the current step to the loggers, if the logging interval includes this step.

    Lightning does so after the callbacks at the end of a step. It loses the metrics if a callback raises an error.

    Example:
        >>> log_step(trainer)  # doctest: +SKIP
        >>> raise StoppedError(15, "after step 20")  # doctest: +SKIP
    """
    connector = trainer._logger_connector
    connector.on_batch_end()
    connector.update_train_step_metrics()
