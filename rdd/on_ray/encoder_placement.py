"""Whether encoders that are spread over the nodes leave room to read and decode."""

from collections.abc import Iterable, Mapping
from typing import Any

from rdd.config import EmbedConfig

_SLACK = 1e-9


def leaves_room_to_read(config: EmbedConfig, nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether some node keeps the CPUs of a task when the encoders are spread.

    Encoders that take parts of CPUs can leave every node less than a task needs, although the cluster has enough in all, and
    then nothing is ever read (ray #63513).

    Args:
        config: how many encoders, and what they and the tasks take.
        nodes: as ``ray.nodes()`` lists them.
    """
    free = [
        (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in nodes
        if node["Alive"] and node["Resources"].get("CPU", 0.0) > 0
    ]
    for number in range(config.num_workers):
        for place in range(len(free)):  # each node in turn
            cpus, gpus = free[(number + place) % len(free)]
            if cpus + _SLACK >= config.cpus_per_worker and gpus + _SLACK >= config.gpus_per_worker:
                free[(number + place) % len(free)] = cpus - config.cpus_per_worker, gpus - config.gpus_per_worker
                break
    return any(cpus + _SLACK >= config.cpus_per_task for cpus, _ in free)


def leaves_room_after_a_loss(config: EmbedConfig, nodes: Iterable[Mapping[str, Any]]) -> bool:
    """Whether :func:`leaves_room_to_read` also holds when any one node is lost and its encoders begin on the others.

    Args:
        config: how many encoders, and what they and the tasks take.
        nodes: as ``ray.nodes()`` lists them; True where only one of them has CPUs.
    """
    able = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0.0) > 0]
    left = ([node for node in able if node is not lost] for lost in able)
    return len(able) < 2 or all(leaves_room_to_read(config, others) for others in left)
