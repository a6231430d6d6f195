import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from _features import WIDTHS, D, W, feature_rows, write_features

from rdd.config import FeaturesConfig
from rdd.features import FeatureTable, split_records
from rdd.features.feature_set import check_inputs
from rdd.features.splits import split_with_both_classes
from rdd.schema import label_of


@pytest.fixture(params=["memory", "map"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureTable:
    path = write_features(tmp_path / "features", feature_rows(60))
    return FeatureTable.load(path, shared=str(tmp_path / "maps") if request.param == "map" else None)


def test_each_image_has_the_features_of_its_record(table: FeatureTable) -> None:
    assert len(table) == sum(2 + i % 4 for i in range(60))
    assert table.generators == ("real", "gen-0", "gen-1", "gen-2", "gen-3")
    batch = table.gather(torch.arange(len(table)), "official")
    records = [int(table.record_ids[record].as_py()[1:]) for record in table.record_of.tolist()]
    assert records == sorted(records)
    assert batch.features[:, 0].tolist() == records
    names = [table.generators[generator] for generator in table.generator_of]
    assert [f"gen-{int(k) - 1}" if k else "real" for k in batch.features[:, 1]] == names
    assert batch.labels.tolist() == [label_of(name) for name in names]
    assert batch.features[:, D].tolist() == [
        r + (0.5 if name != "real" else 0.25) for r, name in zip(records, names, strict=True)
    ]


def test_text_modes(table: FeatureTable) -> None:
    images = torch.tensor([3, 0, 5])
    shared, none = table.gather(images, "shared"), table.gather(images, "none")
    assert shared.features.shape == (3, table.width("shared")) == (3, 2 * D)
    assert torch.equal(none.features, shared.features[:, :D])
    assert torch.equal(shared.features[:, D], none.features[:, 0] + 0.25)
    assert none.features.dtype == torch.float32


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    rows = feature_rows(40)
    one = FeatureTable.load(write_features(tmp_path / "a", rows))
    other = FeatureTable.load(write_features(tmp_path / "b", rows[::-1], per_file=11))
    everything = torch.arange(len(one))
    assert torch.equal(one.gather(everything, "shared").features, other.gather(everything, "shared").features)


def test_features_without_text_refuse_modes_that_need_it(tmp_path: Path) -> None:
    table = FeatureTable.load(write_features(tmp_path, feature_rows(10, text=False), text=False))
    assert table.gather(torch.tensor([0]), "none").features.shape == (1, D)
    with pytest.raises(ValueError, match=r"set features\.text_mode to auto or none"):
        table.gather(torch.tensor([0]), "shared")


def test_an_unfinished_or_torn_embedding_is_refused(tmp_path: Path) -> None:
    path = write_features(tmp_path / "f", feature_rows(20))
    (tmp_path / "f" / "data" / "00000.parquet").unlink()
    with pytest.raises(RuntimeError, match=r"its manifest says 20; embed again"):
        FeatureTable.load(path)
    (tmp_path / "f" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no finished embedding"):
        FeatureTable.load(path)
    rows = feature_rows(4)
    next(row for row in rows if row.get("reason") is None)["projected"] = b"\0" * (2 * D - 2)
    with pytest.raises(RuntimeError, match="bytes instead of .* in projected of the record"):
        FeatureTable.load(write_features(tmp_path / "g", rows))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("encoder", "ViT-B-16", "encoder must be of type dict, got 'ViT-B-16'"),
        ("encoder", {"embed_dim": D + 1}, f"encoder.embed_dim must be embed_dim, {D}, got {D + 1}"),
        ("embed_dim", 0, "embed_dim must be at least 1, got 0"),
        ("embed_dim", "8", "embed_dim must be of type int, got '8'"),
        ("features", None, "features must be a mapping with a feature of images, got None"),
        ("features", {"x": {}}, "features must be a mapping with a feature of images, got {'x': {}}"),
        (
            "features",
            {"projected": {"width": 0, "dtype": "float16"}},
            "features must hold text_original, text_positive where text is true",
        ),
        ("text", None, "text must be of type bool, got None"),
        ("records_written", True, "records_written must be of type int, got True"),
        ("images", 1, "images and its manifest says 1"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, name: str, value: object, said: str) -> None:
    path = write_features(tmp_path / "f", feature_rows(20))
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    (tmp_path / "f" / "manifest.json").write_text(json.dumps(manifest | {name: value}))
    with pytest.raises(RuntimeError, match=rf"{said}; embed again"):
        FeatureTable.load(path)


@pytest.mark.parametrize(
    ("name", "field", "value", "said"),
    [
        ("projected", "width", 0, "features.projected.width must be at least 1"),
        ("projected", "dtype", "int8", "features.projected.dtype must be one of float16, float32, got 'int8'"),
        ("text_original", "width", D + 1, "features must have prompts of one width and dtype"),
    ],
)
def test_a_feature_that_the_manifest_describes_wrongly_is_named(
    tmp_path: Path, name: str, field: str, value: object, said: str
) -> None:
    path = write_features(tmp_path / "f", feature_rows(20))
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    manifest["features"][name][field] = value
    (tmp_path / "f" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RuntimeError, match=rf"{said}.*; embed again"):
        FeatureTable.load(path)


ALL = ("projected", "block_2", "block_5")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("inputs", [["block_5"], ["block_2", "projected"], ["projected", "block_5", "block_2"]])
def test_inputs_lie_end_to_end_in_their_order_with_the_text_behind(tmp_path: Path, inputs: list[str], shared: bool) -> None:
    path = write_features(tmp_path / "features", feature_rows(30), names=ALL)
    maps = str(tmp_path / "maps") if shared else None
    table = FeatureTable.load(path, inputs=inputs, shared=maps)
    assert table.inputs == {name: WIDTHS[name] for name in inputs}
    images = torch.arange(len(table))
    batch = table.gather(images, "official").features
    assert batch.shape == (len(table), table.width("official")) == (len(table), sum(table.inputs.values()) + D)
    records = torch.tensor([int(table.record_ids[record].as_py()[1:]) for record in table.record_of.tolist()])
    begin = 0
    for name in inputs:
        block = 0 if name == "projected" else int(name.removeprefix("block_"))
        assert torch.equal(batch[:, begin], records + 100.0 * block)
        begin += WIDTHS[name]
    assert torch.equal(batch[:, -1], records + torch.where(table.labels == 0, 0.25, 0.5))
    assert torch.equal(table.gather(images, "none").features, batch[:, :begin])
    parts = list(table.batches(list(images.split(7)), "none", dtype=torch.float64))
    assert parts[0].features.dtype == torch.float64


def test_only_the_columns_of_the_inputs_are_read(tmp_path: Path, monkeypatch) -> None:
    path, read = write_features(tmp_path, feature_rows(30), names=ALL), set()
    real = pq.ParquetFile.iter_batches

    def watched(self, *arguments, columns, **options):
        read.update(columns)
        return real(self, *arguments, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    table = FeatureTable.load(path, inputs=["block_2"], text=False)
    assert read == {"block_2"}
    with pytest.raises(ValueError, match="needs prompts"):
        table.text_mode("shared")
    FeatureTable.load(path, inputs=["projected"])
    assert read == {"block_2", "projected", "text_original", "text_positive"}


def test_an_input_that_the_set_lacks_names_those_that_it_holds(tmp_path: Path) -> None:
    path = write_features(tmp_path / "f", feature_rows(10), names=ALL)
    with pytest.raises(ValueError, match=rf"must name features that {path} holds, projected, block_2, block_5, got block_9; "):
        FeatureTable.load(path, inputs=["projected", "block_9"])
    first = write_features(tmp_path / "g", feature_rows(10), first_layout=True)
    with pytest.raises(ValueError, match="holds, projected, got block_2; clip.blocks names the blocks"):
        check_inputs(FeaturesConfig(path=first, inputs=["block_2"]))


def test_a_set_of_the_first_layout_is_read_as_projected_and_keeps_its_identity(tmp_path: Path) -> None:
    rows = feature_rows(30)
    first = FeatureTable.load(write_features(tmp_path / "first", rows, first_layout=True))
    named = FeatureTable.load(write_features(tmp_path / "named", rows))
    images = torch.arange(len(first))
    assert torch.equal(first.gather(images, "official").features, named.gather(images, "official").features)
    assert torch.equal(first.split(FeaturesConfig(), "train"), named.split(FeaturesConfig(), "train"))
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    sizes = sorted((file.name, file.stat().st_size) for file in (tmp_path / "first" / "data").iterdir())
    before = ["rows.npy", manifest, sizes]  # what the first version hashed
    assert first.identity == hashlib.sha256(json.dumps(before).encode()).hexdigest()


def test_columns_of_float32_keep_their_values(tmp_path: Path) -> None:
    rows = feature_rows(8, rejected=0)
    exact = np.array([1 / 3, 70_000.0, 1e-9, *[0.0] * (W - 3)], dtype="<f4")
    for row in rows:
        row["block_5"] = np.tile(exact, (len(row["generators"]), 1)).tobytes()
    table = FeatureTable.load(write_features(tmp_path, rows, names=ALL), inputs=["block_5", "projected"])
    assert torch.equal(table.gather(torch.tensor([0]), "none").features[0, :W], torch.from_numpy(exact))
    rows[3]["block_5"] = np.full((len(rows[3]["generators"]), W), np.inf, dtype="<f4").tobytes()
    with pytest.raises(RuntimeError, match=f"NaN or infinity in block_5 of the record '{rows[3]['record_id']}'"):
        FeatureTable.load(write_features(tmp_path / "bad", rows, names=ALL), inputs=["block_5"])


@pytest.mark.parametrize("generator", [None, ""])
def test_an_image_without_a_generator_is_refused(tmp_path: Path, generator: str | None) -> None:
    rows = feature_rows(20)
    next(row for row in rows if row.get("reason") is None)["generators"][0] = generator
    with pytest.raises(RuntimeError, match="holds 1 images or records without a generator's name; embed again"):
        FeatureTable.load(write_features(tmp_path / "f", rows))


def test_a_changed_bit_of_a_feature_is_refused(tmp_path: Path) -> None:
    path = write_features(tmp_path, feature_rows(20, rejected=0), per_file=1000)
    file = tmp_path / "data" / "00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table, file, compression="none", use_dictionary=False, write_page_checksum=True)
    FeatureTable.load(path)
    data = bytearray(file.read_bytes())
    data[data.index(table["projected"][3].as_py()) + 1] ^= 0x10  # another number, as finite as the first
    file.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"00000\.parquet can not be read \(.*CRC.*\); if it is damaged, embed again"):
        FeatureTable.load(path)


def test_a_record_without_an_id_is_refused(tmp_path: Path) -> None:
    rows = feature_rows(20)
    next(row for row in rows if row.get("reason") is None)["record_id"] = None
    with pytest.raises(RuntimeError, match="holds 1 records without an id; embed again"):
        FeatureTable.load(write_features(tmp_path / "f", rows))


@pytest.mark.parametrize(
    ("column", "kind"),
    [("record_id", pa.binary()), ("projected", pa.string()), ("text_original", pa.binary(2 * D)), ("generators", None)],
)
def test_a_column_of_another_type_is_refused(tmp_path: Path, column: str, kind: pa.DataType | None) -> None:
    path = write_features(tmp_path, feature_rows(20, rejected=0))
    file = tmp_path / "data" / "00000.parquet"
    table = pq.read_table(file)
    number = table.column_names.index(column)
    changed = table.remove_column(number)
    if kind is not None:
        cells = [value.as_py() for value in table[column]]
        as_text = pa.types.is_string(kind)
        values = pa.array(["x" if as_text else cell.encode() if isinstance(cell, str) else cell for cell in cells], kind)
        changed = changed.add_column(number, column, values)
    pq.write_table(changed, file)
    with pytest.raises(
        RuntimeError, match=rf"the column {column} must be of type .*, got {re.escape(str(kind or 'absent'))}; embed again"
    ):
        FeatureTable.load(path)


def test_a_record_with_more_vectors_than_images_is_refused_though_the_sum_is_right(tmp_path: Path) -> None:
    rows = [row for row in feature_rows(8, rejected=0) if len(row["generators"]) == 3]
    rows[0]["projected"], rows[1]["projected"] = bytes(4 * 2 * D), bytes(2 * 2 * D)
    with pytest.raises(
        RuntimeError, match=f"holds {8 * D} bytes instead of {6 * D} in projected of the record '{rows[0]['record_id']}'"
    ):
        FeatureTable.load(write_features(tmp_path / "f", rows))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", ["projected", "text_original", "text_positive"])
def test_one_value_that_is_not_finite_names_its_record(tmp_path: Path, value: float, column: str) -> None:
    rows = feature_rows(20)
    whole = [row for row in rows if row.get("reason") is None]
    for record in (whole[0], whole[-1]):
        good = record[column]
        vectors = np.frombuffer(good, "<f2").copy()
        vectors[-1] = value
        record[column] = vectors.tobytes()
        with pytest.raises(
            RuntimeError, match=f"NaN or infinity in {column} of the record '{record['record_id']}'; embed again"
        ):
            FeatureTable.load(write_features(tmp_path / record["record_id"], rows))
        record[column] = good


def test_shares_split_records_and_keep_their_images_together(table: FeatureTable) -> None:
    config = FeaturesConfig(validation_share=0.2, test_share=0.3)
    parts = {part: table.split(config, part) for part in ("train", "validation", "test")}
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(len(table)))
    records = [set(table.record_of[images].tolist()) for images in parts.values()]
    assert not records[0] & records[1]
    assert not (records[0] | records[1]) & records[2]


def test_shares_are_the_shares_and_stay_when_records_are_added() -> None:
    ids = pa.array(f"id-{i}" for i in range(20_000))
    parts = split_records(ids, FeaturesConfig())
    assert [round(float((parts == part).mean()), 2) for part in ("train", "validation", "test")] == [0.9, 0.05, 0.05]
    assert (split_records(ids[5_000:], FeaturesConfig()) == parts[5_000:]).all()
    assert (split_records(ids, FeaturesConfig(split_seed=1)) != parts).mean() > 0.1


def test_folds_are_disjoint_and_cover_everything() -> None:
    ids = pa.array(f"id-{i}" for i in range(10_000))
    folds = [split_records(ids, FeaturesConfig(split="folds", num_folds=4, fold=fold)) for fold in range(4)]
    tested = np.stack([fold == "test" for fold in folds])
    assert (tested.sum(axis=0) == 1).all()
    assert np.abs(tested.mean(axis=1) - 0.25).max() < 0.02
    assert abs((folds[0] == "validation").mean() - 0.75 * 0.05) < 0.01


def test_auto_is_what_the_features_hold(tmp_path: Path) -> None:
    with_text = FeatureTable.load(write_features(tmp_path / "with", feature_rows(10)))
    without = FeatureTable.load(write_features(tmp_path / "without", feature_rows(10, text=False), text=False))
    assert (with_text.text_mode("auto"), without.text_mode("auto")) == ("shared", "none")
    assert (with_text.width("auto"), without.width("auto")) == (2 * D, D)


def test_a_set_of_one_class_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    rows = [row | {"generators": ["sd"], "projected": row["projected"][: 2 * D]} for row in feature_rows(30, rejected=0)]
    table = FeatureTable.load(write_features(tmp_path, rows))
    with pytest.raises(
        ValueError, match="no real image: got 0 records with a real image and 30 .*at least 3 of each are needed"
    ):
        table.split(FeaturesConfig(), "train")
    folds = FeaturesConfig(split="folds", num_folds=10)
    with pytest.raises(ValueError, match=r"no real image: .* lower features.num_folds \(10\) or give more records"):
        table.split(folds, "train")


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
@pytest.mark.parametrize(("real", "generated", "both"), [(3, 3, 0), (0, 0, 3), (1, 2, 2), (15, 15, 0), (4, 40, 0)])
def test_small_sets_get_both_classes_in_every_part(real: int, generated: int, both: int, share: float) -> None:
    number = real + generated + both
    ids = pa.array(f"image-{i}" for i in range(number))
    has_class = np.stack([np.arange(number) < real + both, np.arange(number) >= real], axis=1)
    for seed in range(100):
        config = FeaturesConfig(split_seed=seed, validation_share=share, test_share=share)
        parts = split_with_both_classes(ids, has_class, config)
        for part in ("train", "validation", "test"):
            assert has_class[parts == part].any(0).all(), (part, seed)
        # which records move depends on their ids alone, not on their order
        order = np.random.default_rng(seed).permutation(number)
        again = split_with_both_classes(ids.take(pa.array(order)), has_class[order], config)
        assert (again == parts[order]).all()


def test_a_set_that_was_mended_says_so_once(tmp_path: Path, caplog) -> None:
    table = FeatureTable.load(write_features(tmp_path, feature_rows(6, rejected=0)))
    for part in ("train", "validation", "test"):
        table.split(FeaturesConfig(), part)
    assert caplog.text.count("were moved to another part") == 1


def test_a_set_that_needs_no_mending_is_left_as_it_is() -> None:
    ids = pa.array(f"id-{i}" for i in range(2_000))
    has_class = np.ones((2_000, 2), dtype=bool)
    assert (split_with_both_classes(ids, has_class, FeaturesConfig()) == split_records(ids, FeaturesConfig())).all()


def test_batches_go_through_one_buffer_and_hold_what_gather_holds(table: FeatureTable) -> None:
    parts = [torch.tensor([3, 0, 5]), torch.tensor([1]), torch.arange(12)]
    addresses = set()
    for images, batch in zip(parts, table.batches(parts, "official", dtype=torch.float64), strict=True):
        expected = table.gather(images, "official")
        assert torch.equal(batch.features, expected.features.double())
        assert torch.equal(batch.labels, expected.labels.double())
        addresses.add(batch.features.data_ptr())
    assert len(addresses) == 2  # a larger batch gets a larger buffer


def test_feature_columns_may_come_in_many_row_groups(tmp_path: Path) -> None:
    path = write_features(tmp_path, feature_rows(40), per_file=1000)
    file = tmp_path / "data" / "00000.parquet"
    expected = FeatureTable.load(path).gather(torch.arange(50), "shared").features
    pq.write_table(pq.read_table(file), file, row_group_size=3)
    assert torch.equal(FeatureTable.load(path).gather(torch.arange(50), "shared").features, expected)
