"""What our own backward passes share."""

import torch


def first_order_only(what: str) -> None:
    """Refuse to be differentiated twice: for a backward pass that gives its gradient in closed form, outside of any graph.

    Torch's ``once_differentiable`` lets it pass where the incoming gradient is a constant, and the second derivative would be
    silently wrong.

    Raises:
        RuntimeError: the backward pass is being recorded.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{what} can not be differentiated twice; take differences of gradients for second derivatives")
