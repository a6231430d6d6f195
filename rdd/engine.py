"""The training loop: a step, an epoch, a run; the same on one process and on many.

N ranks compute the same updates as one rank would: each takes its slice of the same global batch, the loss and BatchNorm's
statistics are those of the whole batch, gradients are summed over ranks, and every rank makes the same step.

With ``features.views`` a batch holds each image and a degraded view of it, and the objective is that of all these rows: CVaR
takes the worst of clean and degraded images together, and AUC ranks each against each, as one threshold must. With alpha and
gamma 1 it is the mean of the losses of both, as in the paired training of arXiv:2604.10102.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from rdd.collectives import gather_own_gradient, rank_sizes
from rdd.config import Config, LossConfig
from rdd.features import Batch, FeatureTable, TextMode, hash_pair, rank_slice
from rdd.finite import not_finite_on_device, require_finite
from rdd.heads import build_head, check_head
from rdd.losses import CvarAucLoss
from rdd.metrics import auroc, equal_error_rate, misranked_pairs
from rdd.model import DetectorHead, Masks
from rdd.run_context import RunContext, TrainState
from rdd.sam import SAM
from rdd.schedule import learning_rate
from rdd.standardization import column_moments
from rdd.step_clock import StepClock

logger = logging.getLogger(__name__)

_PREDICT_BATCH = 8192
_PAIRED_VALIDATION_IMAGES = 16_384  # some seconds an epoch

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
"""Of weights and features; bf16 is for products under autocast."""


@dataclass(frozen=True)
class Learner:
    """Model, optimizer and loss, which a training step uses and changes, with the config and context of the run."""

    model: DetectorHead
    forward: Callable[[Tensor, Masks], Tensor]
    """The model, or the model compiled."""
    generator: torch.Generator
    """Of dropout masks, seeded anew for each step."""
    optimizer: SAM
    loss: CvarAucLoss
    config: Config
    context: RunContext

    @classmethod
    def build(
        cls,
        config: Config,
        in_features: int,
        context: RunContext,
        *,
        text_features: int | None = None,
        input_widths: Sequence[int] = (),
    ) -> "Learner":
        """Head, optimizer and loss of a config, the same on every rank; the head's moments are yet to be set."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            model = build_head(config, in_features, text_features, input_widths)
        model = model.to(context.device, DTYPES[config.train.precision])
        model.set_group(context.group if config.loss.scope == "global" else None)
        options = config.optimizer
        base = torch.optim.AdamW(
            model.parameters(),
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
            fused=True,
        )
        loss = CvarAucLoss.from_config(config.loss, context.group)
        optimizer = SAM(model.parameters(), base, rho=config.sam.rho, adaptive=config.sam.adaptive)
        forward = torch.compile(model) if config.train.compile else model
        return cls(model, forward, torch.Generator(context.device), optimizer, loss, config, context)


def train_step(learner: Learner, batch: Batch, *, step: int, sizes: Sequence[int] | None = None) -> dict[str, Tensor]:
    """One step of SAM, or of the base optimizer where SAM is off.

    Args:
        learner: changed in place.
        batch: this rank's share of the global batch.
        step: counted from 0 over the whole run; the global batch's dropout masks are a function of (seed, step).
        sizes: images of each rank's share, where the caller knows them, so that nobody waits for the device.

    Returns:
        Scalars on the device: ``loss``, ``loss_cvar``, ``loss_auc`` at the weights, ``loss_consistency`` too where a batch has
        views, ``one_class_batches`` (1 or 0), ``grad_norm`` at the weights, and ``sharpness``, the loss at the worst point near
        them minus the loss (absent without SAM).

    Raises:
        NotFiniteError: the loss is not finite; no weight has moved (on a GPU it comes later, from :func:`train_epoch`).
    """
    sam, optimizer, model = learner.config.sam, learner.optimizer, learner.model
    model.train()
    if sizes is None:
        group, number = learner.context.group, len(batch.labels) // batch.copies
        sizes = [number] if group is None else rank_sizes(number, group, batch.labels.device)
    learner.generator.manual_seed(hash_pair(learner.config.train.seed, step))
    masks = _masks(learner, sizes, batch.copies)
    loss = _gradients(learner, batch, masks, step=step, sizes=sizes)
    metrics = {"loss": loss, **learner.loss.components}
    if not sam.enabled:
        gradients = [param.grad for param in model.parameters() if param.grad is not None]
        metrics["grad_norm"] = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        _clip_gradients(learner)
        optimizer.base_optimizer.step()
        return metrics
    metrics["grad_norm"] = optimizer.first_step()
    model.track_statistics(False)
    try:
        second_masks = _masks(learner, sizes, batch.copies) if sam.fresh_dropout else masks
        perturbed_loss = _gradients(learner, batch, second_masks, step=step, sizes=sizes)
    except RuntimeError:
        optimizer.step_back()
        raise
    finally:
        model.track_statistics(True)
    _clip_gradients(learner)
    optimizer.second_step()
    metrics["sharpness"] = perturbed_loss - loss
    return metrics


def _masks(learner: Learner, sizes: Sequence[int], copies: int) -> Masks:
    """This rank's rows of the masks of the global batch, which all ranks draw alike; an image and its view share a mask."""
    first = sum(sizes[: learner.context.rank])
    rows = slice(first, first + sizes[learner.context.rank])
    # not in bfloat16, in which the scale of what is kept would be off by a quarter of a percent
    masks = learner.model.draw_masks(sum(sizes), DTYPES[learner.config.train.precision], learner.generator, rows=rows)
    return masks.repeated(copies)


def _gradients(learner: Learner, batch: Batch, masks: Masks, *, step: int, sizes: Sequence[int]) -> Tensor:
    """Loss of the batch, detached; its gradients are left in the parameters, those of the global batch on every rank."""
    context, config = learner.context, learner.config
    learner.optimizer.zero_grad()
    with torch.autocast(context.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
        logits = learner.forward(batch.features, masks)
    loss = learner.loss(logits, batch.labels, sizes=[batch.copies * size for size in sizes], copies=batch.copies)
    require_finite(loss, step)
    loss.backward()
    if context.group is not None:
        _sum_gradients(learner.model, context.group, share=1.0 if config.loss.scope == "global" else 1 / context.world_size)
    return loss.detach()


def _clip_gradients(learner: Learner) -> None:
    """Shorten the gradient that the optimizer is about to follow, where the config asks for it."""
    if limit := learner.config.optimizer.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(learner.model.parameters(), limit)


def _sum_gradients(model: DetectorHead, group: dist.ProcessGroup, *, share: float) -> None:
    """Gradients summed over ranks, in one message."""
    gradients = [param.grad for param in model.parameters() if param.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    parts = (flat * share).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)])


def train_steps(
    learner: Learner, table: FeatureTable, images: Tensor, *, epoch: int, first: int = 0, clock: StepClock | None = None
) -> Iterator[dict[str, Tensor]]:
    """The steps of an epoch, every image once.

    Args:
        learner: changed in place.
        table: the features.
        images: ``(n,)`` images of the training part.
        epoch: counted from 0.
        first: the step to begin with, counted from 0; those before it are done.
        clock: measures the steps.

    Yields:
        The metrics of each step, see :func:`train_step`, and its learning rate.
    """
    config, context = learner.config, learner.context
    options = config.train
    batches = table.epoch_batches(
        images, seed=options.seed, epoch=epoch, batch_size=options.batch_size, stratified=options.stratified
    )
    left = batches[first:]
    slices = (rank_slice(batch, rank=context.rank, world_size=context.world_size) for batch in left)
    text_mode = table.text_mode(config.features.text_mode)
    view = 1 + epoch % config.features.views if config.features.views else 0
    shares = table.batches(slices, text_mode, device=context.device, dtype=DTYPES[options.precision], view=view)
    clock = clock or StepClock(context.device)
    for number, (whole, share) in enumerate(zip(left, shares, strict=True), start=first):
        step = epoch * len(batches) + number
        rate = learning_rate(config.optimizer, step=step, steps_per_epoch=len(batches), epochs=options.epochs)
        for group in learner.optimizer.param_groups:
            group["lr"] = rate
        sizes = [len(part) for part in whole.tensor_split(context.world_size)]
        with clock.step():
            metrics = train_step(learner, share, step=step, sizes=sizes)
        context.progress(epoch + 1, number + 1, len(batches))
        yield metrics | {"lr": torch.tensor(rate)}


def train_epoch(
    learner: Learner, table: FeatureTable, images: Tensor, *, epoch: int, begun: TrainState | None = None
) -> dict[str, float]:
    """One pass over the images, see :func:`train_steps`.

    Args:
        learner: changed in place.
        table: the features.
        images: ``(n,)`` images of the training part.
        epoch: counted from 0.
        begun: where the run stands, which may be within this epoch; from it the context may keep checkpoints.

    Returns:
        Means of the steps' metrics, the number of batches of one class, the last learning rate, the time, and the use of
        this rank's device (:meth:`~rdd.step_clock.StepClock.used`).
    """
    begun = begun or TrainState.at_start()
    number, clock = steps_of_epoch(learner.config, images), StepClock(learner.context.device)
    started, steps = time.perf_counter() - begun.seconds, begun.step
    sums = {name: value.to(learner.context.device) for name, value in begun.sums.items()}
    rate = torch.zeros(())
    for metrics in train_steps(learner, table, images, epoch=epoch, first=steps, clock=clock):
        rate = metrics.pop("lr")
        sums = {name: sums[name] + value if steps else value for name, value in metrics.items()}
        steps += 1
        if steps < number:
            within = partial(_state_within, learner, begun, steps, sums, started)
            learner.context.between_steps(within)
    totals = {name: float(value) for name, value in sums.items()}
    seconds = time.perf_counter() - started
    counted = {"train/one_class_batches": totals.pop("one_class_batches")}
    return {f"train/{name}": total / steps for name, total in totals.items()} | {
        **counted,
        "train/lr": float(rate),
        "time/step_s": seconds / steps,
        "time/samples_per_s": len(images) / seconds,
        **clock.used(seconds - begun.seconds),
    }


def steps_of_epoch(config: Config, images: Tensor) -> int:
    """How many global batches hold the images."""
    return -(-len(images) // config.train.batch_size)


def _state_within(learner: Learner, begun: TrainState, steps: int, sums: dict[str, Tensor], started: float) -> TrainState:
    """The state after some steps of an epoch; its tensors are those that the next step changes."""
    model, optimizer = learner.model.state_dict(), learner.optimizer.state_dict()
    seconds = time.perf_counter() - started
    return replace(begun, model=model, optimizer=optimizer, step=steps, sums=sums, seconds=seconds)


@torch.no_grad()
def predict(
    model: DetectorHead,
    table: FeatureTable,
    images: Tensor,
    text_mode: TextMode,
    context: RunContext | None = None,
) -> Tensor:
    """Raw logits of some images.

    Args:
        model: the head; put into evaluation mode.
        table: the features.
        images: ``(n,)`` images.
        text_mode: as in training; ``none`` also for a head with ``text_dropout``.
        context: if given, each of its ranks scores a share of the images, and all ranks get all logits.

    Returns:
        ``(n,)`` float64 on the CPU.
    """
    model.eval()
    reference = next(model.parameters())
    by_file = torch.argsort(table.order[images])  # read in the order in which they lie
    share = images[by_file]
    if context is not None:
        share = rank_slice(share, rank=context.rank, world_size=context.world_size)
    chunks = [chunk for chunk in share.split(_PREDICT_BATCH) if len(chunk)]
    batches = table.batches(chunks, text_mode, device=reference.device, dtype=reference.dtype)
    parts = [model(batch.features) for batch in batches]
    logits = torch.cat([reference.new_empty(0), *parts])
    if context is not None and context.group is not None:
        logits = gather_own_gradient(logits, context.group)
    result = torch.empty(len(images), dtype=torch.float64)
    result[by_file] = logits.to("cpu", torch.float64)
    return result


def validation_losses(config: LossConfig, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Losses of the validation part, in float64: ``val/loss``, the objective over all of it, and ``val/log_loss``.

    Args:
        config: the objective; with a power that is no whole number its pairs are not sorted but counted one by one, so then
            ``val/loss`` is that of at most 16,384 evenly spaced images.
        logits: ``(N,)`` raw.
        labels: ``(N,)``: 0 real, 1 generated.
    """
    raw, classes = torch.from_numpy(logits), torch.from_numpy(labels).double()
    log_loss = functional.binary_cross_entropy_with_logits(raw, classes)
    step = 1 if float(config.p).is_integer() else -(-len(raw) // _PAIRED_VALIDATION_IMAGES)
    loss = CvarAucLoss.from_config(config)(raw[::step], classes[::step])
    return {"val/loss": float(loss), "val/log_loss": float(log_loss)}


def fit(config: Config, table: FeatureTable, context: RunContext) -> TrainState:
    """Train to the last epoch, from the last checkpoint if there is one.

    Args:
        config: the run.
        table: the features; its training part is trained on, its validation part selects.
        context: where it runs.

    Returns:
        The state after the last epoch.

    Raises:
        ValueError: a part holds one class only, or the features lack the text or the views that are asked for.
        RuntimeError: a loss is not finite.
    """
    text_mode = table.text_mode(config.features.text_mode)
    if config.features.views > table.views:
        raise ValueError(f"features.views must be at most the views of the table, {table.views}, got {config.features.views}")
    widths = list(table.inputs.values())
    check_head(config.model, text_mode, widths)
    train, validation = (table.split(config.features, part) for part in ("train", "validation"))
    smallest = len(train) // steps_of_epoch(config, train)
    if smallest < 2 * (context.world_size if config.loss.scope == "local" else 1):
        raise ValueError(
            "train.batch_size must leave no share of one image, which BatchNorm can not use, got "
            f"{config.train.batch_size} for {len(train)} images"
        )
    learner = Learner.build(config, table.width(text_mode), context, text_features=table.text_width, input_widths=widths)
    state = context.load()
    if state is None:
        state = TrainState.at_start()
        if config.model.standardize:
            learner.model.set_moments(*column_moments(table, train, text_mode, context))  # of clean images
    else:
        learner.model.load_state_dict(state.model)
        learner.optimizer.load_state_dict(state.optimizer)
        logger.info("going on after epoch %d of %d and %d steps", state.epoch, config.train.epochs, state.step)
    labels = table.labels[validation].numpy()
    try:
        for epoch in range(state.epoch, config.train.epochs):
            with not_finite_on_device():
                metrics = train_epoch(learner, table, train, epoch=epoch, begun=state)
            logits = predict(learner.model, table, validation, text_mode, context).numpy()
            state, best = _state_after(learner, state, metrics | _validation_metrics(config.loss, logits, labels))
            context.save(state, best=best)
            context.report(state.history[-1])
    finally:
        context.wait_until_saved()
    return state


def _validation_metrics(config: LossConfig, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    values = {"auroc": auroc, "misranked_pairs": misranked_pairs, "equal_error_rate": equal_error_rate}
    return {f"val/{name}": value(logits, labels) for name, value in values.items()} | validation_losses(config, logits, labels)


def _state_after(learner: Learner, before: TrainState, metrics: dict[str, float]) -> tuple[TrainState, bool]:
    """The state after one more epoch, and whether it is the best so far."""
    epoch = before.epoch + 1
    best = (metrics["val/auroc"], -metrics["val/loss"]) >= (before.best_auroc, -before.best_loss)
    state = TrainState(
        epoch,
        learner.model.state_dict(),
        learner.optimizer.state_dict(),
        best_auroc=metrics["val/auroc"] if best else before.best_auroc,
        best_epoch=epoch if best else before.best_epoch,
        history=[*before.history, {"epoch": epoch, **metrics}],
        best_loss=metrics["val/loss"] if best else before.best_loss,
    )
    return state, best
