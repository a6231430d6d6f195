from typing import Any

import pytest

from rdd.config import EmbedConfig
from rdd.on_ray.encoder_placement import leaves_room_after_a_loss, leaves_room_to_read


def node(cpus: float, gpus: float = 0.0, *, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})}


HEAD = node(0)


@pytest.mark.parametrize(
    ("nodes", "workers", "takes", "task", "room"),
    [
        ([HEAD, node(2), node(2)], 2, {"cpus_per_worker": 1.0}, 1.0, True),
        ([HEAD, node(2), node(2)], 2, {"cpus_per_worker": 1.5}, 1.0, False),  # half a CPU on each, though one in all
        ([HEAD, node(2), node(2)], 2, {"cpus_per_worker": 1.5}, 0.5, True),
        ([HEAD, node(2), node(2), node(2, alive=False)], 2, {"cpus_per_worker": 1.5}, 1.0, False),
        # encoders with GPUs leave the nodes without GPUs alone
        ([HEAD, node(8, 1), node(16), node(8, 1)], 2, {"cpus_per_worker": 8.0, "gpus_per_worker": 1.0}, 1.0, True),
    ],
)
def test_encoders_may_leave_no_node_room_to_read(
    nodes: list[dict[str, Any]], workers: int, takes: dict[str, float], task: float, room: bool
) -> None:
    assert leaves_room_to_read(EmbedConfig(num_workers=workers, cpus_per_task=task, **takes), nodes) == room


@pytest.mark.parametrize(
    ("nodes", "workers", "takes", "room"),
    [
        ([node(2)], 2, {"cpus_per_worker": 0.5}, True),  # nothing goes on without it anyway
        ([HEAD, node(2), node(2)], 2, {"cpus_per_worker": 0.5}, True),
        ([HEAD, node(2), node(2)], 2, {"cpus_per_worker": 1.0}, False),  # both encoders on the other
        ([HEAD, node(2), node(16)], 2, {"cpus_per_worker": 1.0}, False),  # when the large one goes
        ([HEAD, node(2), node(2), node(2)], 2, {"cpus_per_worker": 1.0}, True),
        ([HEAD, node(8, 1), node(8, 1)], 2, {"cpus_per_worker": 5.0, "gpus_per_worker": 1.0}, True),  # no GPU for a second
    ],
)
def test_the_encoders_of_a_lost_node_may_fill_the_others(
    nodes: list[dict[str, Any]], workers: int, takes: dict[str, float], room: bool
) -> None:
    assert leaves_room_after_a_loss(EmbedConfig(num_workers=workers, cpus_per_task=1.0, **takes), nodes) == room
