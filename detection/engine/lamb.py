"""LAMB, an optimizer for large batches (You et al. 2020, "Large batch optimization for deep learning", algorithm 2)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """Adam's step, scaled for each tensor to the norm of its weights.

    A tensor without weight decay, such as a bias, takes Adam's step unscaled. The recipes of "ResNet strikes back" also
    clip the norm of all gradients at 1: ``--trainer.gradient_clip_val 1``.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay rates of the averages of the gradient and of its square.
        eps: number to add to the denominator.
        weight_decay: decoupled weight decay.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = Lamb(layer.parameters(), lr=5e-3, weight_decay=0.02)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        kernels = {"foreach": True, "fused": False}  # entries that the optimizers of PyTorch have
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **kernels})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters by their gradients.

        Args:
            closure: function that computes the gradients and returns the loss.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := [one for one in group["params"] if one.grad is not None]:
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Change the parameters of a group."""
        states = [self._state(one) for one in parameters]
        gradients: list[Any] = [one.grad for one in parameters]
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        (first, second), decay = group["betas"], group["weight_decay"]
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        for state in states:
            state["step"] += 1
        steps = [float(state["step"]) for state in states]
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [(1 - second**step) ** 0.5 for step in steps])
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(means, [1 - first**step for step in steps])
        torch._foreach_div_(updates, roots)
        if decay:
            torch._foreach_add_(updates, parameters, alpha=decay)
            norms = zip(torch._foreach_norm(parameters), torch._foreach_norm(updates), strict=True)
            torch._foreach_mul_(updates, [torch.where((w > 0) & (u > 0), w / u, 1.0) for w, u in norms])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        """Return the averages of a parameter, zero at first."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
