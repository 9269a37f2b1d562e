import pytest

from detection.engine.errors import InputError
from detection.engine.lightning_mends.checkpoints import restoring_error


@pytest.mark.slow
def test_only_errors_of_lightnings_restoring_are_taken_for_the_files():
    from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

    class Restored:
        state = None
        datamodule = None

        @property
        def precision_plugin(self):
            raise KeyError("scale")

    connector = _CheckpointConnector(Restored())
    connector._loaded_checkpoint = {"a": 1}
    with pytest.raises(KeyError) as error:
        connector.restore_training_state()
    assert str(restoring_error(error.value, "a.ckpt")) == "a.ckpt: its training cannot be resumed (KeyError: 'scale')"
    assert restoring_error(KeyError("elsewhere"), "a.ckpt") is None
    assert restoring_error(InputError("told"), "a.ckpt") is None
