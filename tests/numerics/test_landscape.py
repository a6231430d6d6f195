import numpy as np
import pytest
import torch

from rdd.evaluation.landscape import Surroundings, filter_normalised, largest_eigenvalue, losses_at, rise_in_ball
from rdd.losses import CvarAucLoss
from rdd.model import DetectorHead, Masks


@pytest.fixture
def at() -> Surroundings:
    torch.manual_seed(0)
    head = DetectorHead(6, hidden=5, layers=2, dropout=0.3)
    features = torch.randn(64, 6)
    labels = (torch.arange(64) % 3 > 0).float()
    loss = CvarAucLoss(alpha=0.8, gamma=0.5, eta=0.6, p=2)
    return Surroundings.copy_of(head, features + labels[:, None], labels, loss)


def test_directions_are_as_long_as_the_filters(at: Surroundings) -> None:
    direction = filter_normalised(at.head, seed=3)
    parameters = dict(at.head.named_parameters())
    assert set(direction) == {name for name, param in parameters.items() if param.ndim == 2}
    for name, step in direction.items():
        torch.testing.assert_close(step.norm(dim=1), parameters[name].detach().norm(dim=1))
    assert not torch.equal(direction["out.weight"], filter_normalised(at.head, seed=4)["out.weight"])


def test_losses_on_the_plane_are_those_of_moved_weights(at: Surroundings) -> None:
    directions = filter_normalised(at.head, seed=0), filter_normalised(at.head, seed=1)
    before = {name: param.clone() for name, param in at.head.named_parameters()}
    middle, corner = losses_at(at, directions, [(0.0, 0.0), (0.5, -0.25)])
    assert middle == pytest.approx(float(at.value().detach()), rel=1e-14)
    assert all(torch.equal(before[name], param) for name, param in at.head.named_parameters())
    at.move(directions[0], 0.5)
    at.move(directions[1], -0.25)
    assert corner == pytest.approx(float(at.value().detach()), rel=1e-12)


def test_the_eigenvalue_is_that_of_the_whole_hessian(at: Surroundings) -> None:
    parameters = {name: param for name, param in at.head.named_parameters() if param.requires_grad}
    sizes = [param.numel() for param in parameters.values()]

    def gradient(flat: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for param, part in zip(parameters.values(), flat.split(sizes), strict=True):
                param.copy_(part.view_as(param))
        return torch.cat([step.flatten() for step in at.gradient().values()])

    start = torch.cat([param.detach().flatten() for param in parameters.values()])
    step = 1e-5
    rows = []
    for place in range(len(start)):
        unit = torch.zeros_like(start)
        unit[place] = step
        rows.append((gradient(start + unit) - gradient(start - unit)) / (2 * step))
    gradient(start)
    values = np.linalg.eigvalsh(torch.stack(rows).numpy())
    expected = values[np.argmax(np.abs(values))]
    assert largest_eigenvalue(at, seed=0, iterations=500, tolerance=1e-9) == pytest.approx(expected, rel=1e-3)


def test_the_rise_in_a_ball_is_at_least_that_of_sams_step_and_the_weights_stay(at: Surroundings) -> None:
    before = {name: param.clone() for name, param in at.head.named_parameters()}
    rise = rise_in_ball(at, radius=0.1)
    assert all(torch.equal(before[name], param) for name, param in at.head.named_parameters())
    start, gradient = float(at.value().detach()), at.gradient()
    length = float(torch.stack([step.norm() for step in gradient.values()]).norm())
    at.move(gradient, 0.1 / length)
    assert rise >= float(at.value().detach()) - start > 0


def test_the_landscape_is_without_dropout_and_on_batch_statistics(at: Surroundings) -> None:
    assert float(at.value().detach()) == float(at.value().detach())
    at.head.eval()
    masks = Masks([None, None], None)
    in_evaluation = float(at.loss(at.head(at.features, masks), at.labels).detach())
    at.head.train()
    assert float(at.value().detach()) != in_evaluation
