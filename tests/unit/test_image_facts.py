"""What a feature set knows of its images besides their features, and images that stand in two parts of its split."""

from pathlib import Path

import numpy as np
import pytest
from _features import D, feature_rows, write_features

from rdd import storage
from rdd.config import AuditConfig, FeaturesConfig
from rdd.evaluation.audit import audit, columns_needed
from rdd.evaluation.duplicates import as_sentences, compared_feature, near_duplicates, same_files
from rdd.features import FeatureTable
from rdd.features.image_facts import read_facts

CONFIG = FeaturesConfig(validation_share=0.2, test_share=0.2)
COLUMNS = ["formats", "widths", "caption_original"]


def rows_with_facts(number: int) -> list[dict]:
    """Rows whose files tell where they belong."""
    rows = feature_rows(number, text=False)
    for row in rows:
        if row["record_id"] is None:
            continue
        record, images = int(row["record_id"][1:]), len(row["generators"])
        row |= {"formats": ["JPEG" if name == "real" else "PNG" for name in row["generators"]]}
        row |= {"widths": [100 * record + k for k in range(images)], "caption_original": f"caption {record}"}
        row |= {"content_hashes": [(1000 * record + k) * 2**40 for k in range(images)]}
    return rows


def test_facts_belong_to_their_images_in_the_order_of_records(tmp_path: Path) -> None:
    path = write_features(tmp_path, rows_with_facts(40), text=False)
    images = read_facts([path], COLUMNS)
    assert images.record_ids.to_pylist() == [f"r{i:04d}" for i in range(40)]
    assert len(images) == sum(2 + i % 4 for i in range(40))
    numbers = np.asarray(images.facts["width"])
    assert (numbers // 100 == images.record_of).all()
    assert (np.diff(numbers) > 0).all()
    assert (np.asarray(images.facts["format"]) == np.where(images.labels == 1, "PNG", "JPEG")).all()
    assert images.captions["caption_original"].to_pylist() == [f"caption {i}" for i in range(40)]


def test_a_share_of_the_records_is_drawn_whole_and_the_same_ones_again(tmp_path: Path) -> None:
    path = write_features(tmp_path, rows_with_facts(40), text=False)
    some = read_facts([path], COLUMNS, share=0.4, seed=1)
    assert 8 <= len(some.record_ids) <= 24
    assert np.bincount(some.record_of).tolist() == [2 + int(one[1:]) % 4 for one in some.record_ids.to_pylist()]
    assert read_facts([path], COLUMNS, share=0.4, seed=1).record_ids == some.record_ids
    assert read_facts([path], COLUMNS, share=0.4, seed=2).record_ids != some.record_ids


def test_sets_of_an_earlier_version_know_nothing_and_the_audit_says_so(tmp_path: Path) -> None:
    path = write_features(tmp_path / "a", rows_with_facts(20), text=False, per_file=100)
    (file,) = storage.list_files(storage.join(path, "data"))
    table = storage.read_table(file.path, way_out="")
    storage.write_table(file.path, table.drop_columns(["formats", "caption_original", "content_hashes", "have_exif"]))
    images = read_facts([path], columns_needed())
    assert images.facts["format"].null_count == len(images)
    found = {one.name: one for one in audit(images, AuditConfig(resamples=100))}
    assert {name for name, one in found.items() if one.auroc is not None} == {"width"}
    assert found["text_words"].unknown == "the features do not hold it"
    assert same_files(read_facts([path], ["content_hashes"]), CONFIG) is None


def test_files_of_two_versions_are_read_together(tmp_path: Path) -> None:
    path = write_features(tmp_path, rows_with_facts(20), text=False)
    first = storage.list_files(storage.join(path, "data"))[0].path
    lacking = storage.read_table(first, way_out="").drop_columns(["formats", "caption_original"])
    storage.write_table(first, lacking)
    images = read_facts([path], COLUMNS)
    known = np.asarray(images.facts["format"].is_valid())
    assert 0 < known.sum() < len(images)
    assert (np.asarray(images.facts["width"]) // 100 == images.record_of).all()


def test_an_image_in_two_directories_counts_once(tmp_path: Path) -> None:
    rows = rows_with_facts(20)
    paths = [write_features(tmp_path / name, rows, text=False) for name in ("a", "b")]
    assert len(read_facts(paths, COLUMNS)) == len(read_facts(paths[:1], COLUMNS))


def test_facts_of_fewer_images_than_there_are_are_refused(tmp_path: Path) -> None:
    rows = rows_with_facts(10)
    next(row for row in rows if row["record_id"])["widths"] = [1]
    path = write_features(tmp_path, rows, text=False)
    with pytest.raises(RuntimeError, match="widths of more or fewer images"):
        read_facts([path], COLUMNS)


def test_the_same_file_in_two_parts_is_counted(tmp_path: Path) -> None:
    rows = rows_with_facts(60)
    path = write_features(tmp_path / "clean", rows, text=False)
    table = FeatureTable.load(path, text=False)
    assert same_files(read_facts([path], ["content_hashes"]), CONFIG) == 0
    part_of = {
        part: {table.record_ids[int(i)].as_py() for i in table.record_of[table.split(CONFIG, part)]}
        for part in ("train", "test")
    }
    by_id = {row["record_id"]: row for row in rows}
    source, copy = by_id[min(part_of["train"])], by_id[min(part_of["test"])]
    copy["content_hashes"] = [source["content_hashes"][0], *copy["content_hashes"][1:]]
    path = write_features(tmp_path / "copied", rows, text=False)
    assert same_files(read_facts([path], ["content_hashes"]), CONFIG) == 1


def test_near_duplicates_across_parts_are_found_and_their_class_is_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [row for row in rows_with_facts(80) if row["record_id"]]
    for row in rows:
        row["projected"] = (5 + rng.normal(size=(len(row["generators"]), D))).astype("<f2").tobytes()  # in a narrow cone
    table = FeatureTable.load(write_features(tmp_path / "clean", rows, text=False), text=False)
    options = {"cosine": 0.999, "images": 10_000, "seed": 0}
    clean = near_duplicates(table, CONFIG, **options)
    assert (clean.images, clean.of_other_class) == (0, 0)
    others = sum(len(table.split(CONFIG, part)) for part in ("validation", "test"))
    assert (clean.compared, clean.training_images) == (others, len(table.split(CONFIG, "train")))
    ids = [{table.record_ids[int(i)].as_py() for i in table.record_of[table.split(CONFIG, part)]} for part in ("train", "test")]
    source, copy = (next(row for row in rows if row["record_id"] == min(part)) for part in ids)
    real = np.frombuffer(source["projected"], "<f2").reshape(-1, D)[0]
    vectors = np.frombuffer(copy["projected"], "<f2").reshape(-1, D).copy()
    vectors[0], vectors[1] = real, real + np.float16(0.01)  # of a real and of a generated image
    copy["projected"] = vectors.tobytes()
    table = FeatureTable.load(write_features(tmp_path / "copied", rows, text=False), text=False)
    found = near_duplicates(table, CONFIG, **options)
    assert (found.images, found.of_other_class) == (2, 1)
    assert found.nearest[-1] == pytest.approx(1, abs=1e-4)
    assert "by the feature projected, 2 have a near duplicate there (cosine at least 0.999), for 1 of these" in as_sentences(
        0, found, cosine=0.999
    )
    assert near_duplicates(table, CONFIG, **options | {"images": 5}).compared == 5


def test_near_duplicates_are_looked_for_by_the_projection_where_it_is_stored() -> None:
    width = {"width": D, "dtype": "float16"}
    assert compared_feature({"features": {"block_2": width, "projected": width}}, ["block_2"]) == "projected"
    assert compared_feature({"features": {"block_2": width, "block_5": width}}, ["block_5", "block_2"]) == "block_5"
