"""The test folders of D3's authors, and D3's validation files."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rdd.config import FeaturesConfig, RecordsConfig
from rdd.data.d3_test import D3TestSource
from rdd.data.open import open_source
from rdd.features.splits import split_records

FOLDERS = ("real", "gen_0", "gen_1", "gen_2", "gen_3")
MODELS = ["real", "DeepFloyd IF", "Stable Diffusion 1.4", "Stable Diffusion 2.1", "Stable Diffusion XL"]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))


@pytest.fixture
def d3_test(tmp_path: Path) -> Path:
    root = tmp_path / "d3_test"
    for variant, ending in (("no_augm", "png"), ("augm", "jpg")):
        write(root / variant, *[f"{folder}/{number}.{ending}" for folder in FOLDERS for number in range(20)])
    return root


def records_of(path: Path) -> dict[str, dict]:
    source = open_source(RecordsConfig(kind="d3_test", path=str(path)))
    index = source.index()
    assert len(set(index["key"].to_pylist())) == index.num_rows
    read = pa.concat_tables([table for i in range(index.num_rows) for table in source.reader(index.slice(i, 1))])
    return {row["record_id"]: row for row in read.to_pylist()}


def test_images_of_one_name_are_one_record_with_its_augmented_copies(d3_test: Path) -> None:
    records = records_of(d3_test)
    assert sorted(records) == sorted(map(str, range(20)))
    assert records["7"]["generators"] == MODELS * 2
    images = [f"{folder}/7.{ending}".encode() for ending in ("png", "jpg") for folder in FOLDERS]
    assert records["7"]["images"] == images
    index = D3TestSource(str(d3_test)).index()
    assert index["rows"].to_pylist()[1] == list(range(10, 20))


def test_each_of_the_two_folders_is_a_source_of_the_same_ids(d3_test: Path) -> None:
    whole = records_of(d3_test)
    parts = []
    for variant, ending in (("augm", "jpg"), ("no_augm", "png")):
        records = records_of(d3_test / variant)
        assert sorted(records) == sorted(whole)
        assert records["7"]["generators"] == MODELS
        assert records["7"]["images"] == [f"{folder}/7.{ending}".encode() for folder in FOLDERS]
        parts.append(split_records(pa.array(sorted(records)), FeaturesConfig()))
    assert np.array_equal(*parts)  # so that a copy never is in another part than its original


def test_names_may_end_in_those_of_their_folders_and_need_not_match(tmp_path: Path) -> None:
    write(tmp_path, "real/1_real.jpg", "gen_0/1_gen0.png", "gen_1/1_gen_1.gif", "gen_2/1.webp", "gen_2/1_gen0.jpg")
    write(
        tmp_path, "real/deep/1.jpg", "gen_3/alone.png", "gen_11/1.png", "real/_real.png", "readme.txt", "other/1.png", "1.png"
    )
    records = records_of(tmp_path)
    assert {name: (row["generators"], row["images"]) for name, row in records.items()} == {
        "1": (
            ["real", "DeepFloyd IF", "Stable Diffusion 1.4", "gen_11", "Stable Diffusion 2.1"],
            [b"real/1_real.jpg", b"gen_0/1_gen0.png", b"gen_1/1_gen_1.gif", b"gen_11/1.png", b"gen_2/1.webp"],
        ),
        "1_gen0": (["Stable Diffusion 2.1"], [b"gen_2/1_gen0.jpg"]),
        "deep/1": (["real"], [b"real/deep/1.jpg"]),
        "alone": (["Stable Diffusion XL"], [b"gen_3/alone.png"]),
        "_real": (["real"], [b"real/_real.png"]),
    }


def test_another_layout_is_refused_and_odd_names_reject_their_record(tmp_path: Path) -> None:
    write(tmp_path / "folder", "real.png", "fake/sd/1.png")
    with pytest.raises(ValueError, match=r"no image below real/ or gen_<i>/ in .*folder, nor in its folders augm/ or no_augm/"):
        D3TestSource(str(tmp_path / "folder"))
    with pytest.raises(ValueError, match="no directory at"):
        D3TestSource(str(tmp_path / "nowhere"))
    write(tmp_path / "odd", "real/1.png", f"real/{os.fsdecode(bytes([0xE9]))}.png")
    assert {name: row["reason"] for name, row in records_of(tmp_path / "odd").items()} == {
        "1": None,
        "\\xe9": "name_not_utf8",
    }
    with pytest.raises(ValueError, match=r"records\.path must be one folder when records\.kind is d3_test"):
        open_source(RecordsConfig(kind="d3_test", path=f"{tmp_path}/*"))
