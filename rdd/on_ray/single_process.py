"""A run in a Ray worker of its own, without a trainer: what a trial of a sweep and a run of an ablation are."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch

from rdd import storage
from rdd.config import Config, FeaturesConfig
from rdd.engine import TrainState, fit
from rdd.features import FeatureTable
from rdd.on_ray.feature_placement import hold_features
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext


def fit_in_place(
    config: Config, run: RunDirectory, on_epoch: Callable[[Mapping[str, float]], None], *, gpu: bool
) -> tuple[TrainState, FeatureTable]:
    """Train in this process, from the run's last checkpoint if it has one.

    Args:
        config: the run.
        run: its directory.
        on_epoch: told the metrics of each epoch.
        gpu: whether Ray has given this process a GPU, or a share of one.

    Returns:
        The state after the last epoch, and the features.
    """
    torch.set_num_threads(config.train.threads_per_worker)
    device = torch.device("cuda" if gpu else "cpu")
    table = held_features(config, device)
    run.claim_features(table.identity, streamed=table.streamed)
    return fit(config, table, LocalContext(run, on_epoch, device=device, on_progress=run.save_progress)), table


def held_features(config: Config, device: torch.device) -> FeatureTable:
    """The features of a config, once a process whatever runs in it, and their rows once a node."""
    of = config.features
    return _held(FeaturesConfig(path=of.path, held=of.held, shuffle_mib=of.shuffle_mib), device)


@lru_cache(maxsize=1)
def _held(config: FeaturesConfig, device: torch.device) -> FeatureTable:
    return hold_features(config, device=device)


def with_absolute_paths(config: Config) -> Config:
    """The config for a worker, which has a directory of its own."""
    return replace(config, features=replace(config.features, path=storage.absolute(config.features.path)))
