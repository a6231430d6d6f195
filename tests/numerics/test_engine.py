"""The training loop: exact resume, and what a step must do and must not."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _no_host_sync import NoHostSync
from _runs import EPOCHS, FEATURES, assert_same, fit_on, make_config, make_table
from sklearn.metrics import log_loss

from rdd.config import Config, LossConfig, OptimizerConfig
from rdd.engine import Learner, fit, predict, steps_of_epoch, train_epoch, train_step, validation_losses
from rdd.features import Batch, rank_slice
from rdd.finite import NotFiniteError, not_finite_on_device, require_finite
from rdd.losses import CvarAucLoss
from rdd.metrics import selection_score
from rdd.run_context import TrainState
from rdd.runs.checkpoint import StateWriter
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext
from rdd.runs.sweep import best_epoch_of
from rdd.schedule import learning_rate


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


@pytest.mark.parametrize("changes", [{}, {"model__dropout": 0.3, "train__stratified": True}])
def test_interrupted_after_any_step_a_run_keeps_its_path(changes: dict[str, Any], tmp_path: Path) -> None:
    config = make_config(train__epochs=2, **changes)
    whole = fit_on(1, tmp_path / "whole", config)
    run = RunDirectory(str(tmp_path / "pieces"))

    class OneStep(LocalContext):
        """Keeps a checkpoint after its first step and is interrupted, within an epoch or at its end."""

        def between_steps(self, state: Callable[[], TrainState]) -> None:
            self.save(state(), best=False)
            raise KeyboardInterrupt

        def report(self, metrics) -> None:
            raise KeyboardInterrupt

    starts = 0
    while (state := run.load_both()[0]) is None or state.epoch < 2:
        with pytest.raises(KeyboardInterrupt):
            fit(config, make_table(), OneStep(run, lambda metrics: None))
        starts += 1
    assert starts == 2 * steps_of_epoch(config, make_table().split(config.features, "train")) > 4
    assert all(torch.equal(whole.model[name], state.model[name]) for name in whole.model)
    for one, other in zip(whole.history, state.history, strict=True):
        assert all(one[name] == other[name] for name in one if not name.startswith(("time/", "system/")))


@pytest.mark.slow
def test_with_other_ranks_a_run_goes_on_within_an_epoch_on_its_path(tmp_path: Path) -> None:
    config = make_config(train__epochs=2, model__dropout=0.3)
    whole = fit_on(1, tmp_path / "whole", config)
    run = RunDirectory(str(tmp_path / "parts"))

    class Interrupted(LocalContext):
        def between_steps(self, state: Callable[[], TrainState]) -> None:
            if (now := state()).step == 2:
                self.save(now, best=False)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, make_table(), Interrupted(run, lambda metrics: None))
    assert_same(whole, fit_on(2, tmp_path / "parts", config), 1e-9)


@pytest.mark.parametrize("within", [True, False])
def test_a_long_epoch_keeps_checkpoints_and_a_short_one_does_not(tmp_path: Path, monkeypatch, within: bool) -> None:
    kept: list[int] = []
    monkeypatch.setattr(RunDirectory, "save", lambda self, state, *, best: kept.append(state.step))
    seconds = 1e-9 if within else 60.0
    config, table = make_config(train__epochs=1), make_table()
    fit(config, table, LocalContext(RunDirectory(str(tmp_path)), lambda metrics: None, checkpoint_s=seconds))
    steps = steps_of_epoch(config, table.split(config.features, "train"))
    assert kept == [*range(1, steps), 0] if within else [0]


def test_a_run_that_ends_has_kept_what_is_written_beside_its_steps(tmp_path: Path) -> None:
    config, run = make_config(), RunDirectory(str(tmp_path / "run"))
    next_epoch = threading.Event()

    class Beside(LocalContext):
        """Writes as a worker of a group does, the first state when epoch 2 has begun; interrupted in epoch 3."""

        def __init__(self) -> None:
            super().__init__(run, lambda metrics: None)
            self.writer = StateWriter(self.write)

        def write(self, state: TrainState, best: bool) -> None:
            if state.epoch == 1:
                assert next_epoch.wait(60)
            run.save(state, best=best)

        def save(self, state: TrainState, *, best: bool) -> None:
            self.writer.save(state, best=best)

        def wait_until_saved(self) -> None:
            self.writer.wait()

        def progress(self, epoch: int, step: int, steps_of_epoch: int) -> None:
            if epoch == 2:
                next_epoch.set()
            if epoch == EPOCHS:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, make_table(), Beside())
    last = run.load("last")
    assert last is not None
    assert last.epoch == EPOCHS - 1
    whole = fit_on(1, tmp_path / "whole", config)
    again = fit(config, make_table(), LocalContext(run, lambda metrics: None))
    assert all(torch.equal(whole.model[name], again.model[name]) for name in whole.model)


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


@pytest.mark.parametrize(
    "changes", [{}, {"sam__enabled": False}, {"optimizer__max_grad_norm": 0.1}, {"train__precision": "bf16"}]
)
def test_a_step_does_not_wait_for_the_device(changes: dict, tmp_path: Path) -> None:
    learner = learner_of(make_config(model__dropout=0.3, **changes), tmp_path)
    batch = batch_of()
    if "train__precision" in changes:
        batch = Batch(batch.features.float(), batch.labels.float())
    train_step(learner, batch, step=0)  # AdamW makes its state
    with NoHostSync():
        train_step(learner, batch, step=1)


def test_the_gradient_that_is_followed_is_clipped_and_the_perturbation_is_not(tmp_path: Path) -> None:
    free, clipped = (learner_of(make_config(optimizer__max_grad_norm=limit, sam__rho=0.5), tmp_path) for limit in (0.0, 1e-3))
    metrics = [train_step(learner, batch_of(), step=0) for learner in (free, clipped)]
    norms = [
        float(torch.stack([param.grad.norm() for param in learner.model.parameters() if param.requires_grad]).norm())
        for learner in (free, clipped)
    ]
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)
    assert metrics[0]["sharpness"] == metrics[1]["sharpness"] > 0
    assert metrics[0]["grad_norm"] == metrics[1]["grad_norm"] > 1e-2


def test_under_autocast_weights_and_logits_stay_in_single_precision(tmp_path: Path) -> None:
    half, single = (
        learner_of(make_config(train__precision=precision, model__hidden=64), tmp_path) for precision in ("bf16", "fp32")
    )
    batch = Batch(batch_of(200).features.float(), batch_of(200).labels.float())
    losses = [[float(train_step(learner, batch, step=step)["loss"]) for step in range(30)] for learner in (half, single)]
    assert losses[0][-1] < 0.7 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert losses[0] != losses[1]
    assert all(param.dtype == torch.float32 for param in half.model.parameters())
    assert all(param.grad.dtype == torch.float32 for param in half.model.parameters() if param.requires_grad)
    with torch.autocast("cpu", torch.bfloat16):
        logits = half.model(batch.features)
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 190  # rounded to bfloat16 they would tie


@pytest.mark.slow  # half a minute of C++ compiler
def test_compiled_it_takes_the_same_steps(tmp_path: Path) -> None:
    compiled, plain = (learner_of(make_config(train__compile=flag, model__dropout=0.3), tmp_path) for flag in (True, False))
    for step in range(3):
        for learner in (compiled, plain):
            train_step(learner, batch_of(20 + step % 2), step=step)
    for one, other in zip(compiled.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_batches_of_one_class_are_counted(tmp_path: Path) -> None:
    config = make_config(train__batch_size=2)
    table = make_table(10)
    metrics = train_epoch(learner_of(config, tmp_path), table, torch.arange(30), epoch=0)
    batches = table.epoch_batches(torch.arange(30), seed=0, epoch=0, batch_size=2, stratified=False)
    expected = sum(len(table.labels[batch].unique()) == 1 for batch in batches)
    assert 0 < expected < 15
    assert metrics["train/one_class_batches"] == expected
    stratified = make_config(train__batch_size=6, train__stratified=True)
    assert train_epoch(learner_of(stratified, tmp_path), table, torch.arange(30), epoch=0)["train/one_class_batches"] == 0


def test_a_loss_that_is_not_finite_stops_before_any_weight_moves(tmp_path: Path) -> None:
    learner = learner_of(make_config(), tmp_path)
    before = {name: param.clone() for name, param in learner.model.named_parameters()}
    with pytest.raises(RuntimeError, match="the loss is not finite at step 7"):
        train_step(learner, batch_of(bad=float("inf")), step=7)
    assert all(torch.equal(before[name], param) for name, param in learner.model.named_parameters())


def test_a_second_pass_that_is_not_finite_leaves_the_weights_where_they_were(tmp_path: Path) -> None:
    learner = learner_of(make_config(sam__rho=1e200), tmp_path)
    before = {name: param.clone() for name, param in learner.model.named_parameters()}
    with pytest.raises(NotFiniteError, match="the loss is not finite at step 3"):
        train_step(learner, batch_of(), step=3)
    assert all(torch.equal(before[name], param) for name, param in learner.model.named_parameters())
    assert learner.model.hidden[0][1].track


def test_a_run_stays_with_its_features_and_their_order(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.claim_features("a", streamed=False)
    run.claim_features("a", streamed=False)
    with pytest.raises(ValueError, match="was begun on other features"):
        run.claim_features("b", streamed=False)
    with pytest.raises(ValueError, match=r"set features\.held to map"):
        run.claim_features("a", streamed=True)


def test_a_batch_of_one_image_is_refused_beforehand(tmp_path: Path) -> None:
    table = make_table(60)
    configs = (make_config(train__batch_size=2, features__split_seed=seed) for seed in range(100))
    config = next(config for config in configs if len(table.split(config.features, "train")) % 2)
    with pytest.raises(ValueError, match="must leave no share of one image"):
        fit(config, table, LocalContext(RunDirectory(str(tmp_path)), lambda metrics: None))


def test_the_head_of_the_paper_has_its_parameters() -> None:
    from rdd.model import DetectorHead

    assert sum(param.numel() for param in DetectorHead(1536).parameters()) == 7_093_249


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


def test_slices_of_the_smallest_batches_leave_no_rank_out() -> None:
    assert [len(rank_slice(torch.arange(5), rank=rank, world_size=4)) for rank in range(4)] == [2, 1, 1, 1]


def test_of_epochs_with_one_auc_the_one_with_the_lower_validation_loss_is_kept_then_the_later(tmp_path: Path) -> None:
    table = make_table()
    shifted = (table.matrices["projected"].float() + 20 * table.labels[:, None]).half()
    far = replace(table, matrices={"projected": shifted})  # every epoch reaches AUC 1
    run = RunDirectory(str(tmp_path / "run"))
    state = fit(make_config(train__epochs=6, optimizer__lr=0.01), far, LocalContext(run, lambda metrics: None))
    losses = {row["epoch"]: row["val/loss"] for row in state.history if row["val/auroc"] == 1.0}
    assert len(losses) >= 4
    assert state.best_epoch == min(losses, key=losses.__getitem__) > min(losses)
    best = run.load("best")
    assert best.epoch == state.best_epoch
    head = Learner.build(make_config(), FEATURES, LocalContext(RunDirectory(""), lambda metrics: None)).model
    head.load_state_dict(best.model)
    config, images = make_config(), far.split(make_config().features, "validation")
    logits, labels = predict(head, far, images, "none"), far.labels[images].double()
    expected = CvarAucLoss(alpha=0.8, gamma=0.5, eta=0.6, p=2.0)(logits, labels)
    assert min(losses.values()) == pytest.approx(float(expected), rel=1e-9)
    assert validation_losses(config.loss, logits.numpy(), labels.numpy())["val/log_loss"] == pytest.approx(
        log_loss(labels, torch.sigmoid(logits)), rel=1e-6, abs=1e-12
    )


def test_of_equal_losses_the_later_epoch_is_kept() -> None:
    history = [{"epoch": epoch, "val/auroc": 1.0, "val/loss": loss} for epoch, loss in enumerate((3.0, 0.0, 0.0, 1e-6), 1)]
    assert best_epoch_of(history)["epoch"] == 3
    assert (
        selection_score(1.0 - 1e-11, 0.0) < selection_score(1.0, 1e9) < selection_score(1.0, 1e-6) < selection_score(1.0, 9e-7)
    )


@pytest.mark.slow
def test_a_power_that_is_no_whole_number_takes_its_validation_loss_of_some_images() -> None:
    logits = np.random.default_rng(0).normal(size=50_000)
    labels = (np.arange(50_000) % 3 > 0).astype(np.float32)
    some = validation_losses(LossConfig(p=2.5), logits, labels)
    whole = validation_losses(LossConfig(p=2.0), logits, labels)
    assert 0.5 < some["val/loss"] / whole["val/loss"] < 2


def test_a_failed_assertion_on_a_gpu_is_a_loss_that_is_not_finite() -> None:
    with (
        pytest.raises(NotFiniteError, match=r"the loss is not finite .*lower optimizer\.lr or sam\.rho"),
        not_finite_on_device(),
    ):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    with pytest.raises(torch.AcceleratorError, match="out of memory"), not_finite_on_device():
        raise torch.AcceleratorError("CUDA error: out of memory")
    with pytest.raises(RuntimeError, match="step 7") as raised, not_finite_on_device():
        require_finite(torch.tensor(float("nan")), 7)
    assert type(raised.value) is NotFiniteError
