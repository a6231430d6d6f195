"""Reference images of a detector: which are drawn, how far others are from them, and the file that they travel in."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from _features import feature_rows, write_features
from _small_detector import as_format, detector_of
from sklearn.neighbors import NearestNeighbors

from rdd.clip import ClipEncoder
from rdd.config import Config
from rdd.config.parse import override
from rdd.detector import Detector
from rdd.features import FeatureTable
from rdd.reference import Reference, ReferenceImages, fix_reference, sampled_records
from rdd.reference_file import to_file
from rdd.runs.make_reference import make_reference


def random_images(records: int = 20, per_record: int = 3, width: int = 16, seed: int = 0) -> ReferenceImages:
    rng = np.random.default_rng(seed)
    ids = [f"r{record:03d}" for record in range(records) for _ in range(per_record)]
    values = rng.normal(2, 3, (len(ids), width)).astype(np.float16)
    return ReferenceImages(ids, ["real", "sd", "sdxl"] * (len(ids) // 3), {"projected": values})


def units(rows: np.ndarray, images: ReferenceImages) -> np.ndarray:
    bank = np.concatenate([values.astype(np.float64) for values in images.features.values()], axis=1)
    scaled = (rows - bank.mean(0)) / bank.std(0)
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


def test_distances_are_those_of_scikit_learn_where_a_record_is_an_image() -> None:
    images = ReferenceImages([f"r{number:03d}" for number in range(60)], ["real"] * 60, random_images().features)
    others = np.random.default_rng(1).normal(2, 3, (7, 16)).astype(np.float32)
    bank = images.features["projected"].astype(np.float64)
    found = NearestNeighbors(n_neighbors=5).fit(units(bank, images)).kneighbors(units(others, images))[0]
    for k in (1, 3, 5):
        np.testing.assert_allclose(images.distances(others, k), found[:, k - 1], rtol=1e-9)
    assert images.distances(others[:0], 5).shape == (0,)


def test_a_record_counts_once_by_its_nearest_image() -> None:
    images, others = random_images(), np.random.default_rng(1).normal(2, 3, (4, 16)).astype(np.float32)
    bank = units(images.features["projected"].astype(np.float64), images)
    for other, distance in zip(others, images.distances(others, 5), strict=True):
        to_images = np.linalg.norm(bank - units(other[None], images), axis=1)
        best = sorted((min(to_images[3 * record : 3 * record + 3]), record) for record in range(20))
        np.testing.assert_allclose(distance, best[4][0])
        nearest = images.nearest(other, 5)
        assert [one.record_id for one in nearest] == [f"r{record:03d}" for _, record in best[:5]]
        np.testing.assert_allclose([one.distance for one in nearest], [distance for distance, _ in best[:5]])
        row = int(to_images.argmin())
        assert (nearest[0].record_id, nearest[0].generator) == (images.record_ids[row], images.generators[row])
    assert len(images.nearest(others[0], 100)) == 20
    assert images.nearest(others[0], 0) == []
    own = images.nearest(images.features["projected"][7], 2)
    assert (own[0].record_id, own[0].generator) == ("r002", "sd")
    assert own[0].distance < 1e-6 < own[1].distance


def test_several_inputs_lie_end_to_end_each_scaled_by_itself() -> None:
    small, large = random_images().features["projected"], random_images(seed=1).features["projected"].astype(np.float32) * 1e6
    images = ReferenceImages(random_images().record_ids, random_images().generators, {"block_5": large, "projected": small})
    assert images.widths == {"block_5": 16, "projected": 16}
    others = np.concatenate([large[:3] + 1e5, small[:3].astype(np.float32) - 1], axis=1)
    bank = units(np.concatenate([large, small], axis=1).astype(np.float64), images)
    to_images = np.linalg.norm(bank[None] - units(others, images)[:, None], axis=2)
    np.testing.assert_allclose(images.distances(others, 1), to_images.min(axis=1), atol=1e-9)


def test_a_column_that_hardly_varies_is_not_blown_up_and_one_that_never_does_is_no_nan() -> None:
    values = random_images().features["projected"].copy()
    values[:, 0], values[:, 1] = 4, np.float16(4) + np.float16(2**-8) * (np.arange(60) % 2)
    images = ReferenceImages(random_images().record_ids, random_images().generators, {"block_9": values})
    others = values[:2].astype(np.float32)
    before = images.distances(others, 2)
    others[:, 1] += 0.05
    np.testing.assert_allclose(images.distances(others, 2), before, atol=0.1)
    flat = ReferenceImages(["a", "b"], ["real", "sd"], {"block_9": np.ones((2, 4), np.float16)})
    assert np.isfinite(flat.distances(np.full((1, 4), 2, np.float32), 1)).all()


def test_what_is_no_reference_is_refused() -> None:
    whole = random_images()
    with pytest.raises(ValueError, match="must hold as many generators and features"):
        ReferenceImages(whole.record_ids, whole.generators[1:], whole.features)
    with pytest.raises(ValueError, match="must ascend"):
        ReferenceImages(whole.record_ids[::-1], whole.generators, whole.features)
    with pytest.raises(ValueError, match="must be finite"):
        ReferenceImages(whole.record_ids, whole.generators, {"projected": whole.features["projected"] * np.float16("inf")})
    good = {"images": whole, "neighbours": 5, "far_from": 1.0, "rate": 0.01, "validation_records": 99}
    for wrong in ({"neighbours": 21}, {"neighbours": 0}, {"far_from": float("nan")}, {"rate": 0.0}, {"validation_records": 0}):
        with pytest.raises(ValueError, match=f"reference.{next(iter(wrong))} must"):
            Reference(**good | wrong)


def test_records_are_drawn_whole_up_to_the_cap_and_each_kind_has_its_share() -> None:
    rng = np.random.default_rng(0)
    real, generated, both = [[1, 0]] * 300, [[0, 3]] * 100, [[1, 4]] * 40
    images = np.array(real + generated + both)[rng.permutation(440)]
    hashes = rng.integers(0, 2**63, 440).astype(np.uint64)
    sizes, kinds = images.sum(1), (images > 0) @ [1, 2]
    for cap in (100, 333, 799):
        chosen = sampled_records(hashes, images, cap=cap)
        assert cap - 5 <= sizes[chosen].sum() <= cap
        for kind, share in ((1, 300 / 800), (2, 300 / 800), (3, 200 / 800)):
            assert abs(sizes[chosen & (kinds == kind)].sum() - cap * share) <= 6
        shuffled = rng.permutation(440)
        np.testing.assert_array_equal(sampled_records(hashes[shuffled], images[shuffled], cap=cap), chosen[shuffled])
    assert sampled_records(hashes, images, cap=800).all()
    assert not sampled_records(hashes, images * 1000, cap=100).any()
    rare = np.array([[1, 0]] * 5000 + [[0, 1]])
    assert sampled_records(np.arange(5001, dtype=np.uint64)[::-1], rare, cap=100)[-1]  # neither class goes missing


def test_a_larger_cap_takes_more_of_the_same_records() -> None:
    hashes, images = np.random.default_rng(0).integers(0, 2**63, 500).astype(np.uint64), np.tile([1, 4], (500, 1))
    small, large = (sampled_records(hashes, images, cap=cap) for cap in (500, 1000))
    assert (small.sum(), large.sum(), (small & large).sum()) == (100, 200, 100)
    assert hashes[small].max() < hashes[~small].min()


def test_images_like_those_of_validation_are_called_unlike_at_most_at_the_rate() -> None:
    rng = np.random.default_rng(0)
    images = ReferenceImages([f"r{n:03d}" for n in range(100)], ["real"] * 100, {"b": rng.normal(size=(100, 8)).astype("f4")})
    far, least = [], []
    for _ in range(300):  # whatever the distances are like: those of the two parts are drawn alike
        scale = rng.lognormal(size=(198, 1))
        distances = images.distances(rng.normal(size=(198, 8)) * scale, 5)
        held, new = distances[:99], distances[99:]
        fixed = fix_reference(images, distances=held, records=np.arange(99), neighbours=5, rate=0.1)
        far.append((new >= fixed.far_from).mean())
        few = fix_reference(images, distances=held[:9], records=np.arange(9), neighbours=5, rate=0.01)
        assert (few.rate, few.far_from) == (0.1, np.nextafter(held[:9].max(), 2))
        least.append((new >= few.far_from).mean())
    assert 0.08 < np.mean(far) < 0.105
    assert 0.08 < np.mean(least) < 0.115


@pytest.mark.parametrize("cap", [100, 2000])
def test_a_reference_does_not_depend_on_the_order_of_files_and_rows(tmp_path: Path, cap: int) -> None:
    names = ("projected", "block_5")  # float16 and float32
    rows = feature_rows(120, text=False)
    varied = np.random.default_rng(0)
    for row in rows:
        for name in names:
            if row.get(name):
                kind = "<f2" if name == "projected" else "<f4"
                old = np.frombuffer(row[name], kind)
                row[name] = (old + varied.normal(size=old.shape)).astype(kind).tobytes()
    config = override(Config(), {"evaluate.reference_images": cap, "features.validation_share": 0.3})
    made = []
    for place, some, per_file in (("a", rows, 7), ("b", rows[::-1], 50)):
        folder = write_features(tmp_path / place, some, text=False, per_file=per_file, names=names)
        table = FeatureTable.load(folder, inputs=["block_5", "projected"])
        reference = make_reference(config, table)
        assert reference is not None
        made.append(reference)
    one, other = made
    assert to_file(one.images) == to_file(other.images)
    assert one.far_from == other.far_from
    assert {name: values.dtype for name, values in one.images.features.items()} == {
        "block_5": "float32",
        "projected": "float16",
    }
    ids, train = set(one.images.record_ids), table.split(config.features, "train")
    of_part = set(table.record_ids.take(table.record_of[train].numpy()).to_pylist())
    assert ids <= of_part
    assert (ids == of_part) == (cap == 2000)
    assert len(one.images.record_ids) <= cap
    validation = table.split(config.features, "validation")
    far = one.distances(table.gather(validation, "none").features.numpy()) >= one.far_from
    records = one.validation_records
    assert (one.rate, far.any()) == (max(0.01, 1 / (records + 1)), False)
    image = int(train[5])
    (nearest,) = one.images.nearest(table.gather(train[5:6], "none").features.numpy()[0], 1)
    if cap == 2000:
        assert nearest.record_id == table.record_ids[int(table.record_of[image])].as_py()
        assert nearest.distance < 1e-6


def test_no_reference_is_made_where_none_is_wanted_or_possible(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = FeatureTable.load(write_features(tmp_path / "f", feature_rows(40, text=False), text=False))
    without = override(Config(), {"evaluate.reference_images": 0, "features.validation_share": 0.3})
    assert make_reference(without, table) is None
    wanted = override(without, {"evaluate.reference_images": 2000})
    reference = make_reference(wanted, table)
    assert reference is not None
    assert "evaluate.reference_rate 0.01 takes at least 99 validation records, and there are" in caplog.text
    assert reference.images.records == len(table.record_of[table.split(wanted.features, "train")].unique())
    huge = [row | {"generators": ["real"] + ["gen"] * 149} for row in feature_rows(30, text=False, rejected=0)]
    for row in huge:
        row["projected"] = np.ones((150, 8), "<f2").tobytes()
    large = FeatureTable.load(write_features(tmp_path / "large", huge, text=False))
    assert make_reference(override(wanted, {"evaluate.reference_images": 100}), large) is None
    assert "evaluate.reference_images 100 is less than any record of the training part holds" in caplog.text


@pytest.fixture
def saved(tiny_model: str, tmp_path: Path) -> tuple[Detector, Path]:
    detector = detector_of(ClipEncoder(tiny_model, "random"))
    images = random_images(width=32)
    detector.reference = Reference(images=images, neighbours=5, far_from=1.25, rate=0.04, validation_records=24)
    detector.save(str(tmp_path))
    return detector, tmp_path


def test_a_detector_keeps_its_reference(saved: tuple[Detector, Path]) -> None:
    detector, folder = saved
    loaded = Detector.load(str(folder))
    ours, theirs = detector.reference, loaded.reference
    assert ours is not None
    assert theirs is not None
    assert (theirs.neighbours, theirs.far_from, theirs.rate, theirs.validation_records) == (5, 1.25, 0.04, 24)
    assert (list(theirs.images.record_ids), list(theirs.images.generators)) == (ours.images.record_ids, ours.images.generators)
    np.testing.assert_array_equal(theirs.images.features["projected"], ours.images.features["projected"])
    assert theirs.images.features["projected"].dtype == np.float16
    assert loaded.version == detector.version
    assert pq.read_schema(folder / "reference.parquet").names == ["record_id", "generator", "projected"]
    loaded.reference = Reference(images=ours.images, neighbours=5, far_from=1.5, rate=0.04, validation_records=24)
    loaded.save(str(folder / "other"))
    assert loaded.version != detector.version  # the limit is part of what an answer depends on


def test_a_detector_without_one_leaves_no_file_of_another_behind(saved: tuple[Detector, Path]) -> None:
    detector, folder = saved
    detector.reference = None
    detector.save(str(folder))
    assert sorted(file.name for file in folder.iterdir()) == ["detector.json", "detector.safetensors"]
    assert Detector.load(str(folder)).reference is None


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_detector_of_before_there_was_a_reference_opens_without(saved: tuple[Detector, Path], number: int) -> None:
    _, folder = saved
    (folder / "reference.parquet").unlink()
    as_format(folder, number)
    loaded = Detector.load(str(folder))
    assert loaded.reference is None
    assert (loaded.calibration.bands is None) == (number < 4)


def test_a_damaged_reference_is_named(saved: tuple[Detector, Path]) -> None:
    _, folder = saved
    place = folder / "reference.parquet"
    whole, way_out = place.read_bytes(), r".*; delete metrics\.json of the run"
    other = to_file(random_images(width=32, seed=1))
    for torn in (whole[:-1], whole[:100], b"", other, whole[:200] + b"\0" + whole[201:]):
        place.write_bytes(torn)
        with pytest.raises(
            RuntimeError, match=r"reference\.parquet must be the file with sha256 .* changed or replaced" + way_out
        ):
            Detector.load(str(folder))
    place.unlink()
    with pytest.raises(RuntimeError, match=r"reference\.parquet is missing" + way_out):
        Detector.load(str(folder))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no Parquet", "Parquet magic bytes not found"),
        (to_file(random_images(width=16)), "its projected must be 32 wide, got 16"),
        (
            to_file(ReferenceImages(["a"] * 5, ["real"] * 5, {"block_9": np.ones((5, 32), np.float16)})),
            "its columns must be record_id, generator, projected, got record_id, generator, block_9",
        ),
        (to_file(random_images(records=4, width=32)), r"reference.neighbours must lie in \[1, 4\], got 5"),
    ],
)
def test_a_reference_that_was_saved_wrong_is_said(saved: tuple[Detector, Path], content: bytes, said: str) -> None:
    from rdd import detector as module

    _, folder = saved
    described = json.loads((folder / "detector.json").read_text())
    described["reference"]["sha256"] = module.sha256_bytes(content)
    weights = (folder / "detector.safetensors").read_bytes()
    described["parts_sha256"] = module._parts_sha256(described, weights)
    (folder / "detector.json").write_text(json.dumps(described))
    (folder / "reference.parquet").write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"reference\.parquet does not hold .*{said}"):
        Detector.load(str(folder))


@pytest.mark.parametrize("path", ["sha256", "far_from", "images", ""])
def test_a_changed_word_about_the_reference_is_told(saved: tuple[Detector, Path], path: str) -> None:
    _, folder = saved
    place = folder / "detector.json"
    described = json.loads(place.read_text())
    if path:
        described["reference"][path] = 1
    else:
        described["reference"] = None
    place.write_text(json.dumps(described))
    with pytest.raises(RuntimeError, match=r"detector\.json is not a whole detector: parts_sha256 must be that of"):
        Detector.load(str(folder))
