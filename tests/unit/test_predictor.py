import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from _odd_images import MAX_PIXELS, odd_images
from _small_detector import detector_of
from PIL import Image

from rdd.clip import ClipEncoder
from rdd.detector import Detector
from rdd.model import DetectorHead
from rdd.serving.predictor import Predictor, sigmoid


@pytest.fixture(scope="module")
def encoder(tiny_model: str) -> ClipEncoder:
    return ClipEncoder(tiny_model, "random")


@pytest.fixture
def detector(encoder: ClipEncoder) -> Detector:
    detector = detector_of(encoder)
    detector.encoder, detector.version = encoder, "5" * 64
    return detector


def png(seed: int = 0) -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 50, 3), dtype=np.uint8)).save(written, "PNG")
    return written.getvalue()


def test_an_answer_holds_what_the_detector_says_of_the_image_and_of_itself(detector: Detector) -> None:
    measured = {"true_positive_rate": 0.9, "true_positive_rate_interval": [0.8, 1.0], "false_positive_rate": 0.0}
    detector.metrics = {"test": measured | {"false_positive_rate_interval": None}}
    predictor, files = Predictor(detector), [png(seed) for seed in range(3)]
    answers = predictor.answers([predictor.preparer(data, f"{seed}.png") for seed, data in enumerate(files)])
    scores = detector.score([Image.open(io.BytesIO(data)) for data in files])
    for number, (answer, data) in enumerate(zip(answers, files, strict=True)):
        assert (answer.image, answer.sha256) == (f"{number}.png", hashlib.sha256(data).hexdigest())
        assert answer.score == pytest.approx(scores[number], abs=1e-6)
        logit = np.log(scores[number] / (1 - scores[number]))
        assert answer.probability == pytest.approx(1 / (1 + np.exp(-(2.0 * logit - 1.0))), abs=1e-6)
        assert (answer.prior, answer.threshold, answer.model_version) == (0.8, sigmoid(0.25), "5" * 64)
        assert (answer.true_positive_rate.value, answer.true_positive_rate.interval) == (0.9, (0.8, 1.0))
        assert (answer.false_positive_rate.value, answer.false_positive_rate.interval) == (0.0, None)
        assert (answer.bands.likely_real_to, answer.bands.likely_generated_from) == (sigmoid(-0.5), sigmoid(1.5))
        assert answer.error is None
        assert answer.content_credentials.state == "none"


@pytest.mark.parametrize(
    ("logit", "verdict"),
    [(-0.5, "likely_real"), (-0.49, "uncertain"), (0.25, "uncertain"), (1.49, "uncertain"), (1.5, "likely_generated")],
)
def test_the_verdict_changes_at_the_edges_of_the_bands(detector: Detector, logit: float, verdict: str) -> None:
    predictor = Predictor(detector)
    assert predictor.answer(predictor.preparer(png()), logit).verdict == verdict


def test_odd_and_broken_images_are_answered_beside_good_ones(detector: Detector) -> None:
    predictor, odd = Predictor(detector, max_pixels=MAX_PIXELS), odd_images()
    answers = predictor.answers([predictor.preparer(png()), *(predictor.preparer(one.data, one.name) for one in odd)])
    assert answers[0].score == pytest.approx(predictor.answers([predictor.preparer(png())])[0].score, abs=1e-6)
    for answer, one in zip(answers[1:], odd, strict=True):
        assert (None if answer.error is None else answer.error.reason) == one.reason
        assert (answer.verdict is None) == (one.reason is not None)
    assert len({answer.error.reason for answer in answers if answer.error}) > 2


def test_no_image_makes_no_answer(detector: Detector) -> None:
    assert Predictor(detector).answers([]) == []


def test_captions_are_used_where_the_detector_takes_them(encoder: ClipEncoder) -> None:
    detector = detector_of(encoder, "shared")
    detector.encoder = encoder
    with_caption, without = Predictor(detector).answers([Predictor(detector).preparer(png())] * 2, ["a cat", None])
    assert with_caption.score == pytest.approx(detector.score([Image.open(io.BytesIO(png()))], ["a cat"])[0], abs=1e-6)
    assert without.error is not None
    assert without.error.reason == "no_caption"
    detector.head_config["text_dropout"] = 0.3
    detector.head = DetectorHead(**detector.head_config).eval()
    torch.nn.init.normal_(detector.head.no_text)
    predictor = Predictor(detector)
    with_caption, without = predictor.answers([predictor.preparer(png())] * 2, ["a cat", ""])
    assert [reason.code for reason in without.reasons] == ["no_caption"]
    assert with_caption.reasons == ()
    assert with_caption.score != without.score


def test_a_detector_that_can_give_no_verdict_is_refused(detector: Detector) -> None:
    without_bands = replace(detector, calibration=replace(detector.calibration, bands=None))
    with pytest.raises(ValueError, match="must have the two bands"):
        Predictor(without_bands)
    detector.encoder = None
    with pytest.raises(ValueError, match="must have its encoder"):
        Predictor(detector)
