"""Learning rate by step, in closed form, so that a resumed run needs no state for it."""

import math

from rdd.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, *, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of a step.

    ``cosine``: a linear warm-up over ``warmup_share`` of the run, then half a period down to ``min_lr`` at its end.
    ``official``: the official code's cosine with T_max = epochs / 4, moved once an epoch; it swings back up twice.

    Args:
        config: the optimizer.
        step: counted from 0 over the whole run.
        steps_per_epoch: steps in an epoch.
        epochs: epochs in the run.
    """
    if config.schedule == "official":
        phase = (step // steps_per_epoch) / (epochs / 4)
        return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * phase)) / 2
    total = steps_per_epoch * epochs
    warmup = config.warmup_share * total
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    phase = (step - warmup) / max(total - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * phase)) / 2
