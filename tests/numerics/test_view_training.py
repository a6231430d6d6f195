"""Training on images and degraded views of them: the consistency term, the objective, and its path on ranks and restarts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _no_host_sync import NoHostSync
from _runs import FEATURES, RankContext, assert_same, make_config, make_table, on_ranks

from rdd.config import Config
from rdd.config.parse import override
from rdd.consistency import consistency_loss
from rdd.engine import Learner, fit, predict, train_step, train_steps
from rdd.features import Batch, FeatureTable
from rdd.features.columns import Column
from rdd.losses import CvarAucLoss
from rdd.runs.checkpoint import TrainState, load_state
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext
from rdd.standardization import column_moments

VIEWS = {"features__views": 2, "loss__consistency": 0.7, "model__dropout": 0.335}
NUMBERS = dict(alpha=0.6, gamma=0.4, eta=0.6, p=2)


def view_table() -> FeatureTable:
    """The features of small runs, and two views with further noise."""
    table, generator = make_table(), torch.Generator().manual_seed(9)
    views = {f"projected_view_{view}": view for view in (1, 2)}
    column, clean = table.layout["projected"][0], table.matrices["projected"]
    layout = table.layout | {name: (Column(name, column.width, column.dtype),) for name in views}
    noisy = {name: clean + view * torch.randn(clean.shape, generator=generator).half() for name, view in views.items()}
    return replace(table, layout=layout, matrices=table.matrices | noisy)


def pair(number: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    logits = scale * torch.randn(number, 2, dtype=torch.float64, generator=generator)
    return logits.flatten(), (torch.arange(number) % 3 > 0).double().repeat_interleave(2)


def divergence(logits: np.ndarray, of_views: np.ndarray) -> float:
    """Symmetric Kullback-Leibler divergence of two-class distributions, term by term, in extended precision."""
    a, b = (values.astype(np.longdouble) for values in (logits, of_views))
    total = np.longdouble(0)
    for sign in (1, -1):  # of the probability that the image is generated, and that it is real
        p, q = 1 / (1 + np.exp(-sign * a)), 1 / (1 + np.exp(-sign * b))
        log_p, log_q = -np.log1p(np.exp(-sign * a)), -np.log1p(np.exp(-sign * b))
        total += (p * (log_p - log_q) + q * (log_q - log_p)).mean() / 2
    return float(total)


@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
def test_the_consistency_term_is_the_symmetric_divergence(scale: float) -> None:
    logits, _ = pair(500, scale)
    one, other = logits[0::2], logits[1::2]
    expected = divergence(one.numpy(), other.numpy())
    assert float(consistency_loss(one, other)) == pytest.approx(expected, rel=1e-12)
    assert float(consistency_loss(other, one)) == float(consistency_loss(one, other))
    assert float(consistency_loss(one.float(), other.float())) == pytest.approx(expected, rel=1e-5)
    sure = torch.tensor([20.0]), torch.tensor([21.0])
    assert float(consistency_loss(*sure)) == pytest.approx(divergence(*(one.double().numpy() for one in sure)), rel=1e-5)
    assert float(consistency_loss(one, one)) == 0.0


def test_its_gradient_is_that_of_finite_differences() -> None:
    logits, _ = pair(40)
    one, other = (values.clone().requires_grad_() for values in (logits[0::2], logits[1::2]))
    assert torch.autograd.gradcheck(consistency_loss, (one, other))
    assert torch.autograd.gradcheck(consistency_loss, (torch.zeros(3).double().requires_grad_(), torch.ones(3).double()))


def test_the_objective_is_that_of_all_rows_and_the_weighed_term() -> None:
    logits, labels = pair(30)
    plain, weighed = CvarAucLoss(**NUMBERS), CvarAucLoss(**NUMBERS, consistency=0.7)
    term = float(consistency_loss(logits[0::2], logits[1::2]))
    assert float(weighed(logits, labels, copies=2)) == pytest.approx(float(plain(logits, labels)) + 0.7 * term, rel=1e-13)
    assert float(weighed.components["loss_consistency"]) == term
    assert float(plain(logits, labels, copies=2)) == float(plain(logits, labels))
    assert torch.equal(weighed(logits, labels), plain(logits, labels))  # without views there is no term
    assert "loss_consistency" not in weighed.components
    with pytest.raises(ValueError, match="consistency must be at least 0 and finite, got -1"):
        CvarAucLoss(**NUMBERS, consistency=-1)


def test_with_alpha_and_gamma_1_it_is_the_mean_of_the_losses_of_both() -> None:
    logits, labels = pair(30)
    loss = CvarAucLoss(alpha=1.0, gamma=1.0, eta=0.6, p=2)
    both = [loss(logits[first::2], labels[first::2]) for first in (0, 1)]
    torch.testing.assert_close(loss(logits, labels, copies=2), (both[0] + both[1]) / 2)


def test_a_consistency_without_views_is_refused() -> None:
    with pytest.raises(ValueError, match="loss.consistency must be 0 when features.views is 0, since there is no view"):
        override(Config(), {"loss.consistency": 0.5})
    with pytest.raises(ValueError, match="features.views must be at most the views of the table, 2, got 3"):
        fit(make_config(features__views=3), view_table(), LocalContext(RunDirectory("unused"), lambda metrics: None))


def learner_of(config: Config, folder: Path) -> Learner:
    return Learner.build(config, FEATURES, LocalContext(RunDirectory(str(folder)), lambda metrics: None))


def batch_of(images: int = 20) -> Batch:
    (batch,) = view_table().batches([torch.arange(images)], "none", dtype=torch.float64, view=1)
    return batch


def test_the_term_is_in_both_passes_of_sam(tmp_path: Path) -> None:
    config = make_config(**VIEWS | {"model__dropout": 0.0, "sam__rho": 0.5})
    learner, batch = learner_of(config, tmp_path), batch_of()
    loss = CvarAucLoss.from_config(config.loss)
    params = [param for param in learner.model.parameters() if param.requires_grad]

    def value() -> torch.Tensor:
        learner.model.train()
        learner.model.track_statistics(False)
        return loss(learner.model(batch.features), batch.labels, copies=2)

    at_weights = value()
    gradients = torch.autograd.grad(at_weights, params)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    before = [param.detach().clone() for param in params]
    with torch.no_grad():
        for param, gradient in zip(params, gradients, strict=True):
            param += 0.5 * gradient / norm
        perturbed = value()
        for param, old in zip(params, before, strict=True):
            param.copy_(old)
    learner.model.track_statistics(True)
    found = train_step(learner, batch, step=0)
    assert float(found["loss"]) == pytest.approx(float(at_weights.detach()), rel=1e-12)
    assert float(found["grad_norm"]) == pytest.approx(float(norm), rel=1e-10)
    assert float(found["sharpness"]) == pytest.approx(float(perturbed - at_weights.detach()), rel=1e-8)
    assert float(found["loss_consistency"]) > 0


def test_an_image_and_its_view_go_through_one_subnetwork(tmp_path: Path) -> None:
    learner, batch = learner_of(make_config(model__dropout=0.5, features__views=1), tmp_path), batch_of()
    same = Batch(batch.features[0::2].repeat_interleave(2, 0), batch.labels, copies=2)
    assert float(train_step(learner, same, step=0)["loss_consistency"]) == 0.0


def test_a_step_with_views_does_not_wait_for_the_device(tmp_path: Path) -> None:
    learner, batch = learner_of(make_config(**VIEWS), tmp_path), batch_of()
    train_step(learner, batch, step=0)
    with NoHostSync():
        train_step(learner, batch, step=1)


def test_epochs_take_the_views_in_turn_and_all_else_is_clean(tmp_path: Path) -> None:
    seen: list[int] = []

    class Noting(FeatureTable):
        def batches(self, *given, view: int = 0, **more):
            seen.append(view)
            return super().batches(*given, view=view, **more)

    table = Noting(**{name: value for name, value in vars(view_table()).items() if name != "_parts"})
    config = make_config(**VIEWS, model__standardize=True)
    train, context = table.split(config.features, "train"), LocalContext(RunDirectory(str(tmp_path)), lambda metrics: None)
    learner = learner_of(config, tmp_path)
    learner.model.set_moments(*column_moments(table, train, "none", context))
    for epoch in range(3):
        assert all(float(step["loss_consistency"]) > 0 for step in train_steps(learner, table, train, epoch=epoch))
        predict(learner.model, table, train, "none")
    assert seen == [0, 1, 0, 2, 0, 1, 0]


def fit_rank(folder: Path, config: Config) -> None:
    fit(config, view_table(), RankContext(folder))


def whole_run(folder: Path, config: Config) -> TrainState:
    return fit(config, view_table(), LocalContext(RunDirectory(str(folder)), lambda metrics: None))


@pytest.mark.slow
def test_with_views_ranks_walk_the_path_of_one(tmp_path: Path) -> None:
    config = make_config(**VIEWS)
    one = whole_run(tmp_path / "one", config)
    on_ranks(2, fit_rank, tmp_path / "two", config)
    two = load_state(RunDirectory(str(tmp_path / "two")).checkpoint("last"))
    assert_same(one, two, 1e-9)
    for name in ("train/loss", "train/loss_consistency", "train/sharpness"):
        assert one.history[-1][name] == pytest.approx(two.history[-1][name], rel=1e-8)


def test_with_views_a_run_interrupted_after_any_step_keeps_its_path(tmp_path: Path) -> None:
    config = make_config(**VIEWS, train__epochs=2, train__batch_size=40)
    whole, run = whole_run(tmp_path / "whole", config), RunDirectory(str(tmp_path / "parts"))

    class OneStep(LocalContext):
        def between_steps(self, state: Callable[[], TrainState]) -> None:
            self.save(state(), best=False)
            raise KeyboardInterrupt

        def report(self, metrics) -> None:
            raise KeyboardInterrupt

    while (state := run.load_both()[0]) is None or state.epoch < 2:
        with pytest.raises(KeyboardInterrupt):
            fit(config, view_table(), OneStep(run, lambda metrics: None))
    assert all(torch.equal(whole.model[name], state.model[name]) for name in whole.model)
    for one, other in zip(whole.history, state.history, strict=True):
        assert all(one[name] == other[name] for name in one if not name.startswith(("time/", "system/")))
