"""Fetching on a real Ray session from a web server that counts: polite, complete, resumable, watched."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from _addresses import fetched, write_records
from _two_nodes import two_nodes
from _web_server import HOSTS, image, stats, web_server
from s3_server import s3_server

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.data.fetched import parts_of
from rdd.data.real_images import RealImages
from rdd.on_ray import fetch as fetch_on_ray
from rdd.on_ray import host_leases
from rdd.on_ray.fetch import run_fetch

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with web_server(tmp_path) as port:
        yield port


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return override(
        Config(),
        {
            "records.path": str(tmp_path / "records"),
            "fetch.output": str(tmp_path / "fetched"),
            "fetch.contact": "tests@example.org",
            "fetch.allow_loopback": True,
            "fetch.cpus_per_worker": 0.5,
            "fetch.records_per_file": 25,
            "fetch.connect_timeout_s": 2.0,
            "fetch.read_timeout_s": 2.0,
            "fetch.image_timeout_s": 5.0,
            "fetch.backoff_s": 0.1,
            "fetch.max_wait_s": 5.0,
            "fetch.retries": 1,
            "tracking.enabled": False,
            "cluster.address": "local",
        },
    )


def image_urls(port: int, count: int, *, hosts: int = 4, delay: float = 0.0) -> list[str | None]:
    return [f"http://{HOSTS[i % hosts]}:{port}/image/{i}.jpg?delay={delay}" for i in range(count)]


def output_of(config: Config) -> Path:
    return Path(config.fetch.output)


def test_two_workers_fetch_everything_once_and_never_more_than_allowed_from_a_host(
    ray_session, config: Config, port: int, tmp_path: Path
) -> None:
    urls = image_urls(port, 200, delay=0.03)
    for row in range(100, 115):
        urls[row] = f"http://{HOSTS[5]}:{port}/placeholder/{row}"
    urls[7], urls[60], urls[180] = urls[3], f"http://{HOSTS[4]}:{port}/status/404", urls[3]
    urls[61], urls[62], urls[63] = None, f"http://{HOSTS[4]}:{port}/to?to=http://10.0.0.1/", "http://gone.invalid/a.jpg"
    urls[64], urls[65] = f"http://{HOSTS[4]}:{port}/first/1/429?after=1", f"http://{HOSTS[4]}:{port}/html"
    write_records(tmp_path / "records", urls)
    summary = run_fetch(override(config, {"fetch.num_workers": 2}))
    status = {
        "ok": 180,
        "placeholder": 15,
        "http_404": 1,
        "null_url": 1,
        "no_such_host": 1,
        "not_an_image": 1,
        "refused_address": 1,
    }
    assert summary["status"] == status
    assert (summary["records"], summary["ok"], summary["failed"], summary["survival"]) == (200, 180, 20, 0.9)
    seen = stats(port)
    assert set(seen["most"].values()) <= {1, 2}
    assert max(seen["most"].values()) == 2
    assert [path for path, times in seen["requests"].items() if times > 1] == ["/first/1/429?after=1"]
    assert len(seen["requests"]) == 200 - 4  # one address thrice, one is null, one is of no host
    rows = fetched(output_of(config))
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(200)]
    assert [row["url"] for row in rows] == urls
    for row in (0, 50, 199):
        assert rows[row]["bytes"] == image(row)
        assert (rows[row]["width"], rows[row]["height"], rows[row]["content_type"]) == (48, 32, "image/jpeg")
    assert rows[7]["bytes"] == rows[180]["bytes"] == image(3)
    assert len(list((output_of(config) / "data").iterdir())) == 8
    found = RealImages(config.fetch.output).lookup(["r199", "r60", "r110", "none"])
    assert found == {"r199": ("ok", image(199)), "r60": ("http_404", None), "r110": ("placeholder", None)}


def test_a_finished_fetch_says_what_there_is_until_its_block_list_grows(
    ray_session, config: Config, port: int, tmp_path: Path
) -> None:
    write_records(tmp_path / "records", image_urls(port, 40))
    summary = run_fetch(config)
    assert sorted(path.name for path in output_of(config).iterdir()) == [
        ".lock",
        ".work",
        "config.yaml",
        "data",
        "metrics.json",
        "report",
    ]
    with open(output_of(config) / "report" / "domains.csv") as file:
        assert {(row["domain"], row["status"], row["records"]) for row in csv.DictReader(file)} == {
            (host, "ok", "10") for host in HOSTS[:4]
        }
    assert (output_of(config) / "report" / "survival.png").read_bytes().startswith(b"\x89PNG")
    assert run_fetch(config) == summary
    with pytest.raises(ValueError, match=r"fetch\.placeholder_urls \(10 there, 3 now\)"):
        run_fetch(override(config, {"fetch.placeholder_urls": 3}))
    (tmp_path / "blocked.txt").write_text(f"{HOSTS[1]}\n")
    blocked = run_fetch(override(config, {"fetch.block_list": str(tmp_path / "blocked.txt")}))
    assert blocked["status"] == {"ok": 30, "blocked": 10}
    assert all(row["bytes"] is None for row in fetched(output_of(config)) if row["status"] == "blocked")
    assert sum(stats(port)["requests"].values()) == 40


def test_a_further_round_asks_again_for_what_failed_and_may_pass(
    ray_session, config: Config, port: int, tmp_path: Path
) -> None:
    urls = image_urls(port, 60)
    urls[10], urls[11], urls[50] = f"http://{HOSTS[0]}:{port}/first/1/503?x", f"http://{HOSTS[0]}:{port}/status/404", urls[1]
    write_records(tmp_path / "records", urls)
    config = override(config, {"fetch.retries": 0})
    assert run_fetch(config)["status"] == {"ok": 58, "http_404": 1, "http_503": 1}
    before = {file.name: file.stat().st_mtime_ns for file in (output_of(config) / "data").iterdir()}
    again = run_fetch(override(config, {"fetch.retry_failed": True}))
    assert again["status"] == {"ok": 59, "http_404": 1}
    assert again["round"] == 1
    asked = stats(port)["requests"]
    assert (asked["/first/1/503?x"], asked["/status/404"], sum(asked.values())) == (2, 1, 60)
    after = {file.name: file.stat().st_mtime_ns for file in (output_of(config) / "data").iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["real-00000-of-00003.parquet"]
    assert run_fetch(config) == again
    assert [row["id"] for row in fetched(output_of(config))] == [f"r{i}" for i in range(60)]


def test_a_straggler_holds_back_its_own_file_alone(ray_session, config: Config, port: int, tmp_path: Path) -> None:
    urls = image_urls(port, 60)
    urls[0] = f"http://{HOSTS[7]}:{port}/silence"
    write_records(tmp_path / "records", urls)
    config = override(config, {"fetch.records_per_file": 10, "fetch.files_per_worker": 2})
    assert run_fetch(config)["status"] == {"ok": 59, "read_timeout": 1}
    commits = sorted((output_of(config) / ".work" / "commits").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in commits].index("real-00000-of-00006.0") >= 2  # others went on while it waited


def test_ids_and_addresses_that_are_left_out_are_never_asked_for(
    ray_session, config: Config, port: int, tmp_path: Path
) -> None:
    write_records(tmp_path / "records", image_urls(port, 12))
    (tmp_path / "ids.json").write_text(json.dumps(["r1", "r5"]))
    (tmp_path / "blocked.txt").write_text(f"http://{HOSTS[2]}:{port}/image/2.jpg?delay=0.0\n{HOSTS[3]}\n")
    leaves = {"fetch.excluded_ids": str(tmp_path / "ids.json"), "fetch.block_list": str(tmp_path / "blocked.txt")}
    assert run_fetch(override(config, leaves))["status"] == {"ok": 6, "blocked": 4, "excluded": 2}
    asked = stats(port)["requests"]
    assert len(asked) == 6
    assert not {f"/image/{i}.jpg?delay=0.0" for i in (1, 2, 3, 5, 7, 11)} & set(asked)


def test_wrong_requests_are_refused_before_anything_is_asked_for(
    ray_session, config: Config, port: int, tmp_path: Path
) -> None:
    write_records(tmp_path / "records", image_urls(port, 3))
    for leaves, message in (
        ({"fetch.contact": ""}, r"fetch\.contact must name a mail address or page"),
        ({"records.path": str(tmp_path / "none")}, "no directory at"),
        ({"records.kind": "folder"}, r"records\.kind must be d3"),
        ({"fetch.block_list": str(tmp_path / "none")}, r"fetch\.block_list must name a file"),
        ({"fetch.num_workers": 50}, r"needs 25 CPUs and this machine has 2; lower fetch\.num_workers|needs 25 CPUs"),
    ):
        with pytest.raises(ValueError, match=message):
            run_fetch(override(config, leaves))
    assert stats(port)["requests"] == {}
    assert not output_of(config).exists()


def test_no_image_at_all_is_a_failure_that_a_further_round_may_mend(
    ray_session, config: Config, port: int, tmp_path: Path
) -> None:
    write_records(tmp_path / "records", [f"http://{HOSTS[0]}:{port}/first/1/500?x"])
    config = override(config, {"fetch.retries": 0})
    assert fetch_on_ray._round(True, parts_of(1, 1), config.fetch.output) == 0  # the first round has not been finished
    with pytest.raises(RuntimeError, match=r"none of 1 images could be fetched .*http_500.*--fetch\.retry_failed true"):
        run_fetch(config)
    assert run_fetch(override(config, {"fetch.retry_failed": True}))["ok"] == 1


@pytest.mark.slow
def test_a_worker_that_is_killed_begins_its_files_again(
    ray_session, config: Config, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_leases, "LEASE_SLACK_S", 1.0)  # the leases that it held end so soon
    urls = image_urls(port, 120, delay=0.1)
    write_records(tmp_path / "records", urls)
    killed: list[int] = []

    def kill_one() -> None:
        while sum(stats(port)["requests"].values()) < 30:
            time.sleep(0.05)
        workers = [p for p in psutil.process_iter(["cmdline"]) if "ray::FetchWorker" in " ".join(p.info["cmdline"] or [])]
        mine = [p for p in workers if os.getpid() in [parent.pid for parent in p.parents()]]
        killed.append(mine[0].pid)
        mine[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = run_fetch(override(config, {"fetch.image_timeout_s": 3.0, "fetch.num_workers": 2}))
    killer.join()
    assert killed
    assert summary["status"] == {"ok": 120}
    assert [row["bytes"] for row in fetched(output_of(config))] == [image(i) for i in range(120)]
    assert set(stats(port)["most"].values()) <= {1, 2}


@pytest.mark.slow
def test_a_host_that_nobody_gets_a_turn_of_is_named_when_the_run_ends(
    ray_session, config: Config, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(tmp_path / "records", [f"http://{HOSTS[7]}:{port}/image/1.jpg", *image_urls(port, 3)])
    real = fetch_on_ray.start_shards

    def shards_with_one_host_taken(*arguments) -> list:
        shards = real(*arguments)
        ray.get([shard.acquire.remote(HOSTS[7]) for shard in shards])
        return shards

    monkeypatch.setattr(fetch_on_ray, "start_shards", shards_with_one_host_taken)
    leaves = {"fetch.per_host": 1, "fetch.image_timeout_s": 1.0, "fetch.max_wait_s": 1.0, "fetch.stall_timeout_s": 3.0}
    message = rf"nothing was fetched or written for 3 s: stuck in fetching, 1 files left, waiting for {HOSTS[7]}, held: CPU"
    with pytest.raises(RuntimeError, match=message):
        run_fetch(override(config, leaves))


def job_words(config: Config) -> list[str]:
    """The command of a job, to which the address of a Ray is added."""
    leaves = [
        "records.path",
        "fetch.output",
        "fetch.contact",
        "fetch.num_workers",
        "fetch.cpus_per_worker",
        "fetch.records_per_file",
    ]
    words = [sys.executable, "jobs/fetch.py", "--fetch.allow_loopback", "true", "--tracking.enabled", "false"]
    for leaf in leaves:
        section, name = leaf.split(".")
        words += [f"--{leaf}", str(getattr(getattr(config, section), name))]
    return [*words, "--cluster.address"]


@pytest.mark.slow
def test_killed_at_five_moments_the_same_command_goes_on(ray_session, config: Config, port: int, tmp_path: Path) -> None:
    records = 600
    urls = image_urls(port, records, delay=0.05)
    urls[::50] = [f"http://{HOSTS[4]}:{port}/status/404?{row}" for row in range(0, records, 50)]
    urls[33], urls[444] = urls[7], urls[7]
    write_records(tmp_path / "records", urls)
    words, draw = job_words(override(config, {"fetch.num_workers": 2})), random.Random(0)
    words += [ray.get_runtime_context().gcs_address]
    for _ in range(5):
        before = sum(stats(port)["requests"].values())
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment = before + draw.randint(1, 90)
        while process.poll() is None and sum(stats(port)["requests"].values()) < moment:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    kept = len(list((output_of(config) / ".work" / "commits").iterdir()))
    assert 0 < kept < 24
    asked = sum(stats(port)["requests"].values())
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["status"] == {"ok": records - 12, "http_404": 12}
    assert sum(stats(port)["requests"].values()) - asked <= records - 25 * kept
    rows = fetched(output_of(config))
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(records)]
    expected = [None if i % 50 == 0 else image(7 if i in (33, 444) else i) for i in range(records)]
    assert [row["bytes"] for row in rows] == expected
    assert all(pq.read_metadata(file).num_rows == 25 for file in (output_of(config) / "data").iterdir())


@pytest.mark.long
def test_a_machine_that_goes_without_notice_leaves_its_files_to_the_others(config: Config, port: int, tmp_path: Path) -> None:
    write_records(tmp_path / "records", image_urls(port, 240, delay=0.3))
    words = job_words(override(config, {"fetch.num_workers": 2, "fetch.records_per_file": 10}))
    with two_nodes() as nodes:
        words += [
            nodes.address,
            "--fetch.image_timeout_s",
            "3",
            "--fetch.read_timeout_s",
            "2",
        ]  # its leases end half a minute later
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and sum(stats(port)["requests"].values()) < 60:
            time.sleep(0.05)
        nodes.end_other()
        out, said = process.communicate()
    assert process.returncode == 0, said
    assert "does not answer; its files are fetched by others" in said
    assert json.loads(out.splitlines()[-1])["status"] == {"ok": 240}
    assert [row["bytes"] for row in fetched(output_of(config))] == [image(i) for i in range(240)]
    assert sum(stats(port)["requests"].values()) <= 240 + 2 * 4 * 10  # its unfinished files, and what its leases held back


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a local imitation of S3, for this process and those that it starts."""
    with s3_server(monkeypatch) as server:
        yield server.bucket


@pytest.mark.slow
def test_records_and_table_may_lie_on_s3(bucket: str, config: Config, port: int, tmp_path: Path) -> None:
    urls = image_urls(port, 60)
    urls[40] = urls[2]
    for file in write_records(tmp_path / "records", urls).iterdir():
        storage.write_bytes(f"{bucket}/records/{file.name}", file.read_bytes())
    leaves = {"records.path": f"{bucket}/records", "fetch.output": f"{bucket}/real_images"}
    words = [*job_words(override(config, leaves)), "local", "--cluster.num_cpus", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["status"] == {"ok": 60}
    found = RealImages(f"{bucket}/real_images").lookup(["r40", "r59"])
    assert found == {"r40": ("ok", image(2)), "r59": ("ok", image(59))}
    names = [file.path.removeprefix(f"{bucket}/real_images/") for file in storage.list_files(f"{bucket}/real_images")]
    assert [name for name in names if name.startswith("data/")] == [f"data/real-{i:05d}-of-00003.parquet" for i in range(3)]
