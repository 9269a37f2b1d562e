"""Run in one process, or in several that torchrun starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

# torchvision imports this module. If the first import happens while there is a group, ten functions keep the group as
# their default for ever. Its threads then outlive the end below, and sometimes abort the exit of the interpreter.
import torch.distributed.nn.functional


@contextmanager
def processes() -> Iterator[int]:
    """Yield the rank of this process; under ``torchrun``, connect it with the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    # Detections are gathered as Python objects, which gloo moves on every device.
    dist.init_process_group("gloo")
    if torch.cuda.is_available():
        # With more processes than GPUs, as for --device cpu, several processes use one GPU.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()
