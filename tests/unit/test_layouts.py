"""Folders of other people's sets, in made-up miniatures."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from rdd.config import Config, RecordsConfig
from rdd.config.parse import override
from rdd.data.layouts import LAYOUTS
from rdd.data.open import open_source


def write(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))
    return str(folder)


def records_of(kind: str, path: str) -> dict[str, dict]:
    source = open_source(override(Config(), {"records.kind": kind, "records.path": path}).records)
    index = source.index()
    assert len(set(index["key"].to_pylist())) == index.num_rows
    read = pa.concat_tables([table for i in range(index.num_rows) for table in source.reader(index.slice(i, 1))])
    rows = {row["record_id"]: row for row in read.to_pylist()}
    assert source.images_of(index).sum() == sum(len(row["images"]) for row in rows.values() if row["reason"] is None)
    return rows


def generators_of(kind: str, path: str) -> dict[str, list[str]]:
    return {name: row["generators"] for name, row in records_of(kind, path).items()}


def test_cnndetection_which_is_forensynths_and_univfd(tmp_path: Path) -> None:
    forensynths = write(
        tmp_path / "test",
        *("biggan/0_real/1.png", "biggan/1_fake/1.png", "cyclegan/horse/1_fake/2.png", "cyclegan/horse/0_real/2.png"),
        *("biggan/readme.txt", "0_real/1.png", "other/1.png"),
    )
    assert generators_of("cnn_detection", forensynths) == {
        "biggan/0_real/1.png": ["real"],
        "biggan/1_fake/1.png": ["biggan"],
        "cyclegan/horse/0_real/2.png": ["real"],
        "cyclegan/horse/1_fake/2.png": ["cyclegan"],
    }
    training = write(tmp_path / "training", "train/airplane/1_fake/1.png", "val/cat/0_real/1.png", "test/dalle/1_fake/a/1.jpg")
    assert list(generators_of("cnn_detection", training).values()) == [["dalle"], ["progan"], ["real"]]
    univfd = write(tmp_path / "diffusion_datasets", "imagenet/0_real/1.png", "guided/1_fake/1.png", "ldm_200/1_fake/1.png")
    assert sorted(generators_of("cnn_detection", univfd).values()) == [["guided"], ["ldm_200"], ["real"]]


def test_aigibench_whole_and_a_part_of_it(tmp_path: Path) -> None:
    whole = write(
        tmp_path / "AIGIBench",
        *("test/FLUX1-dev/0_real/1.png", "test/FLUX1-dev/1_fake/1.png", "test/ProGAN/1_fake/1.png", "test/1_fake/1.png"),
        *("train/car/1_fake/1.png", "train/sdv1.4/1_fake/1.png", "train/sdv1.4/0_real/1.png", "val/horse/0_real/2.png"),
        *("train/sdv1.4/ai/1.png", "loose.png"),
    )
    expected = {
        "test/FLUX1-dev/0_real/1.png": ["real"],
        "test/FLUX1-dev/1_fake/1.png": ["FLUX1-dev"],
        "test/ProGAN/1_fake/1.png": ["ProGAN"],
        "train/car/1_fake/1.png": ["ProGAN"],
        "train/sdv1.4/0_real/1.png": ["real"],
        "train/sdv1.4/1_fake/1.png": ["sdv1.4"],
        "val/horse/0_real/2.png": ["real"],
    }
    assert generators_of("aigibench", whole) == expected
    assert generators_of("aigibench", f"{whole}/train") == {
        name.removeprefix("train/"): made for name, made in expected.items() if name.startswith("train/")
    }


def test_genimage_whole_and_one_archive(tmp_path: Path) -> None:
    whole = write(
        tmp_path / "GenImage",
        *("BigGAN/imagenet_ai_0419_biggan/val/ai/1.png", "BigGAN/imagenet_ai_0419_biggan/train/nature/n01440764/1.JPEG"),
        *("glide/val/ai/1.png", "Midjourney/imagenet_midjourney/val/other/1.png", "val/ai/1.png"),
    )
    assert generators_of("genimage", whole) == {
        "BigGAN/imagenet_ai_0419_biggan/train/nature/n01440764/1.JPEG": ["real"],
        "BigGAN/imagenet_ai_0419_biggan/val/ai/1.png": ["BigGAN"],
        "glide/val/ai/1.png": ["glide"],
    }
    one = write(tmp_path / "one", "imagenet_ai_0419_sdv4/val/ai/1.png")
    assert list(generators_of("genimage", one).values()) == [["imagenet_ai_0419_sdv4"]]


def test_synthbusters_images_are_records_with_their_photograph(tmp_path: Path) -> None:
    path = write(
        tmp_path / "synthbuster",
        *("RAISE/r01.TIF", "dalle3/r01.png", "firefly/r01.png", "firefly/r02.png", "loose.png", "dalle3/deeper/r01.png"),
    )
    records = records_of("synthbuster", path)
    assert {name: row["generators"] for name, row in records.items()} == {
        "r01": ["real", "dalle3", "firefly"],
        "r02": ["firefly"],
    }
    assert records["r01"]["images"] == [b"RAISE/r01.TIF", b"dalle3/r01.png", b"firefly/r01.png"]


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_another_layout_is_refused_and_odd_names_reject_their_record(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine", "1.png", "a/b/c/d.png")
    with pytest.raises(ValueError, match=rf"no image in .*mine lies as records.kind {kind} has it, in <generator>/"):
        open_source(RecordsConfig(kind=kind, path=path))
    with pytest.raises(ValueError, match="no directory at"):
        open_source(RecordsConfig(kind=kind, path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=rf"records\.path must be one folder when records\.kind is {kind}"):
        open_source(RecordsConfig(kind=kind, path=f"{tmp_path}/*"))
    folder = {
        "aigibench": "R3GAN/1_fake",
        "cnn_detection": "biggan/1_fake",
        "genimage": "glide/val/ai",
        "synthbuster": "glide",
    }[kind]
    odd = write(tmp_path / "odd", f"{folder}/1.png", f"{folder}/{os.fsdecode(bytes([0xE9]))}.png")
    assert sorted(str(row["reason"]) for row in records_of(kind, odd).values()) == ["None", "name_not_utf8"]
