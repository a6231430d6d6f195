"""How Ray's head and a driver of ours grow with the cluster, by simulated nodes that are raylets on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from measure import Figure, Skipped

FEW, MANY = 8, 64
NODE_MB = 150
"""Of a simulated node, as :mod:`node_steps` measures it."""
REST_MB = 2500
"""Of the head, the driver, and the workers of the two nodes that run tasks."""


def node_figures(folder: Path) -> Iterator[Figure | Skipped]:
    """The same measurements with 8 and with 64 nodes."""
    available_mb = psutil.virtual_memory().available / 1e6
    if available_mb < MANY * NODE_MB + REST_MB:
        needed = f"{MANY} nodes of {NODE_MB} MB need {(MANY * NODE_MB + REST_MB) / 1000:.0f} GB of memory"
        yield Skipped(f"{MANY} simulated nodes", f"{needed}, and {available_mb / 1000:.0f} GB are free")
        return
    few, many = (measured(nodes, folder / str(nodes)) for nodes in (FEW, MANY))
    of = f"{MANY} simulated nodes"
    yield Figure(f"{of}: tasks/s, of two nodes that run them", many["tasks_per_s"], unit="1/s")
    yield Figure(f"{of}: tasks/s, over {FEW} nodes", many["tasks_per_s"] / few["tasks_per_s"])
    yield Figure(f"{of}: seconds to plan 5,270 files", many["plan_s"], unit="s")
    yield Figure(f"{of}: seconds to plan, over {FEW} nodes", many["plan_s"] / few["plan_s"])
    yield Figure(f"{of}: memory of the driver", many["driver_mb"], unit="MB")
    yield Figure(f"{of}: memory of the driver, over {FEW} nodes", many["driver_mb"] / few["driver_mb"])
    yield Figure(f"{of}: memory of the GCS", many["gcs_mb"], unit="MB")
    yield Figure(f"{of}: memory of the GCS, over {FEW} nodes", many["gcs_mb"] / few["gcs_mb"])


def measured(nodes: int, folder: Path) -> dict[str, float]:
    """In a process of its own, since Ray's Cluster changes the session of the one that it runs in."""
    folder.mkdir()
    words = [sys.executable, str(Path(__file__).parent / "node_steps.py"), str(nodes), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    if done.returncode:
        raise RuntimeError(f"{nodes} simulated nodes failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])
