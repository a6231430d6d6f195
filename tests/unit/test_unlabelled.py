import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from _tiny_detector import write_pictures
from s3_server import s3_server

from rdd import storage
from rdd.config.fetch import FetchConfig
from rdd.data.records import RawRecord, RejectedRecord, from_table
from rdd.data.unlabelled import UnlabelledSource


def read(source: UnlabelledSource) -> dict[str | None, RawRecord | RejectedRecord]:
    """By name, every record, read source by source as all callers do."""
    index, records = source.index(), []
    for name in dict.fromkeys(index["source"].to_pylist()):
        rows = index.filter(pa.compute.equal(index["source"], name))
        records += [record for table in source.reader(rows) for record in from_table(table, RawRecord)]
    assert len(records) == index.num_rows
    return {record.place.record_id: record for record in records}


def reasons(source: UnlabelledSource) -> dict[str | None, str]:
    return {name: record.reason for name, record in read(source).items() if isinstance(record, RejectedRecord)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_pictures(tmp_path / "photos" / "inner", 2)
    write_pictures(tmp_path / "photos", 3)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_and_wildcards_are_called_as_they_were_given(folder: Path) -> None:
    names = [f"photos/{name}" for name in ("000.png", "001.png", "002.png", "inner/000.png", "inner/001.png")]
    assert list(read(UnlabelledSource(["photos"]))) == names
    assert list(read(UnlabelledSource(["photos/001.png", "photos/000.png"]))) == [names[1], names[0]]
    found = read(UnlabelledSource(["photos/**/*.png"]))
    assert sorted(found) == [str(folder / name) for name in names] or sorted(found) == names


def test_an_image_named_twice_is_looked_at_once(folder: Path) -> None:
    assert UnlabelledSource(["photos", "photos/000.png", "./photos/000.png"]).index().num_rows == 5


def test_a_table_holds_names_or_addresses_images(folder: Path) -> None:
    data = (folder / "photos" / "000.png").read_bytes()
    Path("named.csv").write_text("caption,path\na dog,photos/000.png\n,photos/gone.png\n,\n")
    storage.write_table("held.parquet", pa.table({"bytes": [data, None], "other": [1, 2]}))
    found = read(UnlabelledSource(["named.csv", "held.parquet"], caption="of all"))
    texts = {name: record.text_original for name, record in found.items() if isinstance(record, RawRecord)}
    assert texts == {"photos/000.png": "a dog", "held.parquet#0": "of all"}
    assert reasons(UnlabelledSource(["named.csv"])) == {"photos/gone.png": "missing", "named.csv#2": "null_path"}
    assert reasons(UnlabelledSource(["held.parquet"])) == {"held.parquet#1": "null_bytes"}


def test_what_is_no_file_to_read_has_its_reason(folder: Path) -> None:
    os.mkfifo("photos/pipe.png")
    (folder / "photos" / "dir.png").mkdir()
    Path("named.csv").write_text("path\nphotos/dir.png\n")
    os.close(os.open(os.fsencode("photos") + b"/\xff.png", os.O_CREAT))
    expected = {"photos/\\xff.png": "not_utf8", "photos/pipe.png": "not_a_file", "photos/dir.png": "is_directory"}
    words = ["photos", "photos/pipe.png", "named.csv"]
    assert reasons(UnlabelledSource(words)) == expected
    assert reasons(UnlabelledSource(["photos/000.png", os.fsdecode(b"photos/\xff.png")])) == {"photos/\\xff.png": "not_utf8"}
    assert reasons(UnlabelledSource(["photos/000.png", "gone.png"])) == {"gone.png": "missing"}


def test_a_folder_that_can_not_be_listed_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def locked(place: str) -> object:
        if str(place).endswith("inner"):
            raise PermissionError(13, "Permission denied", place)
        return real(place)

    monkeypatch.setattr(os, "scandir", locked)  # root may list everything
    with pytest.raises(ValueError, match=r"inner can not be listed \(Permission denied\); give this user access"):
        UnlabelledSource(["photos"])


@pytest.mark.parametrize("word", ["gone.png", "*.gif", "empty", "nothing.csv", "gone/"])
def test_nothing_that_matches_is_refused(folder: Path, word: str) -> None:
    Path("empty").mkdir()
    Path("nothing.csv").write_text("path\n")
    with pytest.raises(ValueError, match="no image matches"):
        UnlabelledSource([word])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("file\na.png\n", r"wrong\.csv must have a column path or url, it has file$"),
        ("bytes\na\n", "it has bytes; bytes are read from Parquet alone"),
        ("path,path\na,b\n", "has a column twice"),
        ("path\n\xff\n", "can not be read"),
        ("", "can not be read"),
    ],
)
def test_a_table_that_names_no_images_is_refused(folder: Path, content: str, says: str) -> None:
    Path("wrong.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=says):
        UnlabelledSource(["wrong.csv"])


def test_a_parquet_column_of_another_type_is_refused(folder: Path) -> None:
    storage.write_table("wrong.parquet", pa.table({"bytes": ["text"]}))
    with pytest.raises(ValueError, match="column bytes of type string instead of binary"):
        UnlabelledSource(["wrong.parquet"])
    storage.write_table("wrong.parquet", pa.table({"path": [1]}))
    with pytest.raises(ValueError, match="column path of type int64 instead of string"):
        UnlabelledSource(["wrong.parquet"])


def test_addresses_are_refused_unless_fetching_is_allowed(folder: Path) -> None:
    Path("web.csv").write_text("url\nhttp://127.0.0.1:9/a.png\nnonsense://x\n")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/a\.png would have to be fetched; allow that by --allow-urls"):
        UnlabelledSource(["web.csv"])
    Path("secret.txt").write_text("of this machine")
    Path("files.csv").write_text(f"url\nsecret.txt\n{Path('secret.txt').absolute().as_uri()}\ns3://bucket/secret.txt\n")
    index = UnlabelledSource(["files.csv"]).index()
    assert index["reason"].to_pylist() == ["null_path"] * 3  # addresses alone, whatever a table says
    assert index["paths"].null_count == 3
    found = reasons(UnlabelledSource(["web.csv"], fetch=FetchConfig(contact="me@example.org")))
    assert found["http://127.0.0.1:9/a.png"] == "refused_address"


def test_addresses_are_fetched_where_that_is_allowed(folder: Path) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder / "photos"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        Path("web.csv").write_text(f"url,caption\n{address}/000.png,a dog\n{address}/gone.png,\n{address}/notes.txt,\n")
        fetch = FetchConfig(contact="me@example.org", allow_loopback=True)
        found = read(UnlabelledSource(["web.csv"], fetch=fetch))
        server.shutdown()
    image = found[f"{address}/000.png"]
    assert isinstance(image, RawRecord)
    assert (image.images, image.text_original) == ([(folder / "photos" / "000.png").read_bytes()], "a dog")
    failed = [record.reason for record in found.values() if isinstance(record, RejectedRecord)]
    assert failed == ["http_404", "not_an_image"]


def test_everything_may_lie_on_s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch) as server:
        for place in sorted((folder / "photos").rglob("*.png")):
            storage.write_bytes(f"{server.bucket}/{place.relative_to(folder)}", place.read_bytes())
        storage.write_bytes(f"{server.bucket}/named.csv", b"path\nphotos/000.png\nphotos/gone.png\n")
        words = [f"{server.bucket}/photos", f"{server.bucket}/named.csv", f"{server.bucket}/photos/*.png"]
        found = read(UnlabelledSource(words))
        assert sum(isinstance(record, RawRecord) for record in found.values()) >= 6
        assert reasons(UnlabelledSource(words)) == {"photos/gone.png": "missing"}
        with pytest.raises(ValueError, match="no image matches"):
            UnlabelledSource([f"{server.bucket}/nothing"])
