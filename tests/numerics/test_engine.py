"""The training loop: N ranks on one rank's path, exact resume, and what a step must not do."""

import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from rdd.checkpoint import TrainState, load_state, save_state
from rdd.cli import override
from rdd.config import Config, OptimizerConfig
from rdd.engine import Learner, fit, train_step
from rdd.features import Batch, FeatureTable, rank_slice
from rdd.run_directory import LocalContext, RunDirectory
from rdd.schedule import learning_rate

FEATURES, EPOCHS = 12, 3


def make_table(records: int = 80) -> FeatureTable:
    """Features of records of three images, the generated ones shifted."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3 * records, FEATURES, generator=generator)
    labels = torch.tensor([0.0, 1.0, 1.0]).repeat(records)
    return FeatureTable(
        rows=(images + 0.7 * labels[:, None]).half(),
        has_text=False,
        order=torch.arange(3 * records),
        record_of=torch.arange(records).repeat_interleave(3),
        labels=labels,
        generator_of=torch.tensor([0, 1, 2]).repeat(records),
        generators=("real", "a", "b"),
        record_ids=tuple(f"r{i}" for i in range(records)),
        manifest={"embed_dim": FEATURES},
        manifest_sha256="",
    )


def make_config(**changes: Any) -> Config:
    base = {
        "features.text_mode": "none",
        "features.validation_share": 0.2,
        "features.test_share": 0.2,
        "model.hidden": 16,
        "model.dropout": 0.0,
        "train.precision": "fp64",
        "train.batch_size": 17,
        "train.epochs": EPOCHS,
    }
    return override(Config(), base | {name.replace("__", "."): value for name, value in changes.items()})


class RankContext(LocalContext):
    """A rank of a gloo group; only rank 0 keeps checkpoints."""

    def __init__(self, folder: str) -> None:
        super().__init__(RunDirectory(folder), lambda metrics: None)
        self.rank, self.world_size, self.group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD

    def save(self, state: TrainState, *, best: bool) -> None:
        if self.rank == 0:
            super().save(state, best=best)


def run_rank(rank: int, world: int, folder: str, config: Config, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    fit(config, make_table(), RankContext(folder))
    dist.destroy_process_group()


def fit_on(world: int, folder: Path, config: Config) -> TrainState:
    """Last state of a run on some ranks."""
    if world == 1:
        return fit(config, make_table(), LocalContext(RunDirectory(str(folder)), lambda metrics: None))
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=run_rank, args=(rank, world, str(folder), config, port)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * world
    return load_state(RunDirectory(str(folder)).checkpoint("last"))


def assert_same(one: TrainState, other: TrainState, tolerance: float) -> None:
    for name, tensor in one.model.items():
        difference = (tensor.double() - other.model[name].double()).norm() / tensor.double().norm().clamp(min=1e-12)
        # the bias in front of BatchNorm has no gradient, and AdamW makes steps of its rounding noise
        if not re.fullmatch(r"hidden\.\d+\.0\.bias", name):
            assert difference <= tolerance, (name, float(difference))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_walk_the_path_of_one(world: int, tmp_path: Path) -> None:
    one = fit_on(1, tmp_path / "one", make_config())
    many = fit_on(world, tmp_path / "many", make_config())
    assert_same(one, many, 1e-9)
    assert one.history[-1]["val/auroc"] == many.history[-1]["val/auroc"]
    assert one.history[-1]["train/loss"] == pytest.approx(many.history[-1]["train/loss"], rel=1e-10)


def test_a_run_interrupted_after_any_epoch_goes_on_to_the_bit(tmp_path: Path) -> None:
    config = make_config(model__dropout=0.3, train__precision="fp32")
    whole = fit_on(1, tmp_path / "whole", config)

    class Interrupted(LocalContext):
        def report(self, metrics) -> None:
            raise KeyboardInterrupt

    run = RunDirectory(str(tmp_path / "pieces"))
    for _ in range(EPOCHS - 1):
        with pytest.raises(KeyboardInterrupt):
            fit(config, make_table(), Interrupted(run, lambda metrics: None))
    pieces = fit(config, make_table(), LocalContext(run, lambda metrics: None))
    assert all(torch.equal(whole.model[name], pieces.model[name]) for name in whole.model)
    assert [row["epoch"] for row in pieces.history] == [1, 2, 3]
    best = run.load("best")
    assert best is not None
    assert best.best_epoch == whole.best_epoch == best.epoch


def test_fewer_ranks_go_on_along_the_same_path(tmp_path: Path) -> None:
    one = fit_on(1, tmp_path / "one", make_config())
    folder = tmp_path / "elastic"
    run = RunDirectory(str(folder))

    class Interrupted(LocalContext):
        def report(self, metrics) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make_config(), make_table(), Interrupted(run, lambda metrics: None))
    assert_same(one, fit_on(2, folder, make_config()), 1e-9)


def learner_of(config: Config, tmp_path: Path) -> Learner:
    return Learner.build(config, FEATURES, LocalContext(RunDirectory(str(tmp_path)), lambda metrics: None))


def batch_of(number: int = 20, bad: float = 0.0) -> Batch:
    features = torch.randn(number, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features[0, 0] += bad
    return Batch(features, (torch.arange(number) % 3 > 0).double())


def test_rho_zero_is_the_engine_without_sam_to_the_bit(tmp_path: Path) -> None:
    with_sam, without = (
        learner_of(make_config(model__dropout=0.3, **changes), tmp_path)
        for changes in ({"sam__rho": 0.0}, {"sam__enabled": False})
    )
    for step in range(5):
        for learner in (with_sam, without):
            train_step(learner, batch_of(), step=step)
    states = [learner.model.state_dict() for learner in (with_sam, without)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_statistics_move_once_a_step(tmp_path: Path) -> None:
    learner = learner_of(make_config(), tmp_path)
    batch = batch_of()
    linear = learner.model.hidden[0][0]
    expected = 0.1 * linear(batch.features).mean(0)
    train_step(learner, batch, step=0)
    torch.testing.assert_close(learner.model.hidden[0][1].running_mean, expected.detach())


def test_both_passes_see_one_dropout_mask_unless_asked_otherwise(tmp_path: Path) -> None:
    same, fresh = (
        train_step(
            learner_of(make_config(model__dropout=0.5, sam__rho=0.0, sam__fresh_dropout=flag), tmp_path), batch_of(), step=0
        )
        for flag in (False, True)
    )
    assert float(same["sharpness"]) == 0.0
    assert float(fresh["sharpness"]) != 0.0


def test_a_loss_that_is_not_finite_stops_before_any_weight_moves(tmp_path: Path) -> None:
    learner = learner_of(make_config(), tmp_path)
    before = {name: param.clone() for name, param in learner.model.named_parameters()}
    with pytest.raises(RuntimeError, match="the loss is not finite at step 7"):
        train_step(learner, batch_of(bad=float("inf")), step=7)
    assert all(torch.equal(before[name], param) for name, param in learner.model.named_parameters())


def test_the_head_of_the_paper_has_its_parameters() -> None:
    from rdd.model import DetectorHead

    assert sum(param.numel() for param in DetectorHead(1536).parameters()) == 7_093_249


def test_a_torn_checkpoint_is_said(tmp_path: Path) -> None:
    state = TrainState(1, {"w": torch.ones(2)}, {}, 0.5, 1, [{"epoch": 1.0}])
    save_state(str(tmp_path / "a.pt"), state)
    assert torch.equal(load_state(str(tmp_path / "a.pt")).model["w"], torch.ones(2))
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(RuntimeError, match=r"a\.pt is torn or no checkpoint"):
        load_state(str(tmp_path / "a.pt"))


def test_schedules() -> None:
    cosine = [learning_rate(OptimizerConfig(), step=step, steps_per_epoch=10, epochs=10) for step in range(100)]
    assert cosine[0] < cosine[4] < 1e-3
    assert max(cosine) == pytest.approx(1e-3)
    assert cosine[-1] == pytest.approx(1e-5, rel=0.1)
    config = OptimizerConfig(schedule="official")
    official = [learning_rate(config, step=step, steps_per_epoch=10, epochs=32) for step in range(320)]
    param = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([param], lr=1e-3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=1e-5)
    for epoch in range(32):
        assert official[epoch * 10 : epoch * 10 + 10] == pytest.approx([optimizer.param_groups[0]["lr"]] * 10)
        optimizer.step()
        theirs.step()


def rank_gradients(rank: int, world: int, folder: str, port: int, sizes: list[int]) -> None:
    from rdd.losses import CvarAucLoss

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    logits, labels = global_batch(sum(sizes))
    start = sum(sizes[:rank])
    own = logits[start : start + sizes[rank]].clone().requires_grad_()
    loss = CvarAucLoss(alpha=0.3, gamma=0.4, eta=0.6, p=2, group=dist.group.WORLD)
    value = loss(own, labels[start : start + sizes[rank]])
    value.backward()
    torch.save({"value": value.detach(), "gradient": own.grad}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def global_batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = (torch.arange(number) >= 5).double()  # the first rank holds one class
    return torch.randn(number, dtype=torch.float64, generator=generator), labels


@pytest.mark.parametrize("sizes", [[3, 9], [2, 0, 5, 6]])
def test_losses_over_ranks_have_the_gradients_of_the_gathered_batch(sizes: list[int], tmp_path: Path) -> None:
    import socket

    from rdd.losses import CvarAucLoss

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    world = len(sizes)
    ranks = [context.Process(target=rank_gradients, args=(r, world, str(tmp_path), port, sizes)) for r in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    logits, labels = global_batch(sum(sizes))
    logits.requires_grad_()
    value = CvarAucLoss(alpha=0.3, gamma=0.4, eta=0.6, p=2)(logits, labels)
    value.backward()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    assert all(float(part["value"]) == pytest.approx(float(value.detach()), rel=1e-13) for part in found)
    torch.testing.assert_close(torch.cat([part["gradient"] for part in found]), logits.grad, rtol=1e-11, atol=1e-14)


def test_slices_of_the_smallest_batches_leave_no_rank_out() -> None:
    assert [len(rank_slice(torch.arange(5), rank=rank, world_size=4)) for rank in range(4)] == [2, 1, 1, 1]
