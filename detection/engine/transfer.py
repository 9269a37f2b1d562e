"""Copy batches to the device, and resize their images there if the loader has not done so."""

from collections.abc import Callable

import torch

from detection.data.sample import Unresized
from detection.ops.resize import resize_images
from detection.structures import Batch


class Transfer:
    """Copy batches to a device; on CUDA, the copy overlaps with the previous step."""

    def __init__(self) -> None:
        self._side_stream: SideStream | None = None  # on CUDA

    def __call__(self, batch: Batch | Unresized, device: torch.device, copy: Callable[[Batch], Batch]) -> Batch:
        """Return the batch on the device; resize images there if the loader has not done so.

        Args:
            batch: batch on the CPU.
            device: target device.
            copy: Lightning's function that copies a batch to the device.
        """
        raw = batch.batch if isinstance(batch, Unresized) else batch
        if device.type == "cuda" and self._side_stream is None:
            self._side_stream = SideStream(device)
        moved = copy(raw) if self._side_stream is None else self._side_stream(lambda: copy(raw))
        # Keep the IDs on the CPU: no kernel needs them, and after an error of the device they would be unreadable.
        moved = moved._replace(image_ids=raw.image_ids)
        if not isinstance(batch, Unresized):
            return moved
        sizes, wanted, mirrored = batch.stored.tolist(), raw.sizes.tolist(), batch.mirrored.tolist()
        images = resize_images(moved.images, sizes, wanted, tuple(batch.canvas.tolist()), mirrored)
        return moved._replace(images=images)


class SideStream:
    """Copy batches on a separate CUDA stream, while the GPU computes the previous step.

    On the network's stream, a copy would wait for the backward pass and the optimizer of that step. The loader uses
    pinned memory for a GPU, so that the CPU does not wait for the copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def __call__(self, copy: Callable[[], Batch]) -> Batch:
        """Return the batch of ``copy``; later work on the network's stream waits for the end of the copy."""
        network = torch.cuda.current_stream(self._stream.device)
        with torch.cuda.stream(self._stream):
            batch = copy()
        network.wait_stream(self._stream)
        for tensor in _tensors(batch):
            if tensor.is_cuda:
                tensor.record_stream(network)  # otherwise the next copy could reuse its memory too early
        return batch


def _tensors(batch: Batch) -> list[torch.Tensor]:
    targets = batch.targets or ()
    return [value for value in (*batch, *targets) if isinstance(value, torch.Tensor)]
