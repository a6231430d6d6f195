"""A cluster on three hosts, from ``ray up`` to ``ray down``, and what happens when something goes away.

All tests share one cluster and are run in this order; each leaves it whole.
"""

from collections.abc import Iterator

import pytest
from _cluster import Cluster, cluster
from hosts import lacking

from rdd import storage

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "they can"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def test_both_workers_join_and_the_head_takes_no_tasks(running: Cluster) -> None:
    status = running.laptop.must("ray exec cluster/on_premises.yaml '. ~/rdd/cluster/node_env.sh && ray status'").out
    assert "/4.0 CPU" in status, status
    assert len(running.alive()) == 3


def test_each_stage_runs_as_a_submitted_job(running: Cluster) -> None:
    said = {}
    for job in ("sample", "embed", "train", "evaluate", "tune", "ablate"):
        said[job] = running.laptop.must(running.submit(job, {"tracking.enabled": False}), timeout=400).summary
    assert said["embed"]["records_written"] == 100
    assert said["train"]["epochs"] == 10
    assert storage.exists(f"{running.s3.bucket}/runs/sample/detector/detector.json")
