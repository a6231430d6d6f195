"""An object store that refuses, cuts off and goes away: what it holds is neither lost nor taken for damaged."""

from collections.abc import Iterator
from pathlib import Path

import _embed_job as job
import pyarrow as pa
import pytest
import s3fs
from s3_server import S3Server, s3_server

from rdd import storage
from rdd.data.image_files import FileReader
from rdd.data.index import make_index

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as environment, s3_server(environment) as running:
        yield running


@pytest.fixture
def one_try(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The store without our patience: each failure comes through at once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    storage._patience.cache_clear()
    yield server
    server.fail()
    storage._patience.cache_clear()


def test_requests_are_tried_again_unless_the_environment_says_how_often(one_try: S3Server, monkeypatch) -> None:
    assert storage._patience("s3") == {}
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    for name, value, ours in (("AWS_RETRY_MODE", "adaptive", False), ("AWS_RETRY_MODE", "legacy", True)):
        monkeypatch.setenv(name, value)
        storage._patience.cache_clear()
        assert bool(storage._patience("s3")) == ours
    assert storage._patience("memory") == {}


@pytest.mark.parametrize("fault", ["share", "reset_share"])
def test_a_listing_that_fails_is_no_empty_directory(one_try: S3Server, fault: str) -> None:
    folder = f"{one_try.bucket}/listed-{fault}"
    storage.write_bytes(f"{folder}/a", b"1")
    one_try.fail(**{fault: 1.0})
    for ask in (
        lambda: storage.list_files(folder),
        lambda: storage.exists(f"{folder}/a"),
        lambda: storage.exists(f"{folder}/b"),
        lambda: storage.exists(one_try.bucket),
        lambda: storage.delete_directory(folder),
        lambda: storage.delete_file(f"{folder}/a"),
        lambda: storage.filesystem(folder)[0].open_input_stream(f"{folder}/a".removeprefix("s3://")),
    ):
        with pytest.raises(Exception, match=r"Unavailable|reduce your request rate|Internal|Connection was closed"):
            ask()
    one_try.fail()
    assert [Path(file.path).name for file in storage.list_files(folder)] == ["a"]


def test_a_store_that_does_not_answer_is_no_reason_to_embed_again(one_try: S3Server) -> None:
    path = f"{one_try.bucket}/t.parquet"
    storage.write_table(path, pa.table({"a": [1]}))
    one_try.fail(share=1.0)
    for columns in (None, ["a"]):
        with pytest.raises(RuntimeError, match=r"t\.parquet can not be read \(.*\); when the disk or the store answers"):
            storage.read_table(path, columns, way_out="delete the output")
    one_try.fail()
    assert storage.read_table(path, way_out="").num_rows == 1
    with pytest.raises(RuntimeError, match="delete the output"):
        storage.read_table(f"{one_try.bucket}/gone.parquet", way_out="delete the output")


def test_images_of_a_store_that_fails_are_not_quarantined_and_a_missing_one_is(one_try: S3Server) -> None:
    storage.write_bytes(f"{one_try.bucket}/images/a.png", b"a")
    names = ("a.png", "gone.png")
    index = make_index(
        {
            "key": names,
            "source": [one_try.bucket] * 2,
            "row": [0, 1],
            "rows": [[0], [1]],
            "record_id": names,
            "paths": [[f"{one_try.bucket}/images/{name}"] for name in names],
            "generators": [["real"]] * 2,
        }
    )
    read = FileReader(f"{one_try.bucket}/images")
    assert [row["reason"] for table in read(index) for row in table.to_pylist()] == [None, "unreadable_file"]
    for faults in ({"share": 1.0}, {"reset_share": 1.0}):
        one_try.fail(**faults)
        with pytest.raises(RuntimeError, match=r"images/a\.png can not be read from the store \(.*\); when it answers"):
            list(read(index))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_embedding_from_s3_to_s3_ends_whole_whatever_the_store_does(
    server: S3Server, sample_set: Path, tiny_model: str, tmp_path: Path
) -> None:
    sizes = {"embed.records_per_task": 2, "embed.records_per_commit": 4, "clip.batch_size": 5}
    job.run(job.settings(str(sample_set), str(tmp_path / "untouched"), tiny_model, **sizes))
    for file in sample_set.rglob("*.parquet"):
        storage.write_bytes(f"{server.bucket}/sample/{file.relative_to(sample_set)}", file.read_bytes())
    output = f"{server.bucket}/features"
    server.counts()
    server.fail(share=0.2, reset_share=0.05)
    with job.started(job.settings(f"{server.bucket}/sample", output, tiny_model, **sizes)) as process:
        job.wait_until(lambda: any("/checkpoint/" in request for request in server.counts().requests), process)
        server.fail(share=0.2, reset_share=0.05, away_s=10)
        summary = job.summary_of(process)
    server.fail()
    assert (summary["records_in"], summary["records_written"]) == (12, 12)
    assert job.rows(output) == job.rows(str(tmp_path / "untouched"))
