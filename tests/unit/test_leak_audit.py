"""The leak audit finds leaks that are planted, and none where there is none."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest

from rdd.config import AuditConfig
from rdd.evaluation.audit import as_markdown, audit, red_leaks
from rdd.evaluation.cross_validation import cross_validated, folds_by_record, on_numbers
from rdd.evaluation.leak_properties import PROPERTIES
from rdd.features.image_facts import ImageFacts

CONFIG = AuditConfig(resamples=200)
PAIR = ("original", "positive")
WORDS = ("dog", "boat", "tree", "house", "street", "child", "sea", "car", "hill", "lamp")


def facts(
    columns: Mapping[str, list],
    labels: list[int],
    records: list[int],
    captions: tuple[list, list] | None = None,
    vectors: tuple[list, list] | None = None,
) -> ImageFacts:
    """Images with some facts; the others are not known."""
    names = ("format", "width", "height", "num_bytes", "jpeg_quality", "chroma")
    flags = ("has_exif", "has_icc", "has_other_metadata", "caption_cosine")
    table = pa.table({name: columns.get(name, pa.nulls(len(labels))) for name in names + flags})
    number = max(records) + 1
    nothing = ([None] * number, [None] * number)
    texts = pa.table(
        {f"caption_{name}": pa.array(of, pa.string()) for name, of in zip(PAIR, captions or nothing, strict=True)}
        | {f"text_{name}": pa.array(of, pa.binary()) for name, of in zip(PAIR, vectors or nothing, strict=True)}
    )
    ids = pa.array([f"r{i:05d}" for i in range(number)])
    return ImageFacts(ids, np.array(records), np.array(labels, dtype=np.uint8), table, texts)


def by_name(images: ImageFacts) -> dict:
    return {one.name: one for one in audit(images, CONFIG)}


def sentence(rng: np.random.Generator, words: tuple[str, ...] = WORDS) -> str:
    return " ".join(rng.choice(words, 6))


def test_planted_leaks_of_size_and_words_are_red_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    labels = [0, 1] * 150  # a record each
    width = [512 if label else int(rng.integers(300, 700)) for label in labels]
    height = [512 if label else int(rng.integers(300, 700)) for label in labels]
    captions = [sentence(rng) + (", highly detailed" if label else "") for label in labels]
    columns = {"width": width, "height": height, "jpeg_quality": rng.integers(60, 95, 300).tolist(), "format": ["JPEG"] * 300}
    columns |= {
        "chroma": rng.choice(["4:2:0", "4:4:4"], 300).tolist(),
        "num_bytes": [int(w * h * rng.uniform(0.1, 0.3)) for w, h in zip(width, height, strict=True)],
    }
    found = by_name(facts(columns, labels, list(range(300)), (captions, captions)))
    red = red_leaks(list(found.values()))
    assert {"square", "width", "height", "text_words", "text_words_official"} <= set(red)
    assert not {"format", "jpeg_quality", "chroma", "bytes_per_pixel"} & set(red)
    assert found["square"].auroc > 0.99
    assert found["width"].auroc > 0.95  # neither larger nor smaller in one class: a threshold alone would see nothing
    assert (found["format"].auroc, found["format"].interval) == (0.5, [0.5, 0.5])
    assert found["metadata"].auroc is None
    assert found["metadata"].unknown == "the features do not hold it"


def test_images_of_a_record_share_their_caption_and_the_official_pairing_leaks() -> None:
    rng = np.random.default_rng(0)
    originals = [sentence(rng) for _ in range(100)]
    positives = [f"{text}, masterpiece, 8k" for text in originals]
    found = by_name(facts({}, [0, 1, 1] * 100, np.repeat(range(100), 3).tolist(), (originals, positives)))
    assert found["text_words"].auroc == pytest.approx(0.5)
    assert not found["text_words"].red
    assert found["text_words_official"].auroc > 0.99
    assert found["text_words_official"].red
    assert found["caption_length"].auroc == pytest.approx(0.5)


def test_features_of_captions_are_asked_as_words_are() -> None:
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(100, 8))
    positives = originals + np.eye(8)[0] * 4
    vectors = tuple([row.astype("<f2").tobytes() for row in of] for of in (originals, positives))
    found = by_name(facts({}, [0, 1, 1] * 100, np.repeat(range(100), 3).tolist(), vectors=vectors))
    assert found["text_features"].auroc == pytest.approx(0.5)
    assert found["text_features_official"].auroc > 0.95
    assert found["text_features_official"].red
    lacking = (vectors[0], [None] * 100)
    found = by_name(facts({}, [0, 1, 1] * 100, np.repeat(range(100), 3).tolist(), vectors=lacking))
    assert found["text_features_official"].unknown == "no records with a generated image of which it is known"


def test_metadata_of_three_kinds_is_one_property() -> None:
    rng = np.random.default_rng(0)
    labels = [0, 1] * 100
    columns = {
        "has_exif": [not label for label in labels],
        "has_icc": rng.random(200) < 0.5,
        "has_other_metadata": [False] * 200,
    }
    found = by_name(facts(columns, labels, list(range(200))))
    assert found["metadata"].auroc == 1.0
    assert found["metadata"].interval[1] == 1.0
    assert found["metadata"].red


def test_a_property_that_one_class_alone_has_is_unknown_and_says_so() -> None:
    columns = {"format": ["JPEG", "PNG"] * 20, "jpeg_quality": [90, None] * 20}
    found = by_name(facts(columns, [0, 1] * 20, list(range(40))))
    assert found["jpeg_quality"].auroc is None
    assert found["jpeg_quality"].unknown == "no records with a generated image of which it is known"
    assert (found["jpeg_quality"].real_images, found["jpeg_quality"].generated_images) == (20, 0)
    assert found["format"].red
    shown = as_markdown(list(found.values()), CONFIG)
    assert "| format | 1.000 |" in shown
    assert "unknown: no records with a generated image" in shown
    assert len(shown.split("\n\n")[0].splitlines()) == len(PROPERTIES) + 2


def test_records_are_never_split_and_each_fold_has_both_classes() -> None:
    rng = np.random.default_rng(0)
    record_of = np.repeat(np.arange(40), 3)
    labels = np.where(record_of < 7, 0, np.where(record_of < 20, rng.integers(0, 2, 120), 1))
    fold_of = folds_by_record(record_of, labels, folds=5, seed=0)
    assert len(fold_of) == 40
    for fold in range(5):
        assert set(labels[fold_of[record_of] == fold]) == {0, 1}
    assert folds_by_record(np.arange(6), np.array([0, 0, 1, 1, 1, 1]), folds=5, seed=0).max() == 1


def test_what_a_record_has_in_common_does_not_count_as_known_from_its_other_images() -> None:
    rng = np.random.default_rng(1)
    record_of = np.repeat(np.arange(100), 4)
    values = rng.random(100)[record_of][:, None]  # the number of a record tells its label if a fold may split it
    labels = (record_of % 2).astype(np.uint8)
    found = cross_validated(values, labels, record_of, CONFIG, on_numbers)
    assert found.interval[0] < 0.5 + 0.1
    assert found.auroc < 0.65


def test_intervals_of_properties_that_tell_nothing_hold_one_half() -> None:
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        record_of = np.repeat(np.arange(60), 2)
        values = np.repeat(rng.normal(size=60), 2)[:, None] + rng.normal(size=(120, 1))
        config = AuditConfig(resamples=100, seed=seed)
        bounds = cross_validated(values, (record_of % 2).astype(np.uint8), record_of, config, on_numbers).interval
        assert bounds[0] < 0.6
        held += bounds[0] <= 0.5 <= bounds[1]
    assert held >= 34
