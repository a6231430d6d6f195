"""The loss around a trained head: on a plane of two random directions, its largest curvature, and its rise in a ball.

The loss is the training objective over some training images, without dropout and with BatchNorm in training mode, on the
statistics of these images: this is the function that SAM flattens. All computations are in float64.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdd.losses import CvarAucLoss
from rdd.model import DetectorHead, Masks

Direction = dict[str, Tensor]
"""By name of a parameter, a step of its shape."""


@dataclass(frozen=True)
class Surroundings:
    """A head, the images that its loss is taken over, and the objective."""

    head: DetectorHead
    features: Tensor
    """``(N, D)``."""
    labels: Tensor
    """``(N,)``: 0 real, 1 generated."""
    loss: CvarAucLoss

    @classmethod
    def copy_of(cls, head: DetectorHead, features: Tensor, labels: Tensor, loss: CvarAucLoss) -> "Surroundings":
        """The surroundings of a copy of a head, in float64."""
        head = copy.deepcopy(head).double().train()
        head.track_statistics(False)
        return cls(head, features.double(), labels.double(), loss)

    def logits(self) -> Tensor:
        """Raw logits ``(N,)`` at the weights as they are."""
        return self.head(self.features, Masks([None] * len(self.head.hidden), None))

    def value(self) -> Tensor:
        """Loss at the weights as they are."""
        return self.loss(self.logits(), self.labels)

    def gradient(self) -> Direction:
        """Gradient at the weights as they are."""
        parameters = {name: param for name, param in self.head.named_parameters() if param.requires_grad}
        gradients = torch.autograd.grad(self.value(), list(parameters.values()), allow_unused=True)
        return {
            name: torch.zeros_like(param) if gradient is None else gradient
            for (name, param), gradient in zip(parameters.items(), gradients, strict=True)
        }

    @torch.no_grad()
    def move(self, direction: Direction, factor: float) -> None:
        """Move the weights."""
        for name, param in self.head.named_parameters():
            if name in direction:
                param.add_(direction[name], alpha=factor)


def filter_normalised(head: DetectorHead, *, seed: int) -> Direction:
    """A random direction in which every filter is as long as the head's own; biases and BatchNorm stand still.

    Reference:
        Li et al., Visualizing the Loss Landscape of Neural Nets, arXiv:1712.09913.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, param in head.named_parameters():
        if param.ndim == 2:
            step = torch.randn(param.shape, dtype=torch.float64, generator=generator)
            lengths = param.detach().double().norm(dim=1, keepdim=True)
            direction[name] = step * (lengths / step.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return direction


@torch.no_grad()
def losses_at(at: Surroundings, directions: tuple[Direction, Direction], points: Sequence[tuple[float, float]]) -> list[float]:
    """Loss at some points of a plane.

    Args:
        at: the surroundings; its weights are as before afterwards.
        directions: what spans the plane.
        points: coordinates along both.
    """
    start = {name: param.clone() for name, param in at.head.named_parameters()}
    values = []
    for point in points:
        for name, param in at.head.named_parameters():
            param.copy_(start[name])
        for direction, factor in zip(directions, point, strict=True):
            at.move(direction, factor)
        values.append(float(at.value()))
    for name, param in at.head.named_parameters():
        param.copy_(start[name])
    return values


def largest_eigenvalue(at: Surroundings, *, seed: int, iterations: int = 50, tolerance: float = 1e-4) -> float:
    """Largest eigenvalue of the Hessian in absolute value, with its sign, by power iteration.

    Products with the Hessian are exact: differences of gradients would measure the kinks of ReLU, hinge and CVaR instead.

    Args:
        at: the surroundings.
        seed: of the first vector.
        iterations: at most.
        tolerance: relative change of the eigenvalue at which it is taken as found.
    """
    generator = torch.Generator().manual_seed(seed)
    vector = {
        name: torch.randn(param.shape, dtype=torch.float64, generator=generator)
        for name, param in at.head.named_parameters()
        if param.requires_grad
    }
    value = 0.0
    for _ in range(iterations):
        vector = _scaled(vector, 1 / _norm(vector))
        product = _hessian_times(at, vector)
        before, value = value, sum(float((vector[name] * product[name]).sum()) for name in vector)
        if _norm(product) == 0 or abs(value - before) <= tolerance * abs(value):
            break
        vector = product
    return value


def _hessian_times(at: Surroundings, vector: Direction) -> Direction:
    parameters = dict(at.head.named_parameters())
    varied = [parameters[name] for name in vector]
    value = at.loss.twice_differentiable(at.logits(), at.labels)
    gradients = torch.autograd.grad(value, varied, create_graph=True, materialize_grads=True)
    along = torch.stack([(gradient * vector[name]).sum() for name, gradient in zip(vector, gradients, strict=True)]).sum()
    products = torch.autograd.grad(along, varied, materialize_grads=True)
    return dict(zip(vector, products, strict=True))


def rise_in_ball(at: Surroundings, *, radius: float, steps: int = 10) -> float:
    """Largest rise of the loss within a ball around the weights, by projected gradient ascent; the first step is SAM's.

    Args:
        at: the surroundings; its weights are as before afterwards.
        radius: of the ball, in the norm of all weights together.
        steps: of projected gradient ascent.
    """
    start = {name: param.detach().clone() for name, param in at.head.named_parameters()}
    loss_at_start = highest = float(at.value().detach())
    for _ in range(steps):
        gradient = at.gradient()
        length = _norm(gradient)
        if length == 0:
            break
        at.move(gradient, radius / length)
        offset = {name: param.detach() - start[name] for name, param in at.head.named_parameters()}
        with torch.no_grad():
            shrink = min(1.0, radius / _norm(offset))
            for name, param in at.head.named_parameters():
                param.copy_(start[name] + shrink * offset[name])
        highest = max(highest, float(at.value().detach()))
    with torch.no_grad():
        for name, param in at.head.named_parameters():
            param.copy_(start[name])
    return highest - loss_at_start


def _norm(direction: Direction) -> float:
    return float(torch.stack([step.norm() for step in direction.values()]).norm())


def _scaled(direction: Direction, factor: float) -> Direction:
    return {name: step * factor for name, step in direction.items()}
