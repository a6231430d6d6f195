"""jobs/embed.py --verify and --dry-run on an embedded set that is damaged in many ways, and whether the advice is true."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import s3_server

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override, to_yaml
from rdd.data.open import open_source
from rdd.embedding.reopen import reopen
from rdd.embedding.verify import verify
from rdd.on_ray.embed import run_embedding

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def config(ray_session, sample_set: Path, tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Of an embedding in some files, with a record in its quarantine."""
    folder = tmp_path_factory.mktemp("verified")
    rows = [row for file in sorted((sample_set / "records").rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    rows[4]["image_gen1"]["bytes"] = b"no image"
    (folder / "records").mkdir()
    schema = pq.read_schema(next((sample_set / "records").rglob("*.parquet")))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "records" / "train.parquet", row_group_size=5)
    values = {
        "records.path": str(folder / "records"),
        "records.real_images": str(sample_set / "real_images"),
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "clip.batch_size": 15,
        "clip.blocks": [1],
        "embed.output": str(folder / "features"),
        "embed.threads_per_worker": 1,
        "embed.records_per_task": 3,
        "embed.records_per_commit": 6,
        "embed.file_mib": 0,
        "embed.max_quarantined_share": 0.5,
        "cluster.address": "local",
        "cluster.num_cpus": 2,
        "tracking.enabled": False,
    }
    config = override(Config(), values)
    run_embedding(config)
    return config


@pytest.fixture
def copy(config: Config, tmp_path: Path) -> Path:
    shutil.copytree(config.embed.output, tmp_path / "features")
    return tmp_path / "features"


def of(config: Config, output: Path) -> Config:
    return override(config, {"embed.output": str(output)})


def data_of(output: Path) -> list[Path]:
    return sorted((output / "data").glob("*.parquet"))


def run_job(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "jobs/embed.py", *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_job_says_that_an_embedding_is_whole_and_leaves_it_alone(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    done = run_job("--embed.output", str(copy), "--verify")  # needs neither records nor weights
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in data_of(copy))
    assert said == {
        "job": "embed",
        "output": str(copy),
        "whole": True,
        "files": len(data_of(copy)),
        "bytes": size,
        "records_in": 12,
        "records_written": 11,
        "records_quarantined": 1,
        "images": 55,
    }
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_the_dry_run_says_what_is_left_and_leaves_all_alone(config: Config, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(override(of(config, copy), {"embed.images_per_s": 1.0})))
    words = ("--config", str(tmp_path / "config.yaml"), "--dry-run")
    done = run_job(*words)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["job"], said["finished"], said["records_left"], said["hours"]) == ("embed", True, 0, 0.0)
    assert said["output_bytes"] == sum(path.stat().st_size for path in data_of(copy))
    lost = pq.read_metadata(data_of(copy)[1]).num_rows
    delete(copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    done = run_job(*words)
    said = json.loads(done.stdout)
    assert (said["finished"], said["records"], said["records_left"], said["images_left"]) == (False, 12, lost, 5 * lost)
    assert said["hours"] == pytest.approx(5 * lost / 3600)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert "Ray" not in done.stderr
    done = run_job(*words, "--clip.seed", "1")
    assert done.returncode == 2
    assert "clip.seed (0 there, 1 now)" in done.stderr


def truncate(output: Path) -> None:
    path = data_of(output)[1]
    path.write_bytes(path.read_bytes()[:-100])


def flip(column: str) -> Callable[[Path], None]:
    def flip_a_byte(output: Path) -> None:
        path = data_of(output)[1]
        group = pq.read_metadata(path).row_group(0)
        chunk = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column)
        begin = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
        data, place = bytearray(path.read_bytes()), begin + chunk.total_compressed_size - 1
        data[place] ^= 1
        path.write_bytes(data)

    return flip_a_byte


def delete(output: Path) -> None:
    data_of(output)[1].unlink()


def double(output: Path) -> None:
    shutil.copy(data_of(output)[1], output / "data" / "again-0.parquet")


def in_manifest(**values: object) -> Callable[[Path], None]:
    def change(output: Path) -> None:
        manifest = json.loads((output / "manifest.json").read_text())
        (output / "manifest.json").write_text(json.dumps(manifest | values))

    return change


def in_rows(name: str, value: Callable[[object], object]) -> Callable[[Path], None]:
    """Change a column of the first record that was not rejected."""

    def change(output: Path) -> None:
        for path in data_of(output):
            table = pq.read_table(path)
            rows = table.to_pylist()
            chosen = next((row for row in rows if row["reason"] is None), None)
            if chosen is not None:
                chosen[name] = value(chosen[name])
                pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
                return

    return change


def spoil_quarantine(output: Path) -> None:
    path = output / "quarantine" / "quarantine.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, r"not whole: .*0\.parquet can not be read \(.*\); delete it and start the embedding again"),
        (flip("projected"), r"not whole: .*0\.parquet can not be read \(.*CRC.*\); delete it and start"),
        (flip("detail"), r"not whole: .*0\.parquet can not be read \(.*CRC.*\); delete it and start"),
        (delete, r"data/ lacks \d of 12 records; start the embedding again"),
        (double, r"data/ holds \d records more than once, in .*-0\.parquet and .*-0\.parquet; delete one of these files"),
        (in_manifest(images=54), r"manifest\.json: images is 54 and the files hold 55; put the manifest back"),
        (in_manifest(quarantined={}), r"quarantined is \{\} and the files hold \{'not_an_image': 1\}"),
        (
            in_manifest(caption_cosines={}),
            r"manifest\.json: caption_cosines is \{\} and the files hold \{'real': \{'images': 11",
        ),
        (in_rows("caption_cosines", lambda values: values[1:]), r"caption_cosines of more or fewer images than there are"),
        (in_manifest(keys_hash="0"), r"data/ holds other records than the index"),
        (in_manifest(embed_dim=16), r"manifest\.json: encoder\.embed_dim must be embed_dim, 16, got 32"),
        (
            in_rows("projected", lambda data: data[:-2]),
            r"another number of bytes than 32 numbers a vector need in projected of",
        ),
        (in_rows("block_1", lambda data: b"\0\x7e" + data[2:]), r"holds NaN or infinity in block_1 of the record 'train"),
        (in_rows("text_original", lambda _: None), r"holds nothing in text_original of the record 'train"),
        (in_rows("generators", lambda names: names[:-1]), r"of more or fewer images than there are of the record"),
        (in_rows("key", lambda _: "another"), r"data/ holds other records than the index"),
        (spoil_quarantine, r"quarantine\.parquet does not list the 1 records that were rejected; delete it and start"),
        (lambda output: (output / "quarantine" / "quarantine.parquet").unlink(), r"quarantine\.parquet can not be read"),
    ],
)
def test_damage_is_named_with_the_way_out(config: Config, copy: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(copy)
    with pytest.raises(RuntimeError, match=said):
        verify(of(config, copy))


def test_of_many_damaged_files_the_first_is_said_and_all_are_in_the_log(config: Config, copy: Path) -> None:
    first, second = data_of(copy)[:2]
    for path in (first, second):
        path.write_bytes(b"")
    done = run_job("--embed.output", str(copy), "--verify")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "(the first of 2 faults); delete these files and start the embedding again" in done.stderr.splitlines()[-1]
    assert str(first) in done.stderr.splitlines()[-1]
    assert sum(str(second) in line for line in done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_deleted_file_is_embedded_again_and_nothing_else(config: Config, copy: Path) -> None:
    flip("projected")(copy)
    with pytest.raises(RuntimeError, match="delete it and start"):
        verify(of(config, copy))
    data_of(copy)[1].unlink()
    (copy / "quarantine" / "quarantine.parquet").unlink()
    in_manifest(images=54)(copy)  # which is derived anew as well
    kept = {path: path.read_bytes() for path in data_of(copy)}
    summary = run_embedding(of(config, copy))
    said = [summary[name] for name in ("records_in", "records_written", "images", "quarantined")]
    assert said == [12, 11, 55, {"not_an_image": 1}]
    assert {path: path.read_bytes() for path in data_of(copy) if path in kept} == kept
    assert verify(of(config, copy))["whole"]


@pytest.mark.slow
def test_an_embedding_that_was_stopped_is_read_back_too(config: Config, copy: Path) -> None:
    reopen(open_source(config.records).index(), str(copy))  # as one that was stopped before its manifest
    with pytest.raises(RuntimeError, match=r"manifest\.json is not written yet, though every record is there; start"):
        verify(of(config, copy))
    (copy / "data" / "left-0.parquet").write_bytes(b"by a killed run")
    truncate(copy)
    with pytest.raises(RuntimeError, match=r"can not be read .*; delete it and start the embedding again"):
        verify(of(config, copy))
    data_of(copy)[1].unlink()
    with pytest.raises(RuntimeError, match=r"data/ lacks \d of 12 records; start the embedding again"):
        verify(of(config, copy))
    assert run_embedding(override(of(config, copy), {"embed.file_mib": 1}))["records_in"] == 12  # rewritten to one file
    said = verify(of(config, copy))
    assert (said["whole"], said["files"]) == (True, 1)


def test_records_that_changed_are_not_mixed_with_those_embedded(config: Config, copy: Path, tmp_path: Path) -> None:
    delete(copy)
    index = open_source(config.records).index()
    with pytest.raises(RuntimeError, match="the records have changed since .* was finished; delete"):
        reopen(index.slice(1), str(copy))
    with pytest.raises(ValueError, match="holds no embedding, neither a finished one nor one that goes on"):
        verify(of(config, tmp_path / "nothing"))


def test_an_embedding_on_s3_is_read_once(config: Config, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch) as server:
        output = f"{server.bucket}/features"
        for path in copy.rglob("*.*"):
            storage.write_bytes(f"{output}/{path.relative_to(copy)}", path.read_bytes())
        server.counts()
        whole = override(config, {"embed.output": output})
        assert verify(whole)["whole"]
        size = sum(file.size for file in storage.list_files(output))
        assert server.counts().bytes_read < 1.2 * size + len(data_of(copy)) * 70_000  # footers come with the 64 KiB around them
        storage.write_bytes(f"{output}/data/{data_of(copy)[1].name}", data_of(copy)[1].read_bytes()[:-9])
        with pytest.raises(
            RuntimeError, match=r"s3://.*0\.parquet can not be read .*; delete it and start the embedding again"
        ):
            verify(whole)
