from types import SimpleNamespace

import pytest

from detection.engine.errors import InputError
from detection.engine.last_checkpoint import LastCheckpoint


def test_ranks_that_would_begin_from_different_checkpoints_are_told():
    """As where a file has not reached all nodes of a cluster yet."""
    trainer = SimpleNamespace(log_dir=None, is_global_zero=False, global_rank=3, ckpt_path=None)
    trainer.strategy = SimpleNamespace(broadcast=lambda _: "runs/a/checkpoints/last.ckpt")
    with pytest.raises(InputError, match=r"rank 3 would start from None, rank 0 from runs/a"):
        LastCheckpoint(30).setup(trainer, None, "fit")
    trainer.ckpt_path = "runs/a/checkpoints/last.ckpt"
    LastCheckpoint(30).setup(trainer, None, "fit")
