"""Batches on their way to the GPU."""

from collections.abc import Callable

import torch

from detection.structures import Batch


class SideStream:
    """Copies batches on a stream of its own, while the GPU still works on the step before.

    On the stream of the network a copy would wait for the backward pass and the optimizer of that step. Pinned memory,
    which the loader uses where there is a GPU, lets the processor go on meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def __call__(self, copy: Callable[[], Batch]) -> Batch:
        """What ``copy`` gives; what the network's stream does from now on waits until it is there."""
        network = torch.cuda.current_stream(self._stream.device)
        with torch.cuda.stream(self._stream):
            batch = copy()
        network.wait_stream(self._stream)
        for tensor in _tensors(batch):
            if tensor.is_cuda:
                tensor.record_stream(network)  # else its memory could be taken for the next copy too early
        return batch


def _tensors(batch: Batch) -> list[torch.Tensor]:
    targets = batch.targets or ()
    return [value for value in (*batch, *targets) if isinstance(value, torch.Tensor)]
