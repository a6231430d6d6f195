"""Sources of records: D3, folders, manifests, and the real images looked up by id."""

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdd.config import RecordsConfig
from rdd.data.d3 import D3Source
from rdd.data.folder import FolderSource
from rdd.data.manifest import ManifestSource
from rdd.data.open import Source, open_source
from rdd.data.parquet_rows import read_rows
from rdd.data.real_images import RealImages
from rdd.schema import D3, INDEX, RAW, REAL_IMAGES


def read_all(source: Source) -> list[dict]:
    index = source.index()
    assert index.schema == INDEX
    tables = [source.reader(index.slice(i, 1)) for i in range(index.num_rows)]
    read = pa.concat_tables([table for group in tables for table in group])
    assert read.schema == RAW
    assert sorted(read["key"].to_pylist()) == sorted(index["key"].to_pylist())
    return sorted(read.to_pylist(), key=lambda row: (row["source"], row["row"]))


@pytest.fixture
def d3(tmp_path: Path) -> tuple[Path, list[dict], list[dict]]:
    """Six records in two files and their real images in another order."""

    def record(i: int) -> dict:
        images = {f"image_gen{k}": {"bytes": f"gen{k}-{i}".encode(), "path": ""} for k in range(4)}
        models = {f"model_gen{k}": f"model-{k}" for k in range(4)}
        return {"id": f"id-{i}", "original_prompt": f"short {i}", "positive_prompt": f"longer {i}"} | images | models

    real = [{"id": f"id-{i}", "bytes": f"real-{i}".encode(), "status": "ok"} for i in range(6)]
    return tmp_path, [record(i) for i in range(6)], real


def write_d3(folder: Path, records: list[dict], real: list[dict]) -> D3Source:
    for name, rows in (("a", records[:4]), ("b", records[4:])):
        path = folder / "records" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=D3), path, row_group_size=3)
    (folder / "real").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(real[::-1], schema=REAL_IMAGES), folder / "real" / "r.parquet", row_group_size=2)
    return D3Source(str(folder / "records"), str(folder / "real"))


def test_a_d3_record_is_its_real_image_and_four_generated_ones(d3) -> None:
    rows = read_all(write_d3(*d3))
    assert len(rows) == 6
    assert rows[4] | {"source": None} == {
        "key": "b.parquet#0",
        "source": None,
        "row": 0,
        "record_id": "id-4",
        "generators": ["real", "model-0", "model-1", "model-2", "model-3"],
        "images": [b"real-4", b"gen0-4", b"gen1-4", b"gen2-4", b"gen3-4"],
        "text_original": "short 4",
        "text_positive": "longer 4",
        "stage": None,
        "reason": None,
        "detail": None,
    }


def test_bad_d3_records_carry_their_reason(d3) -> None:
    folder, records, real = d3
    records[1]["id"] = records[5]["id"] = "id-0"
    records[2]["id"] = None
    records[3]["image_gen2"] = None
    real[4] |= {"status": "http 404", "bytes": None}
    rows = read_all(write_d3(folder, records, real))
    assert [row["reason"] for row in rows] == [
        None,
        "duplicate_id",
        "null_id",
        None,
        "real_image_failed",
        "duplicate_id",
    ]
    assert [row["stage"] for row in rows] == [None, "index", "index", None, "read", "index"]
    assert rows[4]["detail"] == "http 404"
    rows = read_all(write_d3(folder, d3[1], real[1:]))
    assert rows[0]["reason"] == "real_image_missing"


def test_a_record_is_kept_with_the_generated_images_that_it_has_unless_all_are_required(d3) -> None:
    folder, records, real = d3
    records[1]["image_gen2"] = None
    records[2]["model_gen0"] = None
    for i in range(4):
        records[3][f"image_gen{i}"] = {"bytes": None, "path": None}
    write_d3(folder, records, real)
    rows = read_all(D3Source(str(folder / "records"), str(folder / "real")))
    assert [row["reason"] for row in rows] == [None, None, None, "generated_image_missing", None, None]
    assert rows[1]["generators"] == ["real", "model-0", "model-1", "model-3"]
    assert rows[2]["images"] == [b"real-2", b"gen1-2", b"gen2-2", b"gen3-2"]
    strict = read_all(D3Source(str(folder / "records"), str(folder / "real"), require_all_generated=True))
    assert [row["reason"] for row in strict] == [None, *["generated_image_missing"] * 3, None, None]
    assert strict[1]["detail"] == "model_gen2 or image_gen2 is null"


def test_a_string_that_is_not_utf8_rejects_its_record_alone(d3) -> None:
    folder, records, real = d3
    write_d3(folder, records, real)
    table = pa.Table.from_pylist(records[4:], schema=D3)
    broken = _as_text([b"caf\xe9", b"fine"])
    pq.write_table(table.set_column(1, "original_prompt", broken), folder / "records" / "b.parquet")
    rows = read_all(D3Source(str(folder / "records"), str(folder / "real")))
    assert [row["reason"] for row in rows[4:]] == ["not_utf8", None]


def _as_text(values: list[bytes]) -> pa.Array:
    """Bytes under the type of strings, as a careless writer leaves them."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())


def test_d3_with_other_columns_is_refused_by_name(d3) -> None:
    folder, records, real = d3
    write_d3(folder, records, real)
    table = pa.Table.from_pylist(records, schema=D3)
    path = folder / "records" / "b.parquet"
    pq.write_table(table.drop_columns(["image_gen1", "model_gen3"]), path)
    with pytest.raises(ValueError, match=r"b\.parquet lacks the column\(s\) model_gen3, image_gen1|image_gen1, model_gen3"):
        D3Source(str(folder / "records"), str(folder / "real")).index()
    pq.write_table(table.set_column(0, "id", pa.array(range(6))), path)
    with pytest.raises(ValueError, match=r"another type: id \(int64 instead of string\)"):
        D3Source(str(folder / "records"), str(folder / "real")).index()
    path.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"b\.parquet is not a readable Parquet file"):
        D3Source(str(folder / "records"), str(folder / "real")).index()


def test_d3_needs_records_and_real_images(d3, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"records\.path must name"):
        open_source(RecordsConfig())
    with pytest.raises(ValueError, match=r"records\.real_images must name"):
        open_source(RecordsConfig(path=str(tmp_path)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no Parquet file below"):
        D3Source(str(tmp_path / "empty"), str(tmp_path))
    with pytest.raises(ValueError, match="no directory at"):
        D3Source(str(tmp_path / "nowhere"), str(tmp_path))
    write_d3(d3[0], [], d3[2])
    with pytest.raises(ValueError, match="hold no record"):
        D3Source(str(d3[0] / "records"), str(d3[0] / "real")).index()


def test_real_images_prefer_an_entry_that_worked(tmp_path) -> None:
    rows = [
        {"id": "a", "status": "timeout", "bytes": None},
        {"id": "b", "status": "ok", "bytes": b"b"},
        {"id": "a", "status": "ok", "bytes": b"a"},
        {"id": "a", "status": "gone", "bytes": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=REAL_IMAGES), tmp_path / "r.parquet", row_group_size=1)
    assert RealImages(str(tmp_path)).lookup(["a", "c", "b"]) == {"a": ("ok", b"a"), "b": ("ok", b"b")}


@pytest.mark.parametrize("rows", [[0], [2, 3], [0, 19, 20, 21, 63], list(range(64))])
def test_chosen_rows_are_the_rows_chosen(tmp_path, rows: list[int]) -> None:
    pq.write_table(
        pa.table({"x": list(range(64)), "y": [str(i) for i in range(64)]}), tmp_path / "t.parquet", row_group_size=21
    )
    found = [(numbers.tolist(), table.to_pydict()) for numbers, table in read_rows(str(tmp_path / "t.parquet"), rows, ["y"])]
    assert [number for numbers, _ in found for number in numbers] == rows
    assert [value for _, table in found for value in table["y"]] == [str(row) for row in rows]


def test_a_folder_is_one_record_an_image(tmp_path) -> None:
    for name in ("real/a.png", "real/deep/b.PNG", "fake/sd/c.jpg", "fake/sd/notes.txt", "other/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    rows = read_all(FolderSource(str(tmp_path)))
    assert [(row["record_id"], row["generators"], row["images"]) for row in rows] == [
        ("fake/sd/c.jpg", ["sd"], [b"fake/sd/c.jpg"]),
        ("real/a.png", ["real"], [b"real/a.png"]),
        ("real/deep/b.PNG", ["real"], [b"real/deep/b.PNG"]),
    ]
    (tmp_path / "fake" / "loose.png").write_bytes(b"")
    with pytest.raises(ValueError, match="must lie in fake/<generator>/"):
        FolderSource(str(tmp_path))
    with pytest.raises(ValueError, match="no image below"):
        FolderSource(str(tmp_path / "other"))
    (tmp_path / "fake" / "loose.png").unlink()
    (tmp_path / "fake" / "real").mkdir()
    (tmp_path / "fake" / "real" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="must have another name"):
        FolderSource(str(tmp_path))


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_links_that_go_round_bring_no_image_in_twice(tmp_path, caplog) -> None:
    write_images(tmp_path, "real/a.png", "fake/sd/b.png", "fake/xl/c.png")
    (tmp_path / "fake" / "sd" / "loop").symlink_to(tmp_path)
    (tmp_path / "fake" / "other").symlink_to(tmp_path / "real")  # real images under a generator's name
    (tmp_path / "fake" / "xl" / "up").symlink_to("..")
    rows = read_all(FolderSource(str(tmp_path)))
    assert [row["record_id"] for row in rows] == ["fake/sd/b.png", "fake/xl/c.png", "real/a.png"]
    assert caplog.text.count("is left out: its images are in the set already") == 3


def test_a_file_name_that_is_not_utf8_rejects_that_image_alone(tmp_path) -> None:
    write_images(tmp_path, "real/a.png", "fake/sd/b.png")
    (tmp_path / "real" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    rows = read_all(FolderSource(str(tmp_path)))
    assert [(row["record_id"], row["reason"]) for row in rows] == [
        ("fake/sd/b.png", None),
        ("real/a.png", None),
        ("real/caf\\xe9.png", "name_not_utf8"),
    ]


def test_a_link_out_of_the_folder_is_followed_only_where_records_may_lie(tmp_path) -> None:
    write_images(tmp_path, "set/real/a.png", "store/sd/b.png", "store/xl/c.png", "secret.png")
    (tmp_path / "set" / "fake").mkdir()
    (tmp_path / "set" / "fake" / "sd").symlink_to(tmp_path / "store" / "sd")
    (tmp_path / "store" / "sd" / "round").symlink_to(tmp_path / "store" / "sd")
    with pytest.raises(ValueError, match=r"fake/sd leads to .*store/sd, which does not lie below .*set; set records\.root"):
        FolderSource(str(tmp_path / "set"))
    for root in (str(tmp_path), "any"):
        rows = read_all(FolderSource(str(tmp_path / "set"), root))
        assert [(row["record_id"], row["reason"]) for row in rows] == [("fake/sd/b.png", None), ("real/a.png", None)]
    (tmp_path / "set" / "fake" / "sd").unlink()
    write_images(tmp_path, "set/fake/sd/b.png")
    (tmp_path / "set" / "real" / "z.png").symlink_to(tmp_path / "secret.png")
    rows = read_all(FolderSource(str(tmp_path / "set")))
    assert [(row["record_id"], row["reason"]) for row in rows] == [
        ("fake/sd/b.png", None),
        ("real/a.png", None),
        ("real/z.png", "outside_root"),
    ]


def test_a_manifest_reads_below_its_root_alone(tmp_path) -> None:
    write_images(tmp_path, "set/a.png", "elsewhere/b.png")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    paths = ["a.png", "../elsewhere/b.png", str(tmp_path / "elsewhere" / "b.png"), "link.png", "s3://bucket/c.png"]
    lines = [f"{path},1,sd" for path in paths]
    (tmp_path / "set" / "m.csv").write_text("\n".join(["path,label,generator", *lines]) + "\n")
    manifest = str(tmp_path / "set" / "m.csv")
    assert [row["reason"] for row in read_all(ManifestSource(manifest))] == [None] + ["outside_root"] * 4
    assert [row["reason"] for row in read_all(ManifestSource(manifest, str(tmp_path)))] == [None] * 4 + ["outside_root"]
    (tmp_path / "set" / "local.csv").write_text("\n".join(["path,label,generator", *lines[:4]]) + "\n")
    assert [row["reason"] for row in read_all(ManifestSource(str(tmp_path / "set" / "local.csv"), "any"))] == [None] * 4


@pytest.mark.parametrize("again", ["a.png", "./a.png", "x/../a.png"])
def test_one_path_under_both_labels_is_rejected_in_both_records(tmp_path, again: str) -> None:
    (tmp_path / "m.csv").write_text(f"path,label,generator,record_id\na.png,0,real,1\n{again},1,sd,2\nz.png,0,real,3\n")
    write_images(tmp_path, "a.png", "z.png")
    rows = read_all(ManifestSource(str(tmp_path / "m.csv")))
    assert [row["reason"] for row in rows] == ["conflicting_label", "conflicting_label", None]


def test_what_travels_to_every_task_does_not_grow_with_the_set(tmp_path) -> None:
    write_images(tmp_path, *[f"real/{i}.png" for i in range(300)], *[f"fake/sd/{i}.png" for i in range(300)])
    lines = [f"real/{i}.png,0,real" for i in range(300)]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,generator", *lines]) + "\n")
    for source in (FolderSource(str(tmp_path)), ManifestSource(str(tmp_path / "m.csv"))):
        assert len(pickle.dumps(source.reader)) < 1000


def test_a_manifest_groups_images_by_record_and_reads_them_beside_itself(tmp_path) -> None:
    (tmp_path / "m.csv").write_text(
        "path,label,generator,record_id,caption,unused\n"
        "a.png,0,real,7,a cat,1\n"
        "b.png,1,sd,7,a cat,2\n"
        "c.png,1,sd,8,,3\n"
        "gone.png,1,sd,9,x,4\n"
        "gs://bucket/y.png,1,sd,10,x,4\n"
    )
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    rows = read_all(ManifestSource(str(tmp_path / "m.csv")))
    assert [(r["key"], r["record_id"], r["generators"], r["images"], r["text_original"], r["reason"]) for r in rows] == [
        ("m.csv#0", "7", ["real", "sd"], [b"a", b"b"], "a cat", None),
        ("m.csv#2", "8", ["sd"], [b"c"], None, None),
        ("m.csv#3", "9", None, None, None, "unreadable_file"),
        ("m.csv#4", "10", None, None, None, "outside_root"),
    ]


def test_a_parquet_manifest_may_hold_the_bytes(tmp_path) -> None:
    rows = {"bytes": [b"a", b"b", None], "label": [0, 1, 1], "generator": ["real", "sd", "sd"], "record_id": ["x", "x", "y"]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet", row_group_size=1)
    read = read_all(ManifestSource(str(tmp_path / "m.parquet")))
    assert [(row["record_id"], row["images"], row["reason"]) for row in read] == [
        ("x", [b"a", b"b"], None),
        ("y", None, "null_bytes"),
    ]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["a.png,2,sd,r"], "bad_label"),
        (["a.png,0,sd,r"], "bad_label"),
        (["a.png,1,real,r"], "bad_label"),
        (["a.png,,sd,r"], "bad_label"),
        (["a.png,1,,r"], "null_generator"),
        ([",1,sd,r"], "null_path"),
        (["a.png,1,sd,"], "null_id"),
        (["a.png,1,sd,r", "a.png,1,sd,r"], "duplicate_image"),
    ],
)
def test_flaws_of_manifest_rows_have_a_reason(tmp_path, lines: list[str], reason: str) -> None:
    (tmp_path / "m.csv").write_text("\n".join(["path,label,generator,record_id", *lines, "z.png,0,real,good"]) + "\n")
    (tmp_path / "z.png").write_bytes(b"z")
    rows = read_all(ManifestSource(str(tmp_path / "m.csv")))
    assert [row["reason"] for row in rows] == [reason, None]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "path,label\na,1\n", r"lacks the column\(s\) generator"),
        ("m.csv", "label,generator\n1,sd\n", r"lacks the column\(s\) path"),
        ("m.csv", "path,label,generator\n", "has no row"),
        ("m.csv", "path,label,generator,label\na,1,sd,1\n", "has a column twice"),
        ("m.csv", "path,label,generator\na,fake,sd\n", "column label of type string instead of integer"),
        ("m.csv", "", "can not be read: Empty CSV file"),
        ("m.txt", "x", r"must end in \.csv or \.parquet"),
        ("m.parquet", "x", "not a readable Parquet file"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        ManifestSource(str(tmp_path / name))
    with pytest.raises(ValueError, match="no manifest at"):
        ManifestSource(str(tmp_path / "nowhere.csv"))


def test_the_sample_set_is_d3_repeatable_and_without_shortcuts(sample_set: Path, tmp_path) -> None:
    from rdd.config import SampleConfig
    from rdd.data.sample import make_sample

    make_sample(SampleConfig(output=str(tmp_path / "again"), num_records=12, records_per_file=8))
    files = sorted(path.relative_to(sample_set) for path in sample_set.rglob("*.parquet"))
    assert len(files) == 4
    assert all((sample_set / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert pq.read_schema(sample_set / files[-1]).equals(D3)
    rows = read_all(D3Source(str(sample_set / "records"), str(sample_set / "real_images")))
    assert [row["reason"] for row in rows] == [None] * 12
    assert all(len(row["text_positive"]) > len(row["text_original"]) for row in rows)
    with pytest.raises(ValueError, match=r"sample\.seed \(0 there, 1 now\)"):
        make_sample(SampleConfig(output=str(sample_set), num_records=12, records_per_file=8, seed=1))


def test_a_sample_killed_between_its_two_renames_goes_on(sample_set: Path, tmp_path) -> None:
    import shutil

    from rdd.config import SampleConfig
    from rdd.data.sample import make_sample

    shutil.copytree(sample_set, tmp_path / "s")
    (tmp_path / "s" / ".partial").mkdir()
    (tmp_path / "s" / "real_images").rename(tmp_path / "s" / ".partial" / "real_images")
    make_sample(SampleConfig(output=str(tmp_path / "s"), num_records=12, records_per_file=8))
    for file in sample_set.rglob("*.parquet"):
        assert (tmp_path / "s" / file.relative_to(sample_set)).read_bytes() == file.read_bytes()
    assert not (tmp_path / "s" / ".partial").exists()


def test_simulated_generators_do_not_move_colour_and_are_drawn_at_the_same_sizes_and_encodings() -> None:
    from rdd.data.sample import SIZES, make_record
    from rdd.data.sample_artefacts import ARTEFACTS

    image = np.random.default_rng(1).uniform(40, 215, (256, 256, 3)).astype(np.float32)
    for artefact in ARTEFACTS.values():
        changed = artefact(image, np.random.default_rng(0))
        assert changed.shape == image.shape
        assert abs(changed.mean() - image.mean()) < 1.0
        assert np.abs(changed - image).mean() > 0.5
    seen: dict[str, set] = {"real": set(), "generated": set()}
    for row in range(25):
        record, real = make_record(0, row)
        seen["real"].add((real["width"], real["height"]))
        seen["generated"] |= {(record[f"width_gen{i}"], record[f"height_gen{i}"]) for i in range(4)}
    assert seen["real"] == seen["generated"] == set(SIZES)
