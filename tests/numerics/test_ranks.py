"""N ranks on one rank's path: losses, gradients, weights."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from _runs import FEATURES, RankContext, assert_same, difference, fit_on, make_config, make_table, on_ranks

from rdd.config import Config
from rdd.engine import Learner, fit, predict, train_step
from rdd.features import Batch, rank_slice
from rdd.losses import CvarAucLoss, cvar_loss, pairwise_auc_loss
from rdd.model import DetectorHead, GlobalBatchNorm


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_walk_the_path_of_one(world: int, tmp_path: Path) -> None:
    config = make_config(train__epochs=6, model__dropout=0.335)
    one, many = fit_on(1, tmp_path / "one", config), fit_on(world, tmp_path / "many", config)
    assert one.epoch * 9 >= 50  # steps
    assert_same(one, many, 1e-9)
    for name in ("val/auroc", "train/one_class_batches"):
        assert one.history[-1][name] == many.history[-1][name]
    for name in ("train/loss", "train/grad_norm", "train/sharpness"):
        assert one.history[-1][name] == pytest.approx(many.history[-1][name], rel=1e-8)


def fit_one_epoch(folder: Path) -> None:
    """A rank that is gone after an epoch."""

    class Leaving(RankContext):
        def report(self, metrics) -> None:
            dist.barrier()  # rank 0 has written its checkpoint
            raise SystemExit(0)

    fit(make_config(model__dropout=0.335), make_table(), Leaving(folder))


@pytest.mark.parametrize(
    ("before", "after"), [pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_another_number_of_ranks_goes_on_along_the_same_path(before: int, after: int, tmp_path: Path) -> None:
    config = make_config(model__dropout=0.335)
    one = fit_on(1, tmp_path / "one", config)
    on_ranks(before, fit_one_epoch, tmp_path / "elastic")
    assert_same(one, fit_on(after, tmp_path / "elastic", config), 1e-9)


def normalise(folder: Path) -> None:
    features = norm_input().to(torch.bfloat16)[dist.get_rank() * 40 : dist.get_rank() * 40 + 40].requires_grad_()
    norm = GlobalBatchNorm(6)
    norm.group = dist.group.WORLD
    (norm(features).float() * weights_of(40 * dist.get_rank(), 40)).sum().backward()
    torch.save({"input": features.grad, "weight": norm.weight.grad}, folder / f"{dist.get_rank()}.pt")


def norm_input() -> torch.Tensor:
    return torch.randn(80, 6, generator=torch.Generator().manual_seed(0)) + 5.0


def weights_of(start: int, number: int) -> torch.Tensor:
    return torch.randn(80, 6, generator=torch.Generator().manual_seed(1))[start : start + number]


@pytest.mark.slow
def test_batch_norm_over_ranks_keeps_its_digits_in_bfloat16(tmp_path: Path) -> None:
    on_ranks(2, normalise, tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    exact = norm_input().to(torch.bfloat16).double().requires_grad_()
    norm = torch.nn.BatchNorm1d(6).double()
    (norm(exact) * weights_of(0, 80)).sum().backward()
    assert difference(norm.weight.grad, parts[0]["weight"] + parts[1]["weight"]) < 1e-2
    assert difference(exact.grad, torch.cat([part["input"] for part in parts])) < 2e-2


def global_batch(number: int, columns: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = (torch.arange(number) >= 5).double()  # the first rank holds one class
    return torch.randn(number, columns, dtype=torch.float64, generator=generator).squeeze(1), labels


LOSSES = {
    "both": lambda logits, labels, **given: CvarAucLoss(alpha=0.3, gamma=0.4, eta=0.6, p=2, **given)(logits, labels),
    "cvar": lambda logits, labels, **given: cvar_loss(logits.square(), alpha=0.3, **given),
    "auc": lambda logits, labels, **given: pairwise_auc_loss(logits, labels, eta=0.6, p=2.5, **given),
}


def save_gradients(folder: Path, sizes: list[int]) -> None:
    rank = dist.get_rank()
    logits, labels = global_batch(sum(sizes))
    start = sum(sizes[:rank])
    found = {}
    for name, loss in LOSSES.items():
        own = logits[start : start + sizes[rank]].clone().requires_grad_()
        value = loss(own, labels[start : start + sizes[rank]], group=dist.group.WORLD)
        value.backward()
        found[name] = {"value": value.detach(), "gradient": own.grad}
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.parametrize("sizes", [[12], [3, 9], pytest.param([2, 0, 5, 6], marks=pytest.mark.slow)])
def test_losses_over_ranks_have_the_gradients_of_the_gathered_batch(sizes: list[int], tmp_path: Path) -> None:
    on_ranks(len(sizes), save_gradients, tmp_path, sizes)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(sizes))]
    for name, loss in LOSSES.items():
        logits, labels = global_batch(sum(sizes))
        logits.requires_grad_()
        value = loss(logits, labels)
        value.backward()
        assert all(float(part[name]["value"]) == pytest.approx(float(value.detach()), rel=1e-13) for part in found)
        gathered = torch.cat([part[name]["gradient"] for part in found])
        torch.testing.assert_close(gathered, logits.grad, rtol=1e-11, atol=1e-14)


def single_precision() -> Config:
    return make_config(train__precision="fp32", model__hidden=256, train__batch_size=64, model__dropout=0.335)


def take_steps(learner: Learner, steps: int) -> None:
    context = learner.context
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        labels = (torch.arange(64) % 3 > 0).float()
        features = torch.randn(64, FEATURES, generator=generator) + 0.5 * labels[:, None]
        own = rank_slice(torch.arange(64), rank=context.rank, world_size=context.world_size)
        train_step(learner, Batch(features[own], labels[own]), step=step)


def save_steps(folder: Path) -> None:
    learner = Learner.build(single_precision(), FEATURES, RankContext(folder))
    take_steps(learner, 1)
    gradients = {name: param.grad.clone() for name, param in learner.model.named_parameters() if param.requires_grad}
    learner = Learner.build(single_precision(), FEATURES, learner.context)
    take_steps(learner, 10)
    logits = predict(learner.model, make_table(), torch.arange(60), "none")
    if learner.context.rank == 0:
        torch.save({"gradients": gradients, "logits": logits}, folder / f"{learner.context.world_size}.pt")


@pytest.mark.slow
def test_in_single_precision_ranks_differ_by_rounding_alone(tmp_path: Path) -> None:
    for world in (1, 2):
        on_ranks(world, save_steps, tmp_path)
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    for name, gradient in one["gradients"].items():
        assert difference(gradient, two["gradients"][name]) <= 1e-4, name
    assert difference(one["logits"], two["logits"]) <= 1e-5
    assert not torch.equal(one["logits"], two["logits"])  # it was computed in another order


def test_text_is_dropped_of_the_same_images_on_any_number_of_ranks() -> None:
    head = DetectorHead(8, hidden=4, layers=2, dropout=0.3, text_dropout=0.5)
    whole = head.draw_masks(11, torch.float64, torch.Generator().manual_seed(1))
    parts = [
        head.draw_masks(11, torch.float64, torch.Generator().manual_seed(1), rows=rows) for rows in (slice(0, 4), slice(4, 11))
    ]
    assert whole.text.any()
    assert not whole.text.all()
    assert torch.equal(whole.text, torch.cat([part.text for part in parts]))
    for layer in range(2):
        assert torch.equal(whole.hidden[layer], torch.cat([part.hidden[layer] for part in parts]))
    assert not torch.equal(whole.hidden[0], whole.hidden[1])
