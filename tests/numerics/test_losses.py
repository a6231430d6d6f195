import numpy as np
import pytest
import torch
from _reference import auc_loss_by_pairs, cvar_by_sorting
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score

from rdd.losses import CvarAucLoss, cvar_loss, pairwise_auc_loss
from rdd.metrics import auroc, misranked_pairs


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("alpha", [1.0, 0.8, 0.33, 0.1, 1e-3])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_cvar_is_the_mean_of_the_worst(n: int, alpha: float, scale: float) -> None:
    losses = np.random.default_rng(n).exponential(size=n) * scale
    value = float(cvar_loss(torch.from_numpy(losses), alpha=alpha))
    assert value == pytest.approx(cvar_by_sorting(losses, alpha), rel=1e-13)
    single = float(cvar_loss(torch.from_numpy(losses).float(), alpha=alpha))
    assert single == pytest.approx(value, rel=1e-6)


def test_cvar_is_the_minimum_over_lambda() -> None:
    losses = np.random.default_rng(0).exponential(size=50)

    def objective(threshold: float) -> float:
        return threshold + np.maximum(losses - threshold, 0).sum() / (0.37 * 50)

    found = minimize_scalar(objective, bounds=(0, losses.max()), method="bounded", options={"xatol": 1e-12})
    assert float(cvar_loss(torch.from_numpy(losses), alpha=0.37)) == pytest.approx(found.fun, rel=1e-9)


def test_cvar_gradients() -> None:
    losses = torch.rand(23, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cvar_loss(x, alpha=0.37), losses)
    (gradient,) = torch.autograd.grad(cvar_loss(losses, alpha=0.37), losses)
    assert float(gradient.sum()) == pytest.approx(1.0, abs=1e-14)


def scores_of(kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    scores = rng.normal(size=n)
    return {
        "mixed": scores,
        "separated": scores + 20 * labels,
        "inverted": scores - 20 * labels,
        "shifted": scores + 1e4,
        "nearly separated": rng.uniform(0, 1, n) + 1.59 * labels,
        "tied": np.round(scores * 2) / 2,
        "far apart": 100 * np.round(scores),
    }[kind], labels


KINDS = ["mixed", "separated", "inverted", "shifted", "nearly separated", "tied", "far apart"]


@pytest.mark.parametrize("p", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_auc_loss_by_sorting_is_the_double_loop(kind: str, p: int) -> None:
    scores, labels = scores_of(kind, 3000)
    logits = torch.from_numpy(scores).requires_grad_()
    value = pairwise_auc_loss(logits, torch.from_numpy(labels), eta=0.6, p=p)
    (gradient,) = torch.autograd.grad(value, logits)
    expected, slopes = auc_loss_by_pairs(scores, labels, 0.6, p)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12, abs=1e-300)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-10, atol=1e-15 * max(np.abs(slopes).max(), 1e-300))


@pytest.mark.parametrize("p", [1.5, 2.5, 2.0000001])
def test_auc_loss_of_any_power_is_the_double_loop(p: float, monkeypatch) -> None:
    monkeypatch.setattr("rdd.losses._BLOCK", 64)
    scores, labels = scores_of("mixed", 300)
    logits = torch.from_numpy(scores).requires_grad_()
    value = pairwise_auc_loss(logits, torch.from_numpy(labels), eta=0.6, p=p)
    (gradient,) = torch.autograd.grad(value, logits)
    expected, slopes = auc_loss_by_pairs(scores, labels, 0.6, p)
    assert float(value) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("p", [2, 1.5])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_pairs_and_no_gradient(p: float, label: int) -> None:
    logits = torch.randn(10, requires_grad=True)
    value = pairwise_auc_loss(logits, torch.full((10,), label), eta=0.6, p=p)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value) == 0
    assert not gradient.any()


def test_the_objective_weighs_both_terms_on_raw_logits() -> None:
    logits, labels = torch.randn(40, dtype=torch.float64), torch.randint(0, 2, (40,))
    loss = CvarAucLoss(alpha=0.5, gamma=0.3, eta=0.6, p=2)
    value = loss(logits, labels)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="none")
    assert float(loss.components["loss_cvar"]) == pytest.approx(cvar_by_sorting(losses.numpy(), 0.5))
    assert float(loss.components["loss_auc"]) == pytest.approx(auc_loss_by_pairs(logits.numpy(), labels.numpy(), 0.6, 2)[0])
    assert float(value) == pytest.approx(float(0.3 * loss.components["loss_cvar"] + 0.7 * loss.components["loss_auc"]))
    on_scores = CvarAucLoss(alpha=0.5, gamma=0.0, eta=0.6, p=2, auc_on="scores")(logits, labels)
    assert float(on_scores) == pytest.approx(auc_loss_by_pairs(torch.sigmoid(logits).numpy(), labels.numpy(), 0.6, 2)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_for_p_2_it_is_the_squared_hinge_of_libauc(kind: str) -> None:
    """The documentation of libauc: the mean of max(margin - t, 0)^2 over t = f(positive) - f(negative)."""
    scores, labels = (torch.from_numpy(values) for values in scores_of(kind, 200))
    difference = scores[labels == 1].reshape(-1, 1) - scores[labels == 0].reshape(1, -1)
    expected = torch.maximum(1.0 - difference, torch.zeros_like(difference)).square().mean()
    assert float(pairwise_auc_loss(scores, labels, eta=1.0, p=2)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("auc_on", ["logits", "scores"])
def test_the_form_for_second_derivatives_is_the_same_loss(auc_on: str) -> None:
    logits, labels = torch.randn(50, dtype=torch.float64, requires_grad=True), torch.arange(50) % 3 > 0
    loss = CvarAucLoss(alpha=0.37, gamma=0.4, eta=0.6, p=3, auc_on=auc_on)
    values = [form(logits, labels) for form in (loss, loss.twice_differentiable)]
    assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), rel=1e-13)
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-14)


def test_what_can_not_be_differentiated_twice_says_so() -> None:
    logits, labels = torch.randn(6, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 0, 1, 0, 1])
    with pytest.raises(RuntimeError, match="can not be differentiated twice"):
        torch.autograd.grad(pairwise_auc_loss(logits.square(), labels, eta=0.6, p=2), logits, create_graph=True)


def test_tied_losses_share_no_more_than_their_weight() -> None:
    losses = torch.ones(10, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cvar_loss(losses, alpha=0.37), losses)
    assert float(gradient.max()) <= 1 / 3.7 + 1e-15
    assert float(gradient.sum()) == pytest.approx(1.0, abs=1e-14)


def test_half_precision_is_computed_in_single() -> None:
    logits = torch.randn(64).to(torch.bfloat16)
    loss = CvarAucLoss(alpha=0.8, gamma=0.5, eta=0.6, p=2)(logits, torch.randint(0, 2, (64,)))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: cvar_loss(x[:0], alpha=0.5), "at least one example"),
        (lambda x, y: cvar_loss(x[None], alpha=0.5), "1-D"),
        (lambda x, y: cvar_loss(x, alpha=0.0), r"\(0, 1\]"),
        (lambda x, y: cvar_loss(x, alpha=float("nan")), "got nan"),
        (lambda x, y: pairwise_auc_loss(x, y[1:], eta=0.5, p=2), "one shape"),
        (lambda x, y: pairwise_auc_loss(x, y, eta=0, p=2), "eta"),
        (lambda x, y: pairwise_auc_loss(x, y, eta=0.5, p=1), "p must be above 1"),
        (lambda x, y: CvarAucLoss(alpha=0.5, gamma=1.1, eta=0.5, p=2), "gamma"),
    ],
)
def test_wrong_arguments_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4), torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_auroc_is_that_of_scikit_learn(kind: str) -> None:
    scores, labels = scores_of(kind, 1000)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_sees_what_a_float32_sigmoid_ties() -> None:
    assert auroc([20.0, 21.0], [0, 1]) == 1.0
    assert misranked_pairs([21.0, 20.0, 20.0], [0, 1, 0]) == 1.5
    with pytest.raises(ValueError, match="both classes"):
        auroc([1.0, 2.0], [1, 1])
    with pytest.raises(ValueError, match="NaN"):
        auroc([1.0, float("nan")], [0, 1])
