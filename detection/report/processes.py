"""One process or several, as torchrun starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

# Whoever is first to import this while there is a group, as torchvision does, keeps the group for ever, as the default
# of ten functions: its threads outlive the end below, and now and then abort the interpreter's own.
import torch.distributed.nn.functional


@contextmanager
def processes() -> Iterator[int]:
    """The rank of this process; under ``torchrun``, connected with the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    # Detections are gathered as Python objects, which gloo moves whatever the device.
    dist.init_process_group("gloo")
    if torch.cuda.is_available():
        # More processes than GPUs, as for --device cpu, share them.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()
