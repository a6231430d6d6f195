r"""Sharpness-aware minimization (Foret et al., arXiv:2010.01412) around any optimizer.

.. math:: \epsilon = \rho \, g / \|g\|_2, \qquad \theta \leftarrow \mathrm{base}(\theta, \nabla L(\theta + \epsilon))
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class SAM(torch.optim.Optimizer):
    """Two passes a step: up to the worst point nearby, and down from where it started by the gradient found there.

    The gradients must be those of the whole batch when ``first_step`` is called (summed over ranks, unscaled). Nothing here
    waits for the device.

    Args:
        params: the parameters of ``base_optimizer``.
        base_optimizer: takes the step down; its ``param_groups`` are this optimizer's, so schedules see one learning rate.
        rho: radius of the perturbation, at least 0; 0 leaves the weights where they are.
        adaptive: scale the perturbation by each weight (ASAM, arXiv:2102.11600): eps = rho w^2 g / ||w g||.

    Raises:
        ValueError: ``rho`` is negative or not finite, or the parameters are not those of the base optimizer.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> sam = SAM([weight], torch.optim.SGD([weight], lr=0.1), rho=5.0)
        >>> weight.grad = weight.detach().clone()
        >>> norm = sam.first_step()
        >>> weight.data
        tensor([6., 8.])
        >>> weight.grad = weight.detach().clone()
        >>> sam.second_step()
        >>> weight.data
        tensor([2.4000, 3.2000])
    """

    def __init__(
        self, params: Iterable[Tensor], base_optimizer: torch.optim.Optimizer, *, rho: float, adaptive: bool = False
    ) -> None:
        if not 0 <= rho < float("inf"):
            raise ValueError(f"rho must be at least 0 and finite, got {rho}")
        ids = [id(param) for param in params]
        if sorted(ids) != sorted(id(param) for group in base_optimizer.param_groups for param in group["params"]):
            raise ValueError("params must be the parameters of base_optimizer, got others")
        super().__init__([{"params": list(group["params"])} for group in base_optimizer.param_groups], {})
        self.base_optimizer = base_optimizer
        self.param_groups = base_optimizer.param_groups
        self.rho = rho
        self.adaptive = adaptive
        self._before: list[tuple[Tensor, Tensor]] | None = None
        """The weights that were moved, and what they were."""

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> Tensor:
        """Move the weights by the perturbation.

        Args:
            zero_grad: clear the gradients afterwards, for the second pass.

        Returns:
            The norm of the gradient, a scalar on its device.
        """
        assert self._before is None, "second_step has to follow first_step"
        params = self._with_grad()
        gradients = [param.grad for param in params if param.grad is not None]
        self._before = [(param, param.clone()) for param in params]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        scaled = torch._foreach_mul(torch._foreach_abs(params), gradients) if self.adaptive else gradients
        radius = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(scaled)))
        scale = torch.where(radius > 0, self.rho / radius, torch.zeros_like(radius))
        if self.adaptive:
            scaled = torch._foreach_mul(torch._foreach_abs(params), list(scaled))
        torch._foreach_add_(params, torch._foreach_mul(list(scaled), scale))
        if zero_grad:
            self.zero_grad()
        return norm

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Put the weights back, to the bit, and let the base optimizer step along the gradient found at the worst point.

        Args:
            zero_grad: clear the gradients afterwards, for the next step.
        """
        assert self._before is not None, "first_step has to come before second_step"
        self.step_back()
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step_back(self) -> None:
        """Put the weights back, to the bit, without a step: what is left to do when the second pass fails."""
        if self._before:
            params, saved = zip(*self._before, strict=True)
            torch._foreach_copy_(list(params), list(saved))
        self._before = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Both steps.

        Args:
            closure: clears the gradients, computes the loss of the batch and its gradients, and returns the loss; called twice.

        Returns:
            The loss at the weights, not at the perturbed ones.
        """
        if closure is None:
            raise ValueError("step needs a closure that computes loss and gradients, got none")
        closure = torch.enable_grad()(closure)
        loss = closure()
        self.first_step()
        closure()
        self.second_step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.base_optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and, between the two steps, the weights to go back to."""
        before = None
        if self._before is not None:
            known = {id(param): saved for param, saved in self._before}
            before = [known[id(param)].clone() if id(param) in known else None for param in self._params()]
        return {"base": self.base_optimizer.state_dict(), "rho": self.rho, "adaptive": self.adaptive, "before": before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; weights and gradients are the caller's to restore."""
        self.base_optimizer.load_state_dict(state_dict["base"])
        self.param_groups = self.base_optimizer.param_groups
        self.rho, self.adaptive = state_dict["rho"], state_dict["adaptive"]
        self._before = None
        if state_dict["before"] is not None:
            pairs = zip(self._params(), state_dict["before"], strict=True)
            self._before = [(param, saved.to(param.device, copy=True)) for param, saved in pairs if saved is not None]

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _with_grad(self) -> list[Tensor]:
        return [param for param in self._params() if param.grad is not None]
