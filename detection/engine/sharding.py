"""``--trainer.strategy fsdp``: parameters, gradients and optimizer state sharded over the devices.

For backbones that one device cannot train. Each device keeps its part of every tensor, and gathers a block of the
backbone when it computes that block (PyTorch's ``fully_shard``; Rajbhandari et al. 2020, ZeRO, stage 3). Checkpoints
are the same single files that every other run writes, and a run may continue with another strategy.
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
"""Parts of a backbone with fewer parameters are gathered with the rest: each gathering has its price."""
STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for models that share themselves out in ``configure_model``, with whole checkpoints.

    Lightning would name the optimizer's state in another order than the optimizer does, and load what it saves itself
    only.
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
        """The whole weights on rank 0, nothing on the others; all ranks must call it."""
        assert self.model is not None
        return _whole(self.model.state_dict(), self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As :meth:`lightning_module_state_dict`, in the optimizer's own order."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        state = optimizer.state_dict()
        whole = {number: _whole(values, self.is_global_zero) for number, values in state["state"].items()}
        return {"state": whole, "param_groups": state["param_groups"]}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The whole of it, on every rank."""
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
    """The strategy for a value of ``trainer.strategy``: :class:`Sharded` for ``fsdp``.

    Raises:
        InputError: another strategy that shards weights.
    """
    if strategy == "fsdp":
        return Sharded()
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    others = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)
    if name.startswith(("fsdp", "deepspeed")) or isinstance(strategy, others):
        raise InputError(
            f"trainer.strategy {name} would not shard this detector, or would save what nothing else can read; "
            "use --trainer.strategy fsdp"
        )
    return strategy


def refuse_with_sharding(strategy: Strategy | str, config: Any) -> None:
    """Settings that would need the whole model at once.

    Raises:
        InputError: one of them together with :class:`Sharded`.
    """
    if not isinstance(strategy, Sharded):
        return
    for option, given, instead in (
        ("run.average", config.run.average, "which keeps a second whole model; leave it out, or use ddp"),
        ("model.compile", config.model.compile, "which compiles gathered weights; leave it out, or use ddp"),
        ("trainer.sync_batchnorm", config.trainer.sync_batchnorm, "which is for ddp; use model.backbone.norm sync"),
    ):
        if given:
            raise InputError(f"trainer.strategy fsdp does not go with {option}, {instead}")


def shard(module: LightningModule, backbone: Backbone, device: torch.device) -> None:
    """Share a module out over all devices, in place: every rank keeps its part of each parameter, of the first's.

    The blocks of the backbone are gathered one at a time, all else at once.
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
    # Gathered weights are contiguous; where the images are channels-last, all that follows is.
    backbone.register_forward_pre_hook(lambda _, given: (given[0].contiguous(memory_format=torch.channels_last),))


def blocks(backbone: Backbone) -> list[nn.Module]:
    """The parts of a backbone that are called one after another and are worth gathering by themselves."""
    try:
        layers = backbone.layers()
    except NotImplementedError:
        return []
    parts = [part for layer in layers for part in ([layer] if isinstance(layer, nn.Module) else layer)]
    found = _opened([part for part in parts if isinstance(part, nn.Module)])
    return [block for block in found if sum(p.numel() for p in block.parameters()) >= SMALL]


def gather(module: nn.Module) -> None:
    """Give every rank the whole weights for an evaluation, in which ranks have different numbers of batches.

    The statistics of norms are then those of rank 0, as DDP has them.
    """
    for buffer in module.buffers():
        dist.broadcast(buffer, 0)
    for part in _shared(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release(module: nn.Module) -> None:
    """Keep only this rank's part of the weights again."""
    for part in _shared(module):
        part.reshard()
        if part is not module:  # the backward pass begins with what is outside the blocks
            part.set_reshard_after_forward(True, recurse=False)


def full(value: Tensor) -> Tensor:
    """The whole tensor, of one that may be sharded; all ranks must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _shared(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def _opened(parts: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """Chains and lists of modules in their members, since it is those that are called."""
    for part in parts:
        if type(part) in (nn.Sequential, nn.ModuleList):
            yield from _opened(list(part.children()))
        else:
            yield part


def _whole(values: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """Tensors gathered on the CPU, one after another; an empty dict where they are not kept."""
    gathered = {}
    for name, value in values.items():
        value = full(value) if isinstance(value, Tensor) else value
        if keep:
            gathered[name] = value.cpu() if isinstance(value, Tensor) else value
    return gathered


def _part(value: Any, like: Tensor) -> Any:
    """This rank's part of what every rank has read, if ``like`` is sharded and of its shape."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
