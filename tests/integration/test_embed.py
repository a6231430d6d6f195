"""Embedding on a real Ray session with a tiny CLIP: complete, resumable, watched."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from rdd.config import Config
from rdd.config.parse import override
from rdd.data.open import open_source
from rdd.embedding import request
from rdd.embedding.verify import verify
from rdd.features import FeatureTable
from rdd.on_ray import compaction, embed
from rdd.on_ray.embed import run_embedding
from rdd.schema import D3

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def config(sample_set: Path, tiny_model: str, tmp_path: Path) -> Config:
    return override(
        Config(),
        {
            "records.path": str(sample_set / "records"),
            "records.real_images": str(sample_set / "real_images"),
            "clip.model": tiny_model,
            "clip.pretrained": "random",
            "clip.batch_size": 16,
            "embed.output": str(tmp_path / "features"),
            "embed.threads_per_worker": 1,
            "embed.records_per_task": 3,
            "embed.records_per_commit": 3,
            "cluster.address": "local",
            "cluster.num_cpus": 2,
        },
    )


def keys_in(output: Path) -> list[str]:
    return sorted(
        key for file in output.glob("data/*.parquet") for key in pq.read_table(file, columns=["key"])["key"].to_pylist()
    )


def features_of(output: Path) -> torch.Tensor:
    table = FeatureTable.load(str(output))
    return table.gather(torch.arange(len(table)), "official").features


def test_every_record_is_embedded_once(ray_session, config: Config, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="rdd")
    config = override(config, {"clip.blocks": [1]})
    summary = run_embedding(config)
    assert (summary["records_in"], summary["records_written"], summary["records_quarantined"]) == (12, 12, 0)
    assert summary["images"] == 60
    output = Path(config.embed.output)
    assert sorted(path.name for path in output.iterdir()) == [".lock", "config.yaml", "data", "manifest.json", "quarantine"]
    assert len(set(keys_in(output))) == 12
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["encoder"]["weights_sha256"]
    assert manifest["encoder"]["preprocessing"]["size"] == 32
    assert (manifest["embed_dim"], manifest["encoder"]["normalized"]) == (32, False)
    kept = {"width": 32, "dtype": "float16"}
    assert manifest["features"] == {name: kept for name in ("projected", "block_1", "text_original", "text_positive")}
    file = pq.ParquetFile(next(output.glob("data/*.parquet")))
    columns = {file.metadata.row_group(0).column(i).path_in_schema: file.metadata.row_group(0).column(i) for i in range(16)}
    for name in manifest["features"]:
        assert columns[name].compression == "UNCOMPRESSED"
        assert not columns[name].has_dictionary_page
    assert not columns["caption_cosines.list.element"].has_dictionary_page
    assert {name: part["images"] for name, part in manifest["caption_cosines"].items()} == {"real": 12, "generated": 48}
    assert summary["caption_cosines"] == manifest["caption_cosines"]
    assert json.loads(file.schema_arrow.metadata[b"features"]) == manifest["features"]
    table = FeatureTable.load(str(output))
    assert table.generators[0] == "real"
    assert all(name.startswith("simulated-") for name in table.generators[1:])
    # the same command says what there is and does nothing
    before = (output / "manifest.json").stat().st_mtime_ns
    assert run_embedding(config) == summary
    assert (output / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"clip\.seed \(0 there, 1 now\)"):
        run_embedding(override(config, {"clip.seed": 1}))


@pytest.mark.slow
def test_a_failure_half_way_loses_and_repeats_nothing(ray_session, config: Config, tmp_path: Path, monkeypatch) -> None:
    run_embedding(override(config, {"embed.output": str(tmp_path / "untouched")}))
    output = Path(config.embed.output)
    real_write = embed._write

    def break_after_first_commits(config, source, encoder, output, missing, *rest) -> None:
        real_write(config, source, encoder, output, missing.slice(0, 6), *rest)
        raise RuntimeError("the node is gone")

    monkeypatch.setattr(embed, "_write", break_after_first_commits)
    with pytest.raises(RuntimeError, match="the node is gone"):
        run_embedding(config)
    assert len(keys_in(output)) == 6
    assert not (output / "manifest.json").exists()
    # a file whose second phase was never reached, torn, as a kill leaves it
    checkpoint = output / ".work" / "checkpoint"
    pq.write_table(pa.table({"key": ["x"]}), checkpoint / "torn_000000.pending.parquet")
    (output / "data" / "torn_000000-0.parquet").write_bytes(b"PAR1 and then nothing")
    done: list[int] = []
    monkeypatch.setattr(embed, "_write", lambda *given: (done.append(given[4].num_rows), real_write(*given)))
    assert run_embedding(config)["records_written"] == 12
    assert done == [6]
    assert keys_in(output) == keys_in(tmp_path / "untouched")
    assert torch.equal(features_of(output), features_of(tmp_path / "untouched"))


@pytest.mark.slow
def test_files_of_commits_are_rewritten_in_order_also_after_a_failure(
    ray_session, config: Config, tmp_path: Path, monkeypatch, caplog
) -> None:
    run_embedding(override(config, {"embed.output": str(tmp_path / "as_committed"), "embed.file_mib": 0}))
    assert len(list((tmp_path / "as_committed").glob("data/*.parquet"))) > 2
    output, real = Path(config.embed.output), embed.plan_compaction
    monkeypatch.setattr(embed, "plan_compaction", lambda *asked, file_bytes: real(*asked, file_bytes=file_bytes // 10_000))

    def fail(*asked) -> None:
        raise RuntimeError("the node is gone")

    with monkeypatch.context() as broken:
        broken.setattr(compaction, "delete_sources", fail)
        with pytest.raises(RuntimeError, match="the node is gone"):
            run_embedding(config)
    twice = keys_in(output)
    assert len(twice) == 24
    assert len(set(twice)) == 12
    caplog.set_level("INFO", logger="rdd")
    assert run_embedding(config)["records_written"] == 12
    assert "records to embed" not in caplog.text
    files = sorted(output.glob("data/*.parquet"))
    assert len(files) > 1
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [(row["source"], row["row"]) for row in rows] == sorted((row["source"], row["row"]) for row in rows)
    untouched = [row for file in (tmp_path / "as_committed").glob("data/*.parquet") for row in pq.read_table(file).to_pylist()]
    assert rows == sorted(untouched, key=lambda row: (row["source"], row["row"]))
    assert torch.equal(features_of(output), features_of(tmp_path / "as_committed"))


@pytest.mark.slow
def test_a_rewritten_file_that_is_lost_is_embedded_again(ray_session, config: Config, tmp_path: Path, monkeypatch) -> None:
    real = embed.plan_compaction
    monkeypatch.setattr(embed, "plan_compaction", lambda *asked, file_bytes: real(*asked, file_bytes=file_bytes // 10_000))
    run_embedding(config)
    output = Path(config.embed.output)
    before, files = features_of(output), sorted(output.glob("data/*.parquet"))
    assert len(files) > 1
    lost = pq.read_table(files[1], columns=["key"]).num_rows
    files[1].unlink()
    asked: list[int] = []
    real_write = embed._write
    monkeypatch.setattr(embed, "_write", lambda *given: (asked.append(given[4].num_rows), real_write(*given)))
    assert run_embedding(config)["records_written"] == 12
    assert asked == [lost]
    assert verify(config)["whole"]
    assert torch.equal(features_of(output), before)
    assert not set(files) & set(output.glob("data/*.parquet"))


def spoil(sample_set: Path, folder: Path) -> None:
    """Records with a duplicate, a null id, a broken image and a missing prompt."""
    files = sorted((sample_set / "records").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    rows[3]["id"] = rows[1]["id"]
    rows[4]["id"] = None
    rows[6]["image_gen1"]["bytes"] = rows[6]["image_gen1"]["bytes"][:300]
    rows[11]["positive_prompt"] = None
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=D3), folder / "train.parquet", row_group_size=5)


def test_bad_records_are_quarantined_with_their_reason(ray_session, config: Config, sample_set: Path, tmp_path: Path) -> None:
    spoil(sample_set, tmp_path / "spoiled")
    config = override(config, {"records.path": str(tmp_path / "spoiled")})
    with pytest.raises(
        RuntimeError, match=r"4 of 12 records were quarantined \(duplicate_id 1, missing_prompt 1, null_id 1, undecodable 1\)"
    ):
        run_embedding(config)
    assert not (Path(config.embed.output) / "manifest.json").exists()
    summary = run_embedding(override(config, {"embed.max_quarantined_share": 0.5}))
    assert summary["records_in"] == 12 == summary["records_written"] + summary["records_quarantined"]
    quarantine = pq.read_table(Path(config.embed.output) / "quarantine" / "quarantine.parquet").to_pylist()
    assert [(row["row"], row["stage"], row["reason"]) for row in quarantine] == [
        (3, "index", "duplicate_id"),
        (4, "index", "null_id"),
        (6, "decode", "undecodable"),
        (11, "decode", "missing_prompt"),
    ]
    assert len(FeatureTable.load(config.embed.output)) == 8 * 5


@pytest.mark.slow
def test_one_image_as_real_and_as_generated_is_quarantined(
    ray_session, config: Config, sample_set: Path, tmp_path: Path
) -> None:
    real = {
        row["id"]: row["bytes"]
        for file in sorted((sample_set / "real_images").rglob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    }
    rows = [row for file in sorted((sample_set / "records").rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    rows[2]["image_gen1"]["bytes"] = real[rows[9]["id"]]
    (tmp_path / "spoiled").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=D3), tmp_path / "spoiled" / "train.parquet", row_group_size=5)
    summary = run_embedding(override(config, {"records.path": str(tmp_path / "spoiled"), "embed.max_quarantined_share": 0.5}))
    assert summary["quarantined"] == {"conflicting_label": 2}
    quarantine = pq.read_table(Path(config.embed.output) / "quarantine" / "quarantine.parquet").to_pylist()
    assert [(row["record_id"], row["reason"]) for row in quarantine] == [
        (rows[2]["id"], "conflicting_label"),
        (rows[9]["id"], "conflicting_label"),
    ]
    file = pq.ParquetFile(next((Path(config.embed.output) / "data").glob("*.parquet")))
    assert b"features" in file.schema_arrow.metadata
    assert len(FeatureTable.load(config.embed.output)) == 10 * 5


@pytest.mark.slow
def test_records_that_changed_in_between_are_noticed(ray_session, config: Config, sample_set: Path, tmp_path: Path) -> None:
    spoil(sample_set, tmp_path / "spoiled")
    config = override(config, {"records.path": str(tmp_path / "spoiled")})
    with pytest.raises(RuntimeError, match="quarantined"):
        run_embedding(config)
    table = pq.read_table(tmp_path / "spoiled" / "train.parquet")
    pq.write_table(table.slice(1), tmp_path / "spoiled" / "train.parquet")
    with pytest.raises(RuntimeError, match="the records have changed"):
        run_embedding(config)


@pytest.mark.slow
def test_a_limit_embeds_the_first_records_and_is_remembered(ray_session, config: Config, tmp_path: Path) -> None:
    first = override(config, {"embed.limit": 7, "embed.text": False})
    summary = run_embedding(first)
    assert (summary["records_in"], summary["records_written"], summary["images"]) == (7, 7, 35)
    expected = open_source(config.records).index()["key"].to_pylist()[:7]
    assert keys_in(Path(config.embed.output)) == sorted(expected)
    assert run_embedding(first) == summary
    with pytest.raises(ValueError, match=r"embed\.limit \(7 there, 0 now\); choose another output or delete it"):
        run_embedding(override(first, {"embed.limit": 0}))
    place = tmp_path / "features" / "config.yaml"
    place.write_text(place.read_text().replace("  limit: 7\n", ""))  # as an earlier version, which had all of them
    with pytest.raises(ValueError, match=r"embed\.limit \(0 there, 7 now\)"):
        run_embedding(first)


def test_wrong_requests_are_refused_before_any_work(ray_session, config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"embed\.output must name"):
        run_embedding(override(config, {"embed.output": ""}))
    with pytest.raises(ValueError, match=r"clip\.blocks must lie in \[1, 1\], the blocks of local-dir:.*, got 2"):
        run_embedding(override(config, {"clip.blocks": [2]}))
    with pytest.raises(ValueError, match=r"needs 8\.5 CPUs and the cluster has 2; lower embed\.num_workers"):
        run_embedding(override(config, {"embed.num_workers": 8}))
    with pytest.raises(ValueError, match="needs 1 GPUs and the cluster has 0"):
        run_embedding(
            override(config, {"embed.output": str(tmp_path / "gpu"), "clip.device": "cuda", "embed.gpus_per_worker": 1.0})
        )
    with pytest.raises(ValueError, match="open_clip has no weights 'opanai'"):
        run_embedding(
            override(config, {"embed.output": str(tmp_path / "tag"), "clip.model": "ViT-B-32", "clip.pretrained": "opanai"})
        )


def test_nothing_moving_ends_the_run_and_names_the_step(ray_session, config: Config, tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes what it is asked, and never answers
    address = f"http://127.0.0.1:{silent.getsockname()[1]}/never.png"
    (tmp_path / "manifest.csv").write_text(f"path,label,generator\n{address},0,real\n")
    values = {
        "records.kind": "manifest",
        "records.path": str(tmp_path / "manifest.csv"),
        "records.real_images": "",
        "records.root": "any",
        "embed.text": False,
        "embed.stall_timeout_s": 3.0,
    }
    with silent, pytest.raises(RuntimeError, match=r"no record for 3 s: stuck in read .*held: CPU"):
        run_embedding(override(config, values))


@pytest.mark.slow
def test_a_feature_that_float16_rounds_too_much_is_refused_and_kept_in_float32(
    ray_session, config: Config, tiny_model: str, tmp_path: Path
) -> None:
    state = open_clip.create_model(tiny_model, load_weights=False).state_dict()
    state["visual.transformer.resblocks.0.mlp.c_proj.bias"][3] = 5000.0  # a large activation, as ViT-L/14 has them
    save_file(state, tmp_path / "large.safetensors")
    large = override(config, {"clip.pretrained": str(tmp_path / "large.safetensors"), "clip.blocks": [1]})
    large = override(large, {"clip.projected": False, "embed.cpus_per_worker": 0.5})  # Ray lets go of a failed actor late
    said = r"^block_1 must be kept in float32: over \d+ images float16 moves its dimension 3 by .* another embed\.output$"
    with pytest.raises(ValueError, match=said):
        run_embedding(large)
    kept = override(large, {"clip.float32": ["block_1"], "embed.output": str(tmp_path / "wide")})
    run_embedding(kept)
    assert json.loads((tmp_path / "wide" / "manifest.json").read_text())["features"]["block_1"]["dtype"] == "float32"
    table = FeatureTable.load(kept.embed.output, inputs=["block_1"])
    values = table.gather(torch.arange(len(table)), "none").features[:, 3]
    assert len(values.unique()) > len(values.half().unique())


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (5, r"^OSError: \[Errno 5\] Input/output error$"),
        (28, r"^a disk is full while .* is written \(OSError: \[Errno 28\] No space left on device\); make room and start"),
    ],
)
def test_a_broken_step_is_one_sentence(ray_session, config: Config, monkeypatch, number: int, said: str) -> None:
    def fail(index) -> None:
        raise OSError(number, os.strerror(number))

    class Broken:
        def __init__(self, source) -> None:
            self.index, self.reader, self.has_text, self.images_per_row = source.index, fail, True, 5

    monkeypatch.setattr(request, "open_source", lambda *asked, real=request.open_source, **more: Broken(real(*asked, **more)))
    with pytest.raises(RuntimeError, match=said):
        run_embedding(config)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_job_goes_on_by_the_same_command(config: Config, sample_set: Path, tiny_model: str, tmp_path: Path) -> None:
    output = tmp_path / "features"
    words = [sys.executable, "jobs/embed.py"]
    for leaf in ("records.path", "records.real_images", "clip.model", "clip.pretrained", "embed.output", "cluster.address"):
        section, name = leaf.split(".")
        words += [f"--{leaf}", str(getattr(getattr(config, section), name))]
    words += [
        "--embed.records_per_task",
        "1",
        "--embed.records_per_commit",
        "1",
        "--clip.batch_size",
        "5",
        "--cluster.num_cpus",
        "2",
        "--tracking.enabled",
        "false",
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    committed = output / ".work" / "checkpoint"
    wait_until(lambda: len(list(committed.glob("*[0-9].parquet"))) >= 2, process, 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(committed.glob("*[0-9].parquet")))
    assert kept >= 2
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["records_in"], summary["records_written"]) == (12, 12)
    left = int(re.search(r"(\d+) of 12 records to embed", done.stderr)[1])
    assert left <= 12 - kept
    assert len(keys_in(output)) == len(set(keys_in(output))) == 12
