import copy

import pytest
import torch
from _no_host_sync import NoHostSync

from rdd.sam import SAM


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1)).double()


def closure_of(model: torch.nn.Module, optimizer: SAM | torch.optim.Optimizer, seed: int = 0):
    features = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(features).square().mean()
        loss.backward()
        return loss

    return closure


def sam_of(model: torch.nn.Module, rho: float = 0.05, **options) -> SAM:
    return SAM(model.parameters(), torch.optim.AdamW(model.parameters(), lr=1e-2), rho=rho, **options)


def test_one_step_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    sam = SAM([weight], torch.optim.SGD([weight], lr=0.1), rho=0.5)

    def closure() -> torch.Tensor:
        sam.zero_grad()
        loss = (weight**2 * torch.tensor([1.0, 3.0])).sum()
        loss.backward()
        return loss

    loss = sam.step(closure)
    gradient = torch.tensor([2.0, 12.0], dtype=torch.float64)
    start, curvature = torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 3.0]).double()
    worst = start + 0.5 * gradient / gradient.norm()
    expected = start - 0.1 * 2 * curvature * worst
    torch.testing.assert_close(weight.data, expected, rtol=1e-12, atol=0)
    assert float(loss.detach()) == 13.0


def test_adaptive_perturbation_is_scaled_by_the_weights() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    sam = SAM([weight], torch.optim.SGD([weight], lr=0.1), rho=0.5, adaptive=True)
    weight.grad = torch.tensor([3.0, 1.0], dtype=torch.float64)
    sam.first_step()
    scaled = torch.tensor([1.0, 2.0]) * torch.tensor([3.0, 1.0])
    expected = torch.tensor([1.0, -2.0]) + 0.5 * torch.tensor([1.0, 2.0]) * scaled / scaled.norm()
    torch.testing.assert_close(weight.data, expected.double())


def test_rho_zero_is_the_base_optimizer_to_the_bit() -> None:
    ours, plain = network(), network()
    sam, base = sam_of(ours, rho=0.0), torch.optim.AdamW(plain.parameters(), lr=1e-2)
    for seed in range(5):
        sam.step(closure_of(ours, sam, seed))
        closure_of(plain, base, seed)()
        base.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_weights_come_back_to_the_bit_before_the_base_step() -> None:
    model = network()
    sam = SAM(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.0), rho=3.0)
    before = copy.deepcopy(list(model.parameters()))
    sam.step(closure_of(model, sam))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_zero_gradient_is_safe() -> None:
    model = network()
    sam = sam_of(model, rho=1.0)
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    before = copy.deepcopy(list(model.parameters()))
    sam.first_step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    sam.second_step()
    assert all(torch.isfinite(param).all() for param in model.parameters())


@pytest.mark.parametrize("between", [False, True], ids=["after a step", "between the two steps"])
def test_saved_and_loaded_it_goes_on_as_if_nothing_happened(between: bool) -> None:
    whole, first = network(), network()
    sam, saved = sam_of(whole), sam_of(first)
    for seed in range(2):
        sam.step(closure_of(whole, sam, seed))
        saved.step(closure_of(first, saved, seed))
    if between:
        closure_of(first, saved, 2)()
        saved.first_step()
    second = copy.deepcopy(first)
    restored = sam_of(second, rho=9.0)
    restored.load_state_dict(copy.deepcopy(saved.state_dict()))
    if between:
        closure_of(second, restored, 2)()
        restored.second_step()
    else:
        restored.step(closure_of(second, restored, 2))
    sam.step(closure_of(whole, sam, 2))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_weights_whose_gradient_comes_and_goes_come_back_too() -> None:
    one, other = torch.nn.Parameter(torch.tensor([1.0])), torch.nn.Parameter(torch.tensor([5.0]))
    sam = SAM([one, other], torch.optim.SGD([one, other], lr=0.0), rho=0.5)
    one.grad = torch.tensor([1.0])
    sam.first_step()
    one.grad, other.grad = None, torch.tensor([1.0])
    sam.second_step()
    assert (float(one), float(other)) == (1.0, 5.0)


def test_a_schedule_of_the_base_optimizer_is_seen() -> None:
    model = network()
    sam = sam_of(model)
    sam.param_groups[0]["lr"] = 0.25
    assert sam.base_optimizer.param_groups[0]["lr"] == 0.25


def test_the_perturbation_does_not_wait_for_the_device() -> None:
    model = network()
    sam = SAM(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)
    closure_of(model, sam)()
    with NoHostSync():
        sam.first_step()
        sam.second_step()


def test_the_losses_do_not_wait_for_the_device() -> None:
    from rdd.losses import CvarAucLoss

    logits, labels = torch.randn(32, requires_grad=True), torch.randint(0, 2, (32,))
    with NoHostSync():
        CvarAucLoss(alpha=0.8, gamma=0.5, eta=0.6, p=2)(logits, labels).backward()


def test_wrong_arguments_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="rho must be at least 0"):
        sam_of(model, rho=-1.0)
    with pytest.raises(ValueError, match="params must be the parameters of base_optimizer"):
        SAM([torch.nn.Parameter(torch.zeros(1))], torch.optim.AdamW(model.parameters()), rho=0.1)
    with pytest.raises(ValueError, match="closure"):
        sam_of(model).step()


def test_both_steps_clear_the_gradients_where_asked_as_the_reference_implementation_does() -> None:
    model = network()
    sam = sam_of(model)
    closure_of(model, sam)()
    sam.first_step()
    assert all(param.grad is not None for param in model.parameters())
    sam.step_back()
    sam.first_step(zero_grad=True)
    assert all(param.grad is None for param in model.parameters())
    model(torch.ones(2, 6, dtype=torch.float64)).sum().backward()
    sam.second_step(zero_grad=True)
    assert all(param.grad is None for param in model.parameters())
