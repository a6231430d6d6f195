"""What an answer rests on: how far an image is from the training set, its nearest images, and which parts move the score."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from _small_detector import detector_of
from PIL import Image

from rdd.clip import ClipEncoder
from rdd.reference import Reference, ReferenceImages
from rdd.serving.explain import explain
from rdd.serving.occlusion import Occlusion, occlusion
from rdd.serving.predictor import Predictor
from rdd.serving.prepare import Prepared


def photo(seed: int) -> bytes:
    """A picture of coarse blobs."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((48, 48), Image.Resampling.BICUBIC).save(buffer, format="PNG")
    return buffer.getvalue()


NEAR, FAR = photo(3), photo(100)
"""One of the training images, and another."""


@pytest.fixture(scope="module")
def encoder(tiny_model: str) -> ClipEncoder:
    return ClipEncoder(tiny_model, "random")


@pytest.fixture
def predictor(encoder: ClipEncoder) -> Predictor:
    """Its reference are twenty photographs of ten records; the limit lies between the two images above."""
    detector = detector_of(encoder)
    detector.use(encoder)
    predictor = Predictor(detector)
    images = [predictor.preparer(photo(seed)) for seed in range(20)]
    features = predictor.features(images).numpy().astype(np.float16)
    ids, names = [f"r{number // 2}" for number in range(20)], ["real", "sd"] * 10
    bank = ReferenceImages(ids, names, {"projected": features})
    near, far = bank.distances(predictor.features([predictor.preparer(data) for data in (NEAR, FAR)]).numpy(), 1)
    assert near < 0.01 < far
    detector.reference = Reference(images=bank, neighbours=1, far_from=(near + far) / 2, rate=1 / 11, validation_records=10)
    return predictor


def codes(predictor: Predictor, *images: Prepared) -> list[list[str]]:
    return [[reason.code for reason in answer.reasons] for answer in predictor.answers(images)]


def test_an_image_unlike_the_training_set_is_said_with_its_figures(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    launch = ClipEncoder.launch
    monkeypatch.setattr(ClipEncoder, "launch", lambda *arguments: passes.append(len(arguments[1])) or launch(*arguments))
    like, unlike = predictor.preparer(NEAR), predictor.preparer(FAR)
    answers = predictor.answers([like, predictor.preparer(b""), unlike])
    assert passes == [2]  # the encoder ran once for score and distance
    kinds = [[reason.code for reason in answer.reasons] for answer in answers]
    assert [("unlike_training" in one) for one in kinds] == [False, False, True]
    (reason,) = [reason for reason in answers[2].reasons if reason.code == "unlike_training"]
    reference = predictor.detector.reference
    assert reference is not None
    distance = reference.distances(predictor.features([unlike]).numpy())[0]
    assert distance >= reference.far_from
    numbers = [float(word.rstrip("%,;")) for word in reason.text.split() if word[0].isdigit()]
    np.testing.assert_allclose(numbers[0], distance, atol=1e-3)
    np.testing.assert_allclose(numbers[-2:], [9.1, reference.far_from], atol=1e-3)
    assert numbers[-1] < numbers[0]
    assert reason.about == "image"
    logits = [predictor.logits([image])[0] for image in (like, unlike)]
    np.testing.assert_allclose([answers[0].score, answers[2].score], 1 / (1 + np.exp(-np.array(logits))), rtol=1e-5)


def test_without_a_reference_no_image_is_called_unlike(predictor: Predictor) -> None:
    assert "unlike_training" in codes(predictor, predictor.preparer(FAR))[0]
    predictor.detector.reference = None
    assert "unlike_training" not in codes(predictor, predictor.preparer(FAR))[0]


def test_captions_are_no_part_of_the_distance(encoder: ClipEncoder, predictor: Predictor) -> None:
    reference = predictor.detector.reference
    detector = detector_of(encoder, "shared")
    detector.reference = reference
    detector.use(encoder)
    captioned = Predictor(detector)
    images = [captioned.preparer(NEAR), captioned.preparer(FAR)]
    answers = captioned.answers(images, ["a dog", "a cat"])
    unlike = [["unlike_training" in [reason.code for reason in answer.reasons]] for answer in answers]
    assert unlike == [[False], [True]]


def test_the_nearest_training_images_are_named_one_a_record(predictor: Predictor) -> None:
    found = explain(predictor, predictor.preparer(photo(7)), neighbours=4, cells=2)
    assert (found.nearest[0].record_id, found.nearest[0].generator) == ("r3", "sd")
    assert found.nearest[0].distance < 0.01 < found.nearest[1].distance
    assert len({one.record_id for one in found.nearest}) == 4
    assert "the nearest of 20 training images of 10 records" in found.note
    assert explain(predictor, predictor.preparer(photo(7)), neighbours=0, cells=1).nearest == ()


def test_a_detector_without_a_reference_says_so(predictor: Predictor) -> None:
    predictor.detector.reference = None
    told = explain(predictor, predictor.preparer(photo(7)), cells=2).to_dict()
    assert told["nearest"] == []
    assert "carries no reference images" in told["note"]
    assert len(told["occlusion"]["logit_falls"]) == 2


def test_an_explanation_as_json_has_a_picture_and_plain_numbers(predictor: Predictor) -> None:
    prepared = predictor.preparer(photo(7))
    told = explain(predictor, prepared, cells=4).to_dict()
    assert set(told) == {"nearest", "note", "occlusion"}
    assert [set(one) for one in told["nearest"]] == [{"record_id", "generator", "distance"}] * 5
    kind, data = told["occlusion"]["png"].split(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.format, picture.width, picture.height > picture.width) == ("PNG", 448, True)
    assert (told["occlusion"]["rows"], told["occlusion"]["columns"]) == (4, 4)
    falls = np.array(told["occlusion"]["logit_falls"])
    covered = prepared.pixels.copy()
    covered[8:16, 24:32] = np.round(prepared.pixels.mean(axis=(0, 1)))
    (whole, other) = predictor.logits([prepared, replace(prepared, pixels=covered)])
    np.testing.assert_allclose(falls[1, 3], whole - other, rtol=1e-4, atol=1e-6)
    assert "in full colour it changes by" in told["occlusion"]["legend"]


def test_a_caption_is_looked_at_as_in_the_answer(encoder: ClipEncoder) -> None:
    detector = detector_of(encoder, "shared")
    detector.use(encoder)
    predictor = Predictor(detector)
    prepared = predictor.preparer(photo(7))
    covered = replace(prepared, pixels=np.broadcast_to(prepared.pixels.mean((0, 1)).round().astype(np.uint8), (32, 32, 3)))
    for caption in ("a dog", "two red cars in the rain"):
        falls = explain(predictor, prepared, caption=caption, cells=1).occlusion.logit_falls
        whole, other = predictor.logits([prepared, covered], [caption] * 2)
        np.testing.assert_allclose(falls, [[whole - other]], rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match="caption must be given to a detector that takes each image with its prompt"):
        explain(predictor, prepared)


def test_what_can_not_be_explained_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="an image must be readable to be explained, got empty"):
        explain(predictor, predictor.preparer(b""))
    with pytest.raises(ValueError, match="neighbours must be at least 0, got -1"):
        explain(predictor, predictor.preparer(photo(1)), neighbours=-1)
    for cells in (0, 33):
        with pytest.raises(ValueError, match=rf"cells must lie in \[1, 32\], the pixels of the shorter side, got {cells}"):
            explain(predictor, predictor.preparer(photo(1)), cells=cells)


def test_the_part_that_a_detector_looks_at_stands_out() -> None:
    pixels = np.random.default_rng(0).integers(0, 100, (35, 70, 3), dtype=np.uint8)
    pixels[:5, :10], pixels[30:, 60:] = 255, 255

    def logits_of(pictures: np.ndarray) -> np.ndarray:
        corners = pictures[:, :5, :10].mean((1, 2, 3)), pictures[:, 30:, 60:].mean((1, 2, 3))
        return (corners[0] - 0.5 * corners[1]) / 100  # one corner speaks for generated, the other for real

    found = occlusion(pixels, logits_of)
    fall = (255 - np.round(pixels.mean((0, 1))).mean()) / 100
    expected = np.zeros((7, 7))
    expected[0, 0], expected[6, 6] = fall, -fall / 2
    np.testing.assert_allclose(found.logit_falls, expected, atol=1e-9)
    drawn = np.asarray(Image.open(io.BytesIO(found.png))).astype(int)
    assert drawn.shape == (35 * 13 + 30, 70 * 13, 3)
    assert drawn[30, 30, 0] > drawn[30, 30, 2] + 50  # red
    assert drawn[440, 880, 2] > drawn[440, 880, 0] + 40  # blue, half as strong
    assert np.ptp(drawn[200, 400]) == 0  # grey
    flat = Occlusion(pixels, np.zeros((7, 7)))
    assert np.ptp(np.asarray(Image.open(io.BytesIO(flat.png)))[: 35 * 13].astype(int), axis=2).max() == 0


def test_parts_are_as_equal_as_whole_pixels_can_be() -> None:
    pixels, covered = np.full((10, 10, 3), 200, dtype=np.uint8), []
    pixels[::2] = 0

    def logits_of(pictures: np.ndarray) -> np.ndarray:
        covered.append((pictures[1:] == 100).all(-1))
        return np.zeros(len(pictures))

    occlusion(pixels, logits_of, cells=3)
    (parts,) = covered
    assert (parts.sum(0) == 1).all()  # each pixel once
    assert set(parts.sum((1, 2)).tolist()) == {9, 12, 16}
