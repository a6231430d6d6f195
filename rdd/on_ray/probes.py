"""The simple baselines of an ablation, each in a Ray task, on the features and the split of the row ``ours``."""

import logging
from collections.abc import Iterator

import numpy as np
import ray
import torch

from rdd import storage
from rdd.config import Config
from rdd.evaluation.probes import PROBES, probe_logits
from rdd.evaluation.scores import Scored, read_logits, scored_images, write_logits
from rdd.features import FeatureTable
from rdd.features.feature_set import FeatureSet
from rdd.on_ray.background import POLL_S, root_cause
from rdd.on_ray.node_wait import NodeWait
from rdd.on_ray.single_process import held_features, with_absolute_paths
from rdd.progress import StallClock
from rdd.shapes import Shape

logger = logging.getLogger(__name__)

_BATCH = 8192

_NOTE: Shape = {"features": str}
"""What lies beside the logits of a probe, written last: the identity of the features that it was fitted on."""


def scored_probes(config: Config, ours: Config, output: str) -> dict[str, Scored]:
    """Fit every probe that is not done and score the test images.

    Args:
        config: the ablation.
        ours: the config of the row that they are beside, whose inputs, text mode and split they take.
        output: directory that gets ``<probe>/test_logits.parquet``.

    Returns:
        By name of the probe.

    Raises:
        RuntimeError: a probe failed, or there was no room to fit it.
    """
    identity = FeatureSet.open(ours.features.path).identity
    places = {name: storage.join(output, name) for name in PROBES}
    task = ray.remote(num_cpus=config.ablate.cpus_per_run, max_retries=config.train.max_failures)(_fit_probe)
    lacking = [name for name, place in places.items() if not _is_done(place, identity)]
    _wait(config, {task.remote(name, with_absolute_paths(ours), places[name], identity): name for name in lacking})
    return {name: read_logits(_logits(place)) for name, place in places.items()}


def _wait(config: Config, waiting: "dict[ray.ObjectRef, str]") -> None:
    """Until all are done; a fit tells nothing of its course, so only the wait for nodes has a limit."""
    clock = StallClock(stall_timeout_s=config.train.stall_timeout_s, start_timeout_s=config.cluster.start_timeout_s)
    nodes = NodeWait({"CPU": config.ablate.cpus_per_run}, 1, what="a baseline")
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
            for reference in done:
                name = waiting.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    raise RuntimeError(f"the baseline {name} failed: {root_cause(error)}") from error
                logger.info("fitted the baseline %s", name)
            if nodes.changed():
                clock.start_anew()
            if nodes.lacking is not None and (limit := clock.stalled_s()) is not None:
                raise RuntimeError(f"{nodes.lacking}, for {limit:g} s now; the same command goes on where it stopped")
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _fit_probe(name: str, config: Config, place: str, identity: str) -> None:
    """One probe, in a Ray task."""
    table = held_features(config, torch.device("cpu"))
    if table.identity != identity:
        raise RuntimeError("the features were embedded anew while the ablation was under way; start it again")
    train, test = table.split(config.features, "train"), table.split(config.features, "test")
    if len(train) > config.ablate.probe_images:
        drawn = np.random.default_rng(config.evaluate.seed).choice(len(train), config.ablate.probe_images, replace=False)
        train = train[torch.from_numpy(np.sort(drawn))]
        logger.info("%s is fitted on %d of the training images, drawn at random", name, len(train))
    text_mode = table.text_mode(config.features.text_mode)
    by_file = torch.argsort(table.order[test])  # read in the order in which they lie
    features = np.concatenate(list(_features(table, train, text_mode)))
    batches = _features(table, test[by_file], text_mode)
    logits = np.empty(len(test))
    logits[by_file.numpy()] = probe_logits(name, features, table.labels[train].numpy(), batches, config.ablate)
    write_logits(_logits(place), scored_images(logits, table, test), table, test)
    storage.write_json(_note(place), {"features": identity})


def _features(table: FeatureTable, images: torch.Tensor, text_mode: str) -> Iterator[np.ndarray]:
    for batch in table.batches(list(images.split(_BATCH)), table.text_mode(text_mode)):
        yield batch.features.numpy().copy()  # the next batch overwrites this one


def _is_done(place: str, identity: str) -> bool:
    if not storage.exists(_note(place)):
        return False
    noted = storage.read_json(_note(place), _NOTE, way_out=f"delete {place} to fit it again")
    return noted["features"] == identity and storage.exists(_logits(place))


def _logits(place: str) -> str:
    return storage.join(place, "test_logits.parquet")


def _note(place: str) -> str:
    return storage.join(place, "probe.json")
