"""Faults while an embedding runs: after each, in = written + quarantined, every row once, features as of an untouched run."""

import contextlib
import functools
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _embed_job as job
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _metadata_service import metadata_service
from _odd_images import MAX_PIXELS, odd_images
from _two_nodes import OTHER, two_nodes
from PIL import Image
from ray._raylet import GcsClient
from ray.core.generated.common_pb2 import NodeDeathInfo

from rdd import storage
from rdd.clip import ClipEncoder
from rdd.config import Config
from rdd.config.parse import override
from rdd.on_ray import embed
from rdd.on_ray.embed import run_embedding

pytestmark = pytest.mark.timeout(600)

RECORDS = 48


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A record an image, every twelfth of them broken."""
    images = [png(number) if number % 12 else png(number)[:200] for number in range(RECORDS)]
    labels = [number % 2 for number in range(RECORDS)]
    columns = {"bytes": images, "label": labels, "generator": ["sd" if label else "real" for label in labels]}
    path = tmp_path_factory.mktemp("manifest") / "manifest.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=8)
    return str(path)


def settings(manifest: str, output: Path, model: str, **more: Any) -> dict[str, Any]:
    """One image a forward pass, a task and a commit."""
    return {
        "records.kind": "manifest",
        "records.path": manifest,
        "clip.model": model,
        "clip.pretrained": "random",
        "clip.batch_size": 1,
        "embed.output": str(output),
        "embed.text": "false",
        "embed.cpus_per_worker": 0.5,  # within one session Ray lets go of the actor of a failed job late
        "embed.threads_per_worker": 1,
        "embed.records_per_task": 4,
        "embed.records_per_commit": 1,
        "embed.max_quarantined_share": 0.5,
        "cluster.address": "local",
        "cluster.num_cpus": 2,
        "tracking.enabled": "false",
        **more,
    }


def in_process(values: dict[str, Any]) -> Config:
    return override(Config(), {name: {"false": False}.get(value, value) for name, value in values.items()})


@pytest.fixture(scope="module")
def untouched(
    ray_session: None, manifest: str, tiny_model: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    output = tmp_path_factory.mktemp("untouched") / "features"
    summary = run_embedding(in_process(settings(manifest, output, tiny_model, **{"embed.records_per_commit": 16})))
    assert (summary["records_in"], summary["quarantined"]) == (RECORDS, {"undecodable": RECORDS // 12})
    return job.rows(str(output))


def test_odd_images_are_embedded_as_open_clip_sees_them_or_quarantined_for_their_reason(
    ray_session: None, tiny_model: str, tmp_path: Path
) -> None:
    odd = {f"real/{file.name}": file for file in odd_images()}
    for name, file in odd.items():
        storage.write_bytes(str(tmp_path / "images" / name), file.data)
    values = {
        "records.kind": "folder",
        "records.path": str(tmp_path / "images"),
        "records.max_pixels": MAX_PIXELS,
        "clip.batch_size": 16,
        "embed.records_per_task": 0,
        "embed.records_per_commit": 0,
    }
    summary = run_embedding(in_process(settings("", tmp_path / "features", tiny_model, **values)))
    rows = {row["record_id"]: row for row in job.rows(str(tmp_path / "features"))}
    assert {name: row["reason"] for name, row in rows.items()} == {name: file.reason for name, file in odd.items()}
    assert summary["records_in"] == len(odd) == summary["records_written"] + summary["records_quarantined"]
    written = [name for name, file in odd.items() if file.reason is None]
    with warnings.catch_warnings(action="ignore"):  # Pillow's advice on palettes
        pictures = [Image.open(io.BytesIO(odd[name].data)) for name in written]
        expected = ClipEncoder(tiny_model, "random").encode_images(pictures).numpy()
    found = np.stack([np.frombuffer(rows[name]["projected"], "<f2") for name in written])
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.slow
def test_a_file_that_goes_while_others_are_embedded_is_named_and_brought_back_the_job_goes_on(
    untouched: list[dict[str, Any]], manifest: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, real_write = tmp_path / "manifest.parquet", embed._write
    copy.write_bytes(Path(manifest).read_bytes())

    def gone_then_write(*arguments: Any) -> None:
        copy.rename(tmp_path / "away")
        real_write(*arguments)

    config = in_process(settings(str(copy), tmp_path / "features", tiny_model, **{"embed.records_per_commit": 16}))
    monkeypatch.setattr(embed, "_write", gone_then_write)
    with pytest.raises(RuntimeError, match=r"^/.*/manifest\.parquet was there when the job began and is gone; bring it back"):
        run_embedding(config)
    monkeypatch.setattr(embed, "_write", real_write)
    (tmp_path / "away").rename(copy)
    assert run_embedding(config)["records_in"] == RECORDS
    assert job.rows(config.embed.output) == untouched


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_job_in_one_sentence_and_with_room_the_same_command_goes_on(
    untouched: list[dict[str, Any]], manifest: str, tiny_model: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "200k"):
        config = in_process(settings(manifest, disk / "features", tiny_model, **{"embed.records_per_commit": 4}))
        said = rf"^(a disk is full while )?{re.escape(str(disk))}/features.* make room and start the same command again$"
        with pytest.raises(RuntimeError, match=said):
            run_embedding(config)
        assert 0 < job.commits(disk / "features") < RECORDS // 2
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert run_embedding(config)["records_in"] == RECORDS
        assert job.rows(config.embed.output) == untouched


def committed(values: dict[str, Any], least: int) -> bool:
    """Whether an embedding has begun, and has made so many commits."""
    output = Path(values["embed.output"])
    return (output / "config.yaml").exists() and job.commits(output) >= least


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_driver_killed_at_five_moments_goes_on_by_the_same_command(
    untouched: list[dict[str, Any]], manifest: str, tiny_model: str, tmp_path: Path
) -> None:
    values = settings(manifest, tmp_path / "features", tiny_model)
    moments = random.Random(0)
    for least in (0, 3, 8, 15, 25):  # commits that are there when it is killed, at a random time after
        with job.started(values) as process:
            job.wait_until(functools.partial(committed, values, least), process)
            time.sleep(moments.random() / 2)
            process.send_signal(signal.SIGKILL)
    job.run(values)
    assert job.rows(values["embed.output"]) == untouched


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_encoder_and_then_a_whole_node_are_killed_and_the_job_goes_on(
    untouched: list[dict[str, Any]], manifest: str, tiny_model: str, tmp_path: Path
) -> None:
    with two_nodes() as nodes:
        more = {"cluster.address": nodes.address, "embed.num_workers": 2}
        values = settings(manifest, tmp_path / "features", tiny_model, **more)
        with job.started(values) as process:
            job.wait_until(functools.partial(committed, values, 3), process)
            nodes.encoders()[0].kill()
            job.wait_until(functools.partial(committed, values, 8), process)
            os.kill(nodes.other, signal.SIGKILL)
            assert job.summary_of(process)["records_in"] == RECORDS
    assert job.rows(values["embed.output"]) == untouched


@contextlib.contextmanager
def spot_watcher(service: str, cluster: str, log: Path) -> Iterator[None]:
    """The watcher of a machine, as its systemd unit starts it."""
    words = [sys.executable, "cluster/spot_watcher/spot_watcher.py", "--metadata", service, "--poll_s", "0.2"]
    environment = os.environ | {"RAY_ADDRESS": cluster, "RAY_AUTH_MODE": "token"}
    with log.open("w") as file, subprocess.Popen(words, env=environment, stderr=file) as process:
        try:
            yield
        finally:
            process.terminate()


def by_row(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["row"])


def death_of(cluster: str, address: str) -> NodeDeathInfo:
    nodes = GcsClient(address=cluster).get_all_node_info(timeout=20)
    return next(node.death_info for node in nodes.values() if node.node_manager_address == address)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_taken_away_with_notice_costs_no_row_and_no_failure(
    untouched: list[dict[str, Any]], manifest: str, tiny_model: str, tmp_path: Path
) -> None:
    copies, notice_s = 8, 6.0
    once = pq.read_table(manifest)
    pq.write_table(pa.concat_tables([once] * copies), tmp_path / "manifest.parquet", row_group_size=8)
    with two_nodes() as nodes, metadata_service(OTHER) as service:
        values = settings(str(tmp_path / "manifest.parquet"), tmp_path / "features", tiny_model)
        values |= {"cluster.address": nodes.address, "embed.num_workers": 2}
        with spot_watcher(service.url, nodes.address, tmp_path / "log"), job.started(values) as process:
            job.wait_until(functools.partial(committed, values, 3), process)
            service.give_notice(notice_s)
            time.sleep(notice_s)
            assert process.poll() is None
            nodes.end_other()
            _, said = process.communicate()
        while (death := death_of(nodes.address, OTHER)).reason == NodeDeathInfo.UNSPECIFIED:  # Ray needs some 15 s to see it
            time.sleep(0.5)
    assert process.returncode == 0, said
    assert said.count(f"node {OTHER} is being drained: it ends in") == 1
    assert (tmp_path / "log").read_text().count("is being drained") == 1
    assert (death.reason, death.reason_message) == (NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED, "EC2 has given notice: terminate")
    own = dict.fromkeys(("key", "row", "record_id"))
    assert [row | own for row in by_row(job.rows(values["embed.output"]))] == [row | own for row in by_row(untouched)] * copies
