"""Batches on their way to the device."""

from collections.abc import Callable

import torch

from detection.data.sample import Unresized
from detection.ops.resize import resize_images
from detection.structures import Batch


class Transfer:
    """Copies batches to a device, on CUDA while it still works on the step before."""

    def __init__(self) -> None:
        self._side_stream: SideStream | None = None  # on CUDA

    def __call__(self, batch: Batch | Unresized, device: torch.device, copy: Callable[[Batch], Batch]) -> Batch:
        """The batch on the device; images that the loader has not resized are resized there.

        Args:
            copy: Lightning's copy to the device.
        """
        raw = batch.batch if isinstance(batch, Unresized) else batch
        if device.type == "cuda" and self._side_stream is None:
            self._side_stream = SideStream(device)
        moved = copy(raw) if self._side_stream is None else self._side_stream(lambda: copy(raw))
        # Ids stay on the CPU: no kernel needs them, and after an error of the device nobody could read them there.
        moved = moved._replace(image_ids=raw.image_ids)
        if not isinstance(batch, Unresized):
            return moved
        sizes, wanted, mirrored = batch.stored.tolist(), raw.sizes.tolist(), batch.mirrored.tolist()
        images = resize_images(moved.images, sizes, wanted, tuple(batch.canvas.tolist()), mirrored)
        return moved._replace(images=images)


class SideStream:
    """Copies batches on a stream of its own, while the GPU still works on the step before.

    On the stream of the network a copy would wait for the backward pass and the optimizer of that step. Pinned memory,
    which the loader uses where there is a GPU, lets the CPU continue meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def __call__(self, copy: Callable[[], Batch]) -> Batch:
        """The batch that ``copy`` returns; later work on the network's stream waits until it is there."""
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
