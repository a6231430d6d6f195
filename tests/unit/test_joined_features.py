"""Several directories of features as one set: further records, further images of them, further features of the same images."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from _features import WIDTHS, D, feature_rows, write_features

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.features import FeatureTable
from rdd.features.feature_set import FeatureSet, check_inputs, identity_if_there
from rdd.features.table import Batch
from rdd.on_ray.feature_stream import StreamedTable

_ALL = ("projected", "block_2", "block_5")


def _images(rows: list[dict], keep: slice) -> list[dict]:
    """The same records with some of their images."""
    rows = copy.deepcopy([row for row in rows if row.get("reason") is None])
    for row in rows:
        row["generators"], number = row["generators"][keep], len(row["generators"])
        for name in WIDTHS:
            size = len(row[name]) // number
            row[name] = b"".join([row[name][size * i : size * (i + 1)] for i in range(number)][keep])
    return [row for row in rows if row["generators"]]


def _all(table: FeatureTable, text_mode: str = "shared") -> Batch:
    return table.gather(torch.arange(len(table)), text_mode)


def _same(one: FeatureTable, other: FeatureTable, text_mode: str = "shared") -> None:
    assert len(one) == len(other) > 0
    first, second = _all(one, text_mode), _all(other, text_mode)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.labels, second.labels)
    named = [[table.generators[code] for code in table.generator_of.tolist()] for table in (one, other)]
    assert named[0] == named[1]
    ids = [[table.record_ids[record].as_py() for record in table.record_of.tolist()] for table in (one, other)]
    assert ids[0] == ids[1]
    for part in ("train", "validation", "test"):
        config = FeaturesConfig(validation_share=0.2, test_share=0.2)
        assert torch.equal(one.split(config, part), other.split(config, part))


@pytest.mark.parametrize("shared", [False, True])
def test_further_records_features_and_images_give_the_set_that_one_embedding_would(tmp_path: Path, shared: bool) -> None:
    rows = feature_rows(40)
    whole = write_features(tmp_path / "whole", rows, names=_ALL)
    first, second = ([row for i, row in enumerate(rows) if i % 2 == half] for half in (0, 1))
    real, generated = _images(rows, slice(0, 1)), _images(rows, slice(1, None))
    grown = {
        "records": [write_features(tmp_path / f"half-{n}", half, names=_ALL) for n, half in enumerate((first, second))],
        "features": [
            write_features(tmp_path / "projected", rows),
            write_features(tmp_path / "blocks", rows[::-1], names=["block_5", "block_2"], text=False),
        ],
        "images": [write_features(tmp_path / n, r, names=_ALL) for n, r in (("real", real), ("generated", generated))],
    }
    where = {"shared": str(tmp_path / "maps")} if shared else {}
    expected = FeatureTable.load(whole, inputs=["block_5", "projected"])
    for paths in grown.values():
        table = FeatureTable.load(paths, inputs=["block_5", "projected"], **where)
        _same(table, expected)
        again = FeatureTable.load(paths, inputs=["block_5", "projected"], **where)
        assert again.identity == table.identity != expected.identity
        one = FeatureTable.load(paths, inputs=["block_5"], text=False, **where)
        _same(one, FeatureTable.load(whole, inputs=["block_5"], text=False), "none")


def test_a_map_of_several_directories_gets_back_a_matrix_that_is_gone(tmp_path: Path) -> None:
    rows = feature_rows(12)
    paths = [
        write_features(tmp_path / "projected", rows),
        write_features(tmp_path / "blocks", rows, names=["block_2"], text=False),
    ]
    shared = str(tmp_path / "maps")
    before = _all(FeatureTable.load(paths, inputs=["projected", "block_2"], shared=shared))
    (matrix,) = (tmp_path / "maps").glob("*/block_2.npy")
    matrix.unlink()
    after = _all(FeatureTable.load(paths, inputs=["projected", "block_2"], shared=shared))
    assert matrix.exists()
    assert torch.equal(before.features, after.features)


def test_images_that_lack_an_input_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row for row in feature_rows(10) if row.get("reason") is None]
    paths = [
        write_features(tmp_path / "projected", rows),
        write_features(tmp_path / "blocks", rows[3:], names=["block_2"], text=False),
    ]
    caplog.set_level("WARNING", logger="rdd")
    table = FeatureTable.load(paths, inputs=["projected", "block_2"])
    left = sum(len(row["generators"]) for row in rows[:3])
    assert f"{left} images of {paths[0]}, {paths[1]} lack one of" in caplog.text
    assert set(table.record_ids.to_pylist()) == {row["record_id"] for row in rows[3:]}
    features = _all(table).features
    assert torch.equal(features[:, 0] + 200, features[:, D])  # of each image both, by the number of its record


def test_prompts_come_from_the_directory_that_has_them(tmp_path: Path) -> None:
    rows = feature_rows(20)
    whole = FeatureTable.load(write_features(tmp_path / "whole", rows))
    images = {"generated": _images(rows, slice(1, None)), "real": _images(rows, slice(0, 1))}
    paths = [write_features(tmp_path / name, some, text=name == "real") for name, some in images.items()]
    table = FeatureTable.load(paths)
    for mode in ("shared", "official"):
        by_place = [sorted(map(tuple, _all(one, mode).features.tolist())) for one in (table, whole)]
        assert by_place[0] == by_place[1]
    lacking = write_features(tmp_path / "more", [{**row, "record_id": f"x{row['record_id']}"} for row in rows], text=False)
    with pytest.raises(ValueError, match=r"text_mode must be none, since 20 of 40 records .* have no features of prompts"):
        FeatureTable.load([*paths, lacking])
    assert len(FeatureTable.load([*paths, lacking], text=False)) == 2 * len(whole)


def test_a_generator_that_stands_twice_in_a_record_gives_two_images(tmp_path: Path) -> None:
    rows = [row for row in feature_rows(6) if row.get("reason") is None]
    for row in rows:
        row["generators"] = [name if name == "real" else "gen" for name in row["generators"]]
    paths = [
        write_features(tmp_path / "projected", rows),
        write_features(tmp_path / "blocks", rows[::-1], names=["block_2"], text=False),
    ]
    features = _all(FeatureTable.load(paths, inputs=["projected", "block_2"])).features
    assert torch.equal(features[:, 0] + 200, features[:, D])
    assert torch.equal(features[:, 1], features[:, D + 1])  # the number of the image in its record


def test_what_can_not_be_joined_is_refused_in_a_sentence(tmp_path: Path) -> None:
    rows = feature_rows(10)
    one, two = (write_features(tmp_path / name, rows) for name in ("one", "two"))
    images = sum(len(row["generators"]) for row in rows if "generators" in row)
    with pytest.raises(ValueError, match=f"once, got {images} images that stand in more than one of {one} and {two}; embed"):
        FeatureTable.load([one, two])
    block = write_features(tmp_path / "block", rows, names=["block_2"], text=False)
    with pytest.raises(ValueError, match=f"must name features that {one}, {block} holds, projected, block_2, got block_5"):
        FeatureTable.load([one, block], inputs=["block_5"])
    elsewhere = write_features(tmp_path / "elsewhere", [{**row, "record_id": "x" + str(row["record_id"])} for row in rows])
    with pytest.raises(ValueError, match="with an image that has all of projected, block_2"):
        FeatureTable.load([elsewhere, block], inputs=["projected", "block_2"])
    manifest = storage.read_json(f"{two}/manifest.json", dict, way_out="")
    storage.write_json(f"{two}/manifest.json", manifest | {"config": {"clip": {"precision": "bf16"}}})
    with pytest.raises(ValueError, match=f"one encoder, got {one} and {two} with precision None and 'bf16'"):
        FeatureSet.open([one, two])
    storage.write_json(f"{two}/manifest.json", manifest | {"images": images + 1})
    with pytest.raises(RuntimeError, match=f"{two} holds {images} images and its manifest says {images + 1}"):
        FeatureTable.load([one, two])
    with pytest.raises(ValueError, match="no finished embedding"):
        FeatureSet.open([one, str(tmp_path / "nothing")])


def test_the_setting_takes_one_directory_or_several() -> None:
    assert FeaturesConfig(path=["a", "b"]).path == ["a", "b"]
    for wrong in (["a", "a"], ["a", ""]):
        with pytest.raises(ValueError, match="features.path must name directories, each once"):
            FeaturesConfig(path=wrong)


def test_inputs_and_identity_of_several(tmp_path: Path) -> None:
    rows = feature_rows(10)
    paths = [
        write_features(tmp_path / "projected", rows),
        write_features(tmp_path / "blocks", rows, names=["block_2"], text=False),
    ]
    check_inputs(FeaturesConfig(path=paths, inputs=["projected", "block_2"]))
    with pytest.raises(ValueError, match="got block_5"):
        check_inputs(FeaturesConfig(path=paths, inputs=["block_5"]))
    assert identity_if_there(paths) == FeatureSet.open(paths).identity
    assert identity_if_there(paths[0]) == FeatureTable.load(paths[0]).identity
    assert identity_if_there([*paths, str(tmp_path / "gone")]) is None


def test_a_stream_of_several_follows_their_files_and_wants_all_inputs_in_each(tmp_path: Path) -> None:
    rows = feature_rows(20)
    halves = [write_features(tmp_path / f"{n}", [row for i, row in enumerate(rows) if i % 2 == n]) for n in (0, 1)]
    streamed = StreamedTable.open(halves, shuffle_mib=1)
    whole = FeatureTable.load(halves)
    for name in ("order", "record_of", "labels", "generator_of"):
        assert torch.equal(getattr(streamed, name), getattr(whole, name))
    assert len(streamed.files) == len(streamed.first_image) - 1
    assert streamed.first_image[-1] == len(whole)
    assert np.array_equal(np.sort(streamed.order.numpy()), np.arange(len(whole)))
    blocks = write_features(tmp_path / "blocks", rows, names=["block_2"], text=False)
    with pytest.raises(
        ValueError, match="features.held must be map or device where not every directory holds projected, block_2"
    ):
        StreamedTable.open([*halves, blocks], inputs=["projected", "block_2"], text=False, shuffle_mib=1)
