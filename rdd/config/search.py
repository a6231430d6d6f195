"""Settings of sweeps, ablations and the paper's figures."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from rdd.config.checks import MAX_RESAMPLES, SEEDS, check

_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """A sweep on Ray Tune."""

    output: str = ""
    """Directory to write: best.yaml, trials.parquet, figures/, trials/."""
    space: dict[str, Any] = field(default_factory=dict)
    """By dotted path: {uniform: [low, high]}, {loguniform: [low, high]}, {choice: [values]} or {grid: [values]}."""
    search: Literal["random", "grid", "optuna"] = "random"
    """random: num_trials draws; grid: every combination of the grids; optuna: its TPE sampler."""
    num_trials: int = 16
    """Trials, at least 1; with grids, draws of each of their combinations."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha: stop trials early that are behind, for trials of one worker; none: train every trial to its end."""
    grace_epochs: int = 1
    """Epochs, at least 1, before a trial may be stopped."""
    reduction_factor: int = 3
    """At each rung, one trial in so many goes on, at least 2."""
    seed: int = 0
    """Seed of the draws, in [0, 2^63)."""
    cpus_per_trial: float = 1.0
    """CPUs that Ray reserves for a trial, above 0."""
    gpus_per_trial: float = 0.0
    """GPUs that Ray reserves for a trial, at least 0; 0.25 lets four trials share one."""
    max_concurrent: int = 0
    """Trials at a time, at least 0; 0: as many as there is room for."""
    keep_best: int = 1
    """Trials, at least 1, whose weights are kept."""

    def __post_init__(self) -> None:
        check(self.num_trials >= 1, "tune.num_trials", "be at least 1", self.num_trials)
        check(self.grace_epochs >= 1, "tune.grace_epochs", "be at least 1", self.grace_epochs)
        check(self.reduction_factor >= 2, "tune.reduction_factor", "be at least 2", self.reduction_factor)
        check(0 <= self.seed < SEEDS, "tune.seed", "lie in [0, 2^63)", self.seed)
        check(self.cpus_per_trial > 0, "tune.cpus_per_trial", "be above 0", self.cpus_per_trial)
        check(self.gpus_per_trial >= 0, "tune.gpus_per_trial", "be at least 0", self.gpus_per_trial)
        check(self.max_concurrent >= 0, "tune.max_concurrent", "be at least 0", self.max_concurrent)
        check(self.keep_best >= 1, "tune.keep_best", "be at least 1", self.keep_best)


@dataclass(frozen=True, kw_only=True)
class AblateConfig:
    """Rows of an ablation, each over several seeds."""

    output: str = ""
    """Directory to write: ablation.md, .csv and .png, figures/, runs/<row>/seed-<s>/."""
    rows: dict[str, Any] = field(default_factory=dict)
    """By name of the row, its overrides: {loss.gamma: 1.0}; the row `ours` is what the others are compared to."""
    seeds: int = 5
    """Seeds of each row, at least 1; the first is train.seed."""
    cpus_per_run: float = 1.0
    """CPUs that Ray reserves for a run, above 0."""
    gpus_per_run: float = 0.0
    """GPUs that Ray reserves for a run, at least 0."""
    resamples: int = 1000
    """Bootstrap resamples of (seed, record), in [100, 1000000]."""
    probe_c: float = 0.01
    """C, above 0, of the logistic regression that stands beside the rows, on the inputs of `ours`."""
    probe_neighbours: int = 10
    """Neighbours of each class, at least 1, of the nearest-neighbour baseline that stands beside the rows."""
    probe_images: int = 20_000
    """Training images, at least 100, that the two baselines are fitted on at most, drawn at random."""

    def __post_init__(self) -> None:
        check(0 < self.probe_c < float("inf"), "ablate.probe_c", "be above 0 and finite", self.probe_c)
        check(self.probe_neighbours >= 1, "ablate.probe_neighbours", "be at least 1", self.probe_neighbours)
        check(self.probe_images >= 100, "ablate.probe_images", "be at least 100", self.probe_images)
        check(self.seeds >= 1, "ablate.seeds", "be at least 1", self.seeds)
        check(self.cpus_per_run > 0, "ablate.cpus_per_run", "be above 0", self.cpus_per_run)
        check(self.gpus_per_run >= 0, "ablate.gpus_per_run", "be at least 0", self.gpus_per_run)
        check(100 <= self.resamples <= MAX_RESAMPLES, "ablate.resamples", f"lie in [100, {MAX_RESAMPLES}]", self.resamples)


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """Rounds of training and testing that ask what a detector is worth on generators that it has not seen."""

    output: str = ""
    """Directory to write: metrics.json, protocol.md, rounds/<round>/, a training run each, and tests/<set>/."""
    kind: Literal["generators", "families", "dates", "sets"] = "generators"
    """generators: leave one out; families: leave one of evaluate.families out; dates: train on what was released before a date
    and test on what came then; sets: train on features.path and test on protocol.tests."""
    released: dict[str, str] = field(default_factory=dict)
    """For dates: by wildcard of generators, when they were released, as 2022-08 or 2022-08-22; the first that matches holds."""
    tests: list[str] = field(default_factory=list)
    """For sets: feature sets of the same encoder, each of them tested on as a whole."""

    def __post_init__(self) -> None:
        for name, date in self.released.items():
            check(
                bool(_DATE.fullmatch(str(date))), f"protocol.released.{name}", "be a date such as 2022-08 or 2022-08-22", date
            )
        check(
            (self.kind == "dates") == bool(self.released), "protocol.released", "be given for kind dates alone", self.released
        )
        once = len(set(self.tests)) == len(self.tests) and "" not in self.tests
        check(once, "protocol.tests", "name feature sets, each once", self.tests)
        check((self.kind == "sets") == bool(self.tests), "protocol.tests", "be given for kind sets alone", self.tests)


@dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """The paper's figures: loss landscape with and without SAM, map of the features."""

    output: str = ""
    """Directory to write the figures and figures.json to."""
    with_sam: str = ""
    """Run directory of a detector that was trained with SAM."""
    without_sam: str = ""
    """Run directory of one that was trained without."""
    points: int = 21
    """Points of the landscape along each direction, odd, so that the weights themselves are one, at least 3."""
    span: float = 1.0
    """Reach of the landscape in filter-normalised units, above 0: 1 replaces every filter by one as long."""
    landscape_images: int = 2048
    """Training images that the loss is taken over, at least 2."""
    radius: float = 0.05
    """Radius, above 0, of the ball in which the loss rise is measured: the rho of the two runs."""
    map_records: int = 300
    """Records in the feature map, at least 5."""
    perplexity: float = 30.0
    """Perplexity of t-SNE, above 0 and below the number of images."""
    seed: int = 0
    """Seed of directions, images and records, in [0, 2^63)."""
    cpus_per_task: float = 1.0
    """CPUs that Ray reserves for a part of the landscape, above 0."""

    def __post_init__(self) -> None:
        check(self.points >= 3 and self.points % 2 == 1, "figures.points", "be odd and at least 3", self.points)
        check(0 < self.span < float("inf"), "figures.span", "be above 0 and finite", self.span)
        check(self.landscape_images >= 2, "figures.landscape_images", "be at least 2", self.landscape_images)
        check(0 < self.radius < float("inf"), "figures.radius", "be above 0 and finite", self.radius)
        check(self.map_records >= 5, "figures.map_records", "be at least 5", self.map_records)
        check(0 < self.perplexity < float("inf"), "figures.perplexity", "be above 0 and finite", self.perplexity)
        check(0 <= self.seed < SEEDS, "figures.seed", "lie in [0, 2^63)", self.seed)
        check(self.cpus_per_task > 0, "figures.cpus_per_task", "be above 0", self.cpus_per_task)
