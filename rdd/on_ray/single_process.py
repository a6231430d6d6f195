"""Training in one process, without Ray Train: for a trial of a sweep and for a run of an ablation, each in a Ray worker."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from rdd import storage
from rdd.config import Config, FeaturesConfig
from rdd.engine import fit
from rdd.features import FeatureTable
from rdd.features.files import OnProgress, ignored
from rdd.on_ray.feature_placement import hold_features
from rdd.run_context import TrainState
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
    table = held_features(config, device, run.save_loading)
    run.claim_features(table.identity, streamed=table.streamed)
    context = LocalContext(run, on_epoch, device=device, on_progress=run.save_progress, checkpoint_s=config.train.checkpoint_s)
    return fit(config, table, context), table


def held_features(config: Config, device: torch.device, on_loading: OnProgress = ignored) -> FeatureTable:
    """The features of a config; a process that trains several runs on the same features loads them once."""
    global _last_held
    on_loading(f"process {os.getpid()} has begun")  # also where it holds the features of the trial before
    features = config.features
    text = features.text_mode if features.text_mode == "none" else "auto"
    wanted = FeaturesConfig(
        path=features.path,
        inputs=features.inputs,
        views=features.views,
        text_mode=text,
        held=features.held,
        shuffle_mib=features.shuffle_mib,
    )
    with_text = replace(wanted, text_mode="auto")  # holds what a run without text needs, too
    if _last_held is None or _last_held[0] not in ((wanted, device), (with_text, device)):
        _last_held = None  # let go of the old ones before the new ones come
        _last_held = ((wanted, device), hold_features(wanted, device=device, to_train=True, on_loading=on_loading))
    return _last_held[1]


_last_held: tuple[tuple[FeaturesConfig, torch.device], FeatureTable] | None = None
"""What this process holds, for the next trial that Ray runs in it."""


def with_absolute_paths(config: Config) -> Config:
    """The config for a worker, which has a directory of its own."""
    path = config.features.path
    absolute = storage.absolute(path) if isinstance(path, str) else [storage.absolute(one) for one in path]
    return replace(config, features=replace(config.features, path=absolute))
