"""A Ray cluster of many simulated nodes on this machine, in a process of its own: what its driver and its GCS need.

    python tests/benchmarks/node_steps.py NODES FOLDER

A node is a raylet with Ray's two agents. Two of them have a CPU and run tasks; the others are known to the cluster and no more.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import ray
from graph_steps import KeysOnly, no_progress, pass_keys
from ray import cloudpickle
from ray.cluster_utils import Cluster

from rdd.config import EmbedConfig
from rdd.data.index import make_index
from rdd.on_ray.auth_token import keep_token_private
from rdd.on_ray.embedding_graph import Sizes, Steps, write_features

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can not import a benchmark

FILES, ROWS = 5270, 436
"""Of D3's training records."""
TASKS, TASKS_WARM = 2000, 200
RUNNING = 2
"""Nodes that run tasks, one at a time; this machine has no more cores to give."""


def measured(nodes: int, folder: Path) -> dict[str, float]:
    """Start the cluster, measure, and end it; an embedding has begun in a thread of this process."""
    keep_token_private()
    began = time.perf_counter()
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**9}  # the index has 183 MiB
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for number in range(nodes - 1):
        cluster.add_node(num_cpus=int(number < RUNNING), wait=False)
    cluster.wait_for_nodes(timeout=300)
    up_s = time.perf_counter() - began
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        tasks_per_s = task_rate()
        plan_s = planned_s(folder)
        gcs = psutil.Process(cluster.head_node.all_processes["gcs_server"][0].process.pid)
        return {
            "up_s": up_s,
            "tasks_per_s": tasks_per_s,
            "plan_s": plan_s,
            "driver_mb": psutil.Process().memory_info().rss / 1e6,
            "gcs_mb": gcs.memory_info().rss / 1e6,
            "node_mb": node_mb(cluster),
        }
    finally:
        for process in psutil.Process().children(recursive=True):  # ray.shutdown would send the embedding to another Ray
            process.kill()


def task_rate() -> float:
    """Tasks a second that do nothing."""
    nothing = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(lambda: None)
    ray.get([nothing.remote() for _ in range(TASKS_WARM)])
    began = time.perf_counter()
    ray.get([nothing.remote() for _ in range(TASKS)])
    return TASKS / (time.perf_counter() - began)


def d3_index() -> pa.Table:
    """Of as many files and records as D3 has."""
    rows = list(range(FILES * ROWS))
    sources = [f"train-{file:05d}.parquet" for file in range(FILES) for _ in range(ROWS)]
    keys = [f"k{row:07d}" for row in rows]
    return make_index({"key": keys, "source": sources, "row": rows, "rows": [[row] for row in rows]})


def planned_s(folder: Path) -> float:
    """From the start of an embedding with an index like D3's until its first task reads."""
    note = folder / "begun"

    def read(index: pa.Table) -> Iterator[pa.Table]:
        note.touch()
        yield index.select(["key"])

    steps = Steps(read=read, decode=pass_keys, encoder=KeysOnly, arguments={}, progress=no_progress)
    sizes = Sizes(task=512, forward_pass=512, commit=1024, block_bytes=2**20)
    config = EmbedConfig(cpus_per_worker=0.5, cpus_per_task=0.5)
    arguments = (d3_index(), steps, str(folder / "features"), config, sizes, {})
    began = time.perf_counter()
    working = threading.Thread(target=write_features, args=arguments, daemon=True)
    working.start()
    while not note.exists():
        working.join(0.02)
        assert working.is_alive(), "the embedding has ended before it began"
    return time.perf_counter() - began


def node_mb(cluster: Cluster) -> float:
    """Private memory of the processes of a node that runs nothing."""
    node = next(node for node in cluster.worker_nodes if not node.get_resource_and_label_spec().num_cpus)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    processes = [raylet, *raylet.children(recursive=True)]
    return sum(process.memory_full_info().uss for process in processes) / 1e6


def main() -> None:
    """Print what was measured."""
    print(json.dumps(measured(int(sys.argv[1]), Path(sys.argv[2]))), flush=True)
    os._exit(0)  # the embedding goes on in its thread


if __name__ == "__main__":
    main()
