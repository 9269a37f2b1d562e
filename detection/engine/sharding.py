"""Shard parameters, gradients and optimizer state over the devices, for ``--trainer.strategy fsdp``.

This is for backbones that one device cannot train. Each device keeps its part of every tensor, and gathers a block of
the backbone when it computes that block (PyTorch's ``fully_shard``; Rajbhandari et al. 2020, ZeRO, stage 3).
Checkpoints are single files as in every other run, and a run may resume with another strategy.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from backbones import Backbone
from detection.engine.errors import InputError
from detection.models.roi_linear import as_roi_linear

SMALL = 100_000
"""Blocks of a backbone with fewer parameters are gathered with the rest of the model, since each gather has a cost."""
STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class Sharded(ModelParallelStrategy):
    """Use Lightning's strategy for models that shard themselves in ``configure_model``, with whole checkpoints.

    Lightning alone would save the state of the optimizer in another order than the optimizer's, and load only
    checkpoints that it saved this way.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole weights on rank 0, and an empty dict on other ranks; all ranks must call this method."""
        assert self.model is not None
        return _whole(self.model.state_dict(), self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole state of the optimizer on rank 0, in its own order; all ranks must call this method."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        state = optimizer.state_dict()
        whole = {number: _whole(values, self.is_global_zero) for number, values in state["state"].items()}
        return {"state": whole, "param_groups": state["param_groups"]}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the whole checkpoint on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        own = self.model.state_dict()
        parts = {
            name: _part(as_roi_linear(value, own[name]), own[name]) for name, value in checkpoint["state_dict"].items()
        }
        self.model.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {name: _part(value, parameters[number]) for name, value in values.items()}
                for number, values in saved["state"].items()
            }
            optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def strategy_of(strategy: Strategy | str) -> Strategy | str:
    """Return the strategy for a value of ``trainer.strategy``: :class:`Sharded` for ``fsdp``, else the value itself.

    Raises:
        InputError: the value is another strategy that shards weights.
    """
    if strategy == "fsdp":
        return Sharded()
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    others = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
    if name.startswith(("fsdp", "deepspeed")) or isinstance(strategy, others):
        raise InputError(
            f"trainer.strategy {name} would not shard this detector, or would save checkpoints that no other strategy "
            "can read; use --trainer.strategy fsdp"
        )
    return strategy


def refuse_with_sharding(strategy: Strategy | str, config: Any) -> None:
    """Reject settings that need the whole model at once, if the strategy is :class:`Sharded`.

    Raises:
        InputError: such a setting is active; the message names it and an alternative.
    """
    if not isinstance(strategy, Sharded):
        return
    for option, given, instead in (
        ("run.average", config.run.average, "which keeps a second whole model; remove it, or use ddp"),
        ("model.compile", config.model.compile, "which compiles gathered weights; remove it, or use ddp"),
        ("trainer.sync_batchnorm", config.trainer.sync_batchnorm, "which is for ddp; use model.backbone.norm sync"),
    ):
        if given:
            raise InputError(f"trainer.strategy fsdp does not work with {option}, {instead}")


def shard(module: LightningModule, backbone: Backbone, device: torch.device) -> None:
    """Shard a module over all devices, in place: every rank keeps its part of each parameter of rank 0.

    Each forward and backward pass gathers one block of the backbone at a time, and everything else at once.
    """
    if isinstance(module, FSDPModule):
        return
    module.to(device).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # else PyTorch rejects it
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), 0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks(backbone):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in STEPS:
        register_fsdp_forward_method(module, name)
    # Gathered weights are contiguous, not channels-last; with channels-last images, all features are channels-last.
    backbone.register_forward_pre_hook(lambda _, given: (given[0].contiguous(memory_format=torch.channels_last),))


def blocks(backbone: Backbone) -> list[nn.Module]:
    """Return the parts of a backbone that run one after another and have at least :data:`SMALL` parameters."""
    try:
        layers = backbone.layers()
    except NotImplementedError:
        return []
    parts = [part for layer in layers for part in ([layer] if isinstance(layer, nn.Module) else layer)]
    found = _opened([part for part in parts if isinstance(part, nn.Module)])
    return [block for block in found if sum(p.numel() for p in block.parameters()) >= SMALL]


def gather(module: nn.Module) -> None:
    """Gather the whole weights on every rank for an evaluation, in which ranks have different numbers of batches.

    All ranks then use the statistics of norms of rank 0, as DDP does.
    """
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)
    for part in _shared(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release(module: nn.Module) -> None:
    """Free the gathered weights, and keep only this rank's part."""
    for part in _shared(module):
        part.reshard()
        if part is not module:  # the backward pass begins with the weights outside of the blocks
            part.set_reshard_after_forward(True, recurse=False)


def full(value: Tensor) -> Tensor:
    """Return the whole tensor of a tensor that may be sharded; all ranks must call this function."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _shared(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def _opened(parts: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Yield the members of ``Sequential`` and ``ModuleList`` modules, and other modules themselves.

    PyTorch gathers a module when it is called, and a backbone may call the members of a container instead.
    """
    for part in parts:
        if type(part) in (nn.Sequential, nn.ModuleList):
            yield from _opened(list(part.children()))
        else:
            yield part


def _whole(values: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """Return whole tensors on the CPU, gathered one after another; an empty dict if ``keep`` is false."""
    gathered = {}
    for name, value in values.items():
        value = full(value) if isinstance(value, Tensor) else value
        if keep:
            gathered[name] = value.cpu() if isinstance(value, Tensor) else value
    return gathered


def _part(value: Any, like: Tensor) -> Any:
    """Return this rank's part of a tensor that every rank has, if ``like`` is sharded and has its shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
