"""What becomes of a job when a part of the cluster goes away, on three hosts: 20 minutes, run by ``make test-long``.

All tests share one cluster; each leaves it whole.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from _cluster import WORKERS, Answer, Cluster, cluster, commits, rows, wait_until
from hosts import lacking
from safetensors.torch import load

from rdd import storage

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "they can"),
]

EPOCHS = 30
ON_BOTH_HOSTS = {"scaling.cpus_per_worker": 2, "train.epochs": EPOCHS}
ELASTIC = {"scaling.min_workers": 1, "train.exchange_timeout_s": 20}


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster() as made:
        for job in ("sample", "embed"):
            made.laptop.must(made.submit(job))
        made.laptop.must(made.submit("train", {**ON_BOTH_HOSTS, "train.output": f"{made.s3.bucket}/runs/untouched"}))
        yield made


@pytest.fixture(autouse=True)
def whole_again(running: Cluster) -> Iterator[None]:
    yield
    for name in WORKERS:
        running.hosts[name].plug()
    running.wait_for_nodes(1 + len(WORKERS), seconds=240)


def trained_through(running: Cluster, name: str, fault: Any, more: Mapping[str, Any] = {}) -> tuple[Answer, str]:
    """A training run to which something happens after its first checkpoint: what it said, and its output."""
    output = f"{running.s3.bucket}/runs/{name}"
    with running.laptop.start(running.submit("train", {**ON_BOTH_HOSTS, **more, "train.output": output})) as job:
        wait_until(lambda: storage.exists(f"{output}/checkpoints/last.pt") or job.poll() is not None, "a checkpoint")
        fault()
        out, err = job.communicate(timeout=900)
    return Answer(job.returncode, out, err), output


def assert_on_its_path(running: Cluster, output: str, *, to_the_bit: bool) -> None:
    """Its weights are those of the run to which nothing happened."""
    ours, untouched = (
        load(storage.read_bytes(f"{place}/detector/detector.safetensors"))
        for place in (output, f"{running.s3.bucket}/runs/untouched")
    )
    for name in untouched:
        if to_the_bit:
            assert torch.equal(ours[name], untouched[name]), name
        else:
            torch.testing.assert_close(ours[name], untouched[name], rtol=1e-9, atol=1e-9)


def assert_all_rows(running: Cluster, output: str) -> None:
    """Every row once, as in the embedding to which nothing happened; features to float16's rounding: batches differ."""
    features = ("projected", "text_original", "text_positive")
    measured = dict.fromkeys((*features, "caption_cosines"))
    for ours, whole in zip(rows(output), rows(f"{running.s3.bucket}/features/sample"), strict=True):
        assert {**ours, **measured} == {**whole, **measured}
        np.testing.assert_allclose(ours["caption_cosines"], whole["caption_cosines"], rtol=1e-3, atol=1e-4)
        for name in features:
            one, other = (np.frombuffer(row[name], np.float16).astype(np.float64) for row in (ours, whole))
            np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_training_goes_on_with_one_worker_when_the_network_of_the_other_is_cut(running: Cluster) -> None:
    answer, output = trained_through(running, "cut", running.hosts["worker-1"].cut, ELASTIC)
    assert answer.code == 0, answer.text[-4000:]
    assert answer.summary["epochs"] == EPOCHS
    assert_on_its_path(running, output, to_the_bit=False)


def test_training_waits_for_the_host_that_was_switched_off_where_it_may_not_shrink(running: Cluster) -> None:
    def off_and_on() -> None:
        running.hosts["worker-2"].switch_off()
        running.hosts["worker-2"].switch_on()

    answer, output = trained_through(running, "switched-off", off_and_on, {"train.exchange_timeout_s": 20})
    assert answer.code == 0, answer.text[-4000:]
    assert_on_its_path(running, output, to_the_bit=True)


def test_a_worker_that_is_killed_while_it_embeds_loses_nothing(running: Cluster) -> None:
    output = f"{running.s3.bucket}/features/killed"
    with running.laptop.start(running.submit("embed", {"embed.output": output, "embed.records_per_commit": 8})) as job:
        wait_until(lambda: bool(commits(output)) or job.poll() is not None, "a commit")
        running.hosts["worker-1"].says("pkill -9 raylet")
        out, err = job.communicate(timeout=600)
    assert job.returncode == 0, out[-4000:] + err[-4000:]
    assert_all_rows(running, output)


def test_a_sweep_keeps_its_finished_trials_when_a_network_is_cut(running: Cluster) -> None:
    output = f"{running.s3.bucket}/runs/cut-sweep"
    settings = {
        "tune.output": output,
        "tune.num_trials": 6,
        "train.epochs": 20,
        "scaling.num_workers": 1,
        "tune.scheduler": "none",
    }
    with running.laptop.start(running.submit("tune", settings)) as job:
        wait_until(lambda: bool(finished_trials(output)) or job.poll() is not None, "a trial", seconds=240)
        before = finished_trials(output)
        running.hosts["worker-1"].cut()
        out, err = job.communicate(timeout=900)
    answer = Answer(job.returncode, out, err)
    assert answer.code == 0, answer.text[-4000:]
    after = finished_trials(output)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def finished_trials(output: str) -> dict[str, bytes]:
    """Results of the trials that have ended, by name."""
    if not storage.exists(output):
        return {}
    return {file.path: storage.read_bytes(file.path) for file in storage.list_files(output, suffix="/ended.json")}


def test_a_full_disk_of_a_worker_ends_in_one_sentence_or_is_worked_around(running: Cluster) -> None:
    host, output = running.hosts["worker-1"], f"{running.s3.bucket}/features/full"
    host.says("fallocate -l 1000M /tmp/ray/filler || dd if=/dev/zero of=/tmp/ray/filler bs=1M || true")
    try:
        answer = running.laptop.run(running.submit("embed", {"embed.output": output}), timeout=600)
    finally:
        host.says("rm -f /tmp/ray/filler")
    if answer.code:
        assert "error: " in answer.text
        answer = running.laptop.must(running.submit("embed", {"embed.output": output}), timeout=600)
    assert_all_rows(running, output)


def test_thirty_seconds_without_s3(running: Cluster) -> None:
    answer, output = trained_through(running, "without-s3", lambda: running.s3.fail(away_s=30.0))
    if answer.code:
        assert answer.text.count("error: ") == 1, answer.text[-3000:]
        again = {**ON_BOTH_HOSTS, "train.output": output}
        running.laptop.must(running.submit("train", again), timeout=600)
    assert_on_its_path(running, output, to_the_bit=True)


def test_thirty_seconds_without_mlflow(running: Cluster) -> None:
    serve = "python ~/rdd/cluster/mlflow/serve.py"

    def away() -> None:
        running.on_head(f"{serve} --stop; sleep 30; {serve} --artefacts {running.s3.bucket}/mlflow --detach")

    answer, output = trained_through(running, "without-mlflow", away)
    assert answer.code == 0, answer.text[-4000:]
    assert "MLflow answers again and has all that waited" in answer.text
    assert_on_its_path(running, output, to_the_bit=True)


def test_a_worker_that_is_drained_with_a_notice(running: Cluster) -> None:
    def notice() -> None:
        node = running.alive()[running.hosts["worker-2"].address]
        reason = "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message notice --deadline-remaining-seconds 30"
        running.on_head(f"ray drain-node --address {running.head.address}:6379 --node-id {node} {reason}")

    answer, output = trained_through(running, "drained", notice, ELASTIC)
    assert answer.code == 0, answer.text[-4000:]
    assert "will be taken away" in answer.text
    assert_on_its_path(running, output, to_the_bit=False)


def test_the_network_of_a_worker_is_cut_while_it_embeds(running: Cluster) -> None:
    output = f"{running.s3.bucket}/features/cut"
    with running.laptop.start(running.submit("embed", {"embed.output": output, "embed.records_per_commit": 8})) as job:
        wait_until(lambda: bool(commits(output)) or job.poll() is not None, "the first commit")
        running.hosts["worker-1"].cut()
        out, err = job.communicate(timeout=900)
    assert job.returncode == 0, out[-4000:] + err[-4000:]
    assert_all_rows(running, output)


def test_an_embedding_that_is_stopped_goes_on_by_the_same_command(running: Cluster) -> None:
    output = f"{running.s3.bucket}/features/stopped"
    line = running.submit("embed", {"embed.output": output, "embed.records_per_commit": 8})
    with running.laptop.start(line) as job:
        wait_until(lambda: bool(commits(output)) or job.poll() is not None, "the first commit")
        listed = running.laptop.must("ray job list").text
        states = dict(re.findall(r"submission_id='(rdd-\w+)'.*?status=<JobStatus\.(\w+)", listed, re.DOTALL))
        (at_work,) = (name for name, state in states.items() if state == "RUNNING")
        running.laptop.must(f"ray job stop {at_work}")
        out, err = job.communicate(timeout=120)
    assert job.returncode == 143, out[-3000:] + err[-3000:]
    assert "embed was ended by SIGTERM; the same command goes on where it stopped" in out
    kept = set(commits(output))
    answer = running.laptop.must(line, timeout=400)
    assert answer.summary["records_written"] == 100
    assert kept
    assert_all_rows(running, output)


def test_idle_workers_are_given_back_and_come_when_a_job_asks(running: Cluster) -> None:
    file = running.laptop.project / "cluster" / "on_premises.yaml"
    as_it_was = file.read_text()
    growing = as_it_was.replace("# min_workers: 0", "min_workers: 0").replace("minutes: 10", "minutes: 0.5")
    start, settings = "ray up --yes cluster/on_premises.yaml", {"embed.output": f"{running.s3.bucket}/features/grown"}
    try:
        file.write_text(growing)
        running.laptop.must(start, timeout=400)
        running.wait_for_nodes(1, seconds=240)
        running.laptop.must(running.submit("embed", settings), timeout=600)
        assert_all_rows(running, settings["embed.output"])
        running.wait_for_nodes(1, seconds=240)
    finally:
        file.write_text(as_it_was)
        running.laptop.must(start, timeout=400)


def test_the_head_is_switched_off_while_it_trains_and_the_command_goes_on_on_a_new_cluster(running: Cluster) -> None:
    _, output = trained_through(running, "head-off", running.head.switch_off)
    running.head.switch_on()
    running.up()
    with running.tunnel():
        running.laptop.must(running.submit("train", {**ON_BOTH_HOSTS, "train.output": output}), timeout=600)
    assert_on_its_path(running, output, to_the_bit=True)
