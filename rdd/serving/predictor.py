"""From prepared images to answers: the encoder, the head, and what the detector says of itself."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from rdd.bands import Bands
from rdd.detector import Detector
from rdd.reference import Reference
from rdd.serving.answer import Answer, AnswerBands, Rate, Reason, Unreadable, Verdict
from rdd.serving.encoder_age import encoder_age
from rdd.serving.prepare import MAX_PIXELS, Prepared, Preparer


class Predictor:
    """Answers for images.

    Args:
        detector: with its encoder.
        max_pixels: largest width x height that is decoded.

    Raises:
        ValueError: the detector has no encoder, or no bands to give verdicts by.
    """

    def __init__(self, detector: Detector, *, max_pixels: int = MAX_PIXELS) -> None:
        if detector.encoder is None:
            raise ValueError("detector must have its encoder to see images, got none; give it to Detector.load")
        self.detector, self._encoder, self._bands = detector, detector.encoder, bands_of(detector)
        self._max_pixels = max_pixels
        self.preparer = Preparer(detector.encoder_identity["preprocessing"], max_pixels=max_pixels)
        self._about_detector = tuple(encoder_age(detector.encoder_identity))

    @classmethod
    def load(
        cls,
        path: str,
        *,
        weights: str,
        device: str = "cpu",
        precision: str = "fp32",
        max_pixels: int = MAX_PIXELS,
    ) -> "Predictor":
        """A predictor from the artefact and the weights of its encoder.

        Args:
            path: the detector's directory, local or on S3.
            weights: file of the encoder's weights.
            device: 'cpu' or 'cuda'.
            precision: 'fp32', 'bf16' or 'fp16', of the encoder.
            max_pixels: largest width x height that is decoded.

        Raises:
            ValueError: there is no detector, it has no bands, or these are not the weights that it was trained with.
            RuntimeError: a file is torn, or the device is absent.
        """
        from rdd.clip import ClipEncoder  # and with it open_clip: who only checks a detector does without

        detector = Detector.load(path)
        identity = detector.encoder_identity
        encoder = ClipEncoder(identity["model"], weights, device=device, precision=precision, normalize=identity["normalized"])
        detector.use(encoder)
        return cls(detector, max_pixels=max_pixels)

    def with_detector(self, path: str) -> "Predictor":
        """A predictor of another detector that looks through the same encoder.

        Args:
            path: its directory, local or on S3.

        Raises:
            ValueError: there is no detector, it has no bands, or it is of another encoder.
            RuntimeError: a file is torn.
        """
        return Predictor(Detector.load(path, encoder=self._encoder), max_pixels=self._max_pixels)

    def answers(self, images: Sequence[Prepared], captions: Sequence[str | None] | None = None) -> list[Answer]:
        """One answer for each image, in their order; the encoder runs once for all of them.

        Args:
            images: N of them.
            captions: of each its prompt or None; a detector that looks at images alone leaves them aside.
        """
        given = [None] * len(images) if captions is None else list(captions)
        images = [self._refused(image, caption) for image, caption in zip(images, given, strict=True)]
        logits, distances = np.full(len(images), np.nan), np.full(len(images), np.nan)
        readable = [number for number, image in enumerate(images) if image.error is None]
        for with_caption in (True, False):
            some = [number for number in readable if self.uses(given[number]) == with_caption]
            if some:
                texts = [str(given[number]) for number in some] if with_caption else None
                features = self.features([images[number] for number in some], texts)
                logits[some], distances[some] = self.detector.logits(features), self._distances(features)
        return [
            self.answer(image, None if image.error else float(logit), distance=float(distance), has_caption=self.uses(caption))
            for image, logit, distance, caption in zip(images, logits, distances, given, strict=True)
        ]

    def features(self, images: Sequence[Prepared], texts: Sequence[str] | None = None) -> torch.Tensor:
        """What the head takes of N readable images, all with a caption or none, see :meth:`rdd.detector.Detector.features`."""
        pixels = torch.from_numpy(np.stack([image.pixels for image in images if image.pixels is not None]))
        return self.detector.features(pixels, texts)

    def logits(self, images: Sequence[Prepared], texts: Sequence[str] | None = None) -> np.ndarray:
        """Raw logits ``(N,)`` float64 of N readable images, all with a caption or none."""
        return self.detector.logits(self.features(images, texts))

    def _distances(self, features: torch.Tensor) -> np.ndarray:
        """``(N,)`` to the training set; NaN of a detector that carries no reference."""
        if self.detector.reference is None:
            return np.full(len(features), np.nan)
        return self.detector.reference.distances(features[:, : sum(self.detector.inputs.values())].numpy())

    def answer(self, image: Prepared, logit: float | None, *, distance: float = math.nan, has_caption: bool = False) -> Answer:
        """The answer that goes with a logit.

        Args:
            image: what it is of.
            logit: of a readable image.
            distance: of its features to the training set, see :mod:`rdd.reference`; NaN where nobody knows.
            has_caption: whether the detector has looked at a caption, too.
        """
        calibration = self.detector.calibration
        value = None if logit is None else np.array([logit])
        return Answer(
            image=image.name,
            sha256=image.sha256,
            verdict=None if value is None else self._verdict(value),
            score=None if logit is None else sigmoid(logit),
            probability=None if value is None else float(calibration.probability(value)[0]),
            prior=calibration.prior,
            threshold=sigmoid(calibration.threshold),
            true_positive_rate=self._rate("true_positive_rate"),
            false_positive_rate=self._rate("false_positive_rate"),
            bands=AnswerBands(
                likely_real_to=sigmoid(self._bands.likely_real_to),
                likely_generated_from=sigmoid(self._bands.likely_generated_from),
                false_positive_rate=self._bands.false_positive_rate,
                false_negative_rate=self._bands.false_negative_rate,
            ),
            model_version=self.detector.version,
            reasons=() if logit is None else (*image.reasons, *self._why(distance, has_caption), *self._about_detector),
            content_credentials=image.credentials,
            error=image.error,
        )

    def _verdict(self, logit: np.ndarray) -> Verdict:
        if self._bands.likely_generated(logit)[0]:
            return "likely_generated"
        return "likely_real" if self._bands.likely_real(logit)[0] else "uncertain"

    def _rate(self, name: str) -> Rate:
        test = self.detector.metrics.get("test", {})
        interval = test.get(f"{name}_interval")
        return Rate(value=test.get(name), interval=None if interval is None else (interval[0], interval[1]))

    def uses(self, caption: str | None) -> bool:
        """Whether the detector looks at this caption: there is one, and it does not look at images alone."""
        return bool(caption) and self.detector.text_mode != "none"

    def _refused(self, image: Prepared, caption: str | None) -> Prepared:
        """The image, refused where the detector can not do without the caption that it lacks."""
        if image.error is not None or not self.detector.needs_text or self.uses(caption):
            return image
        detail = "this detector takes each image with its prompt; give a caption, or train one with model.text_dropout"
        error = Unreadable(reason="no_caption", detail=detail)
        return Prepared(name=image.name, sha256=image.sha256, pixels=None, credentials=image.credentials, error=error)

    def _why(self, distance: float, has_caption: bool) -> Iterator[Reason]:
        """Reasons that the image gives together with this detector."""
        reference = self.detector.reference
        if reference is not None and distance >= reference.far_from:
            yield Reason(code="unlike_training", text=_unlike(distance, reference), about="image")
        if not has_caption and self.detector.text_mode != "none":
            text = "the detector was trained on images with their prompts, and this one came without"
            yield Reason(code="no_caption", text=text, about="image")


def _unlike(distance: float, reference: Reference) -> str:
    """With the figures rounded outwards, so that they never read as if they were equal."""
    limit = math.floor(reference.far_from * 1000) / 1000
    return (
        f"its features lie {math.ceil(distance * 1000) / 1000:.3f} from the training set, on a scale from 0 to 2; of images "
        f"like those of the validation set at most {100 * reference.rate:.2g}% lie {limit:.3f} or further away"
    )


def bands_of(detector: Detector) -> Bands:
    """The bands that verdicts are given by.

    Raises:
        ValueError: the detector has none.
    """
    if detector.calibration.bands is None:
        raise ValueError(
            "the detector must have the two bands that verdicts are given by, and it was made before there were any; "
            "delete metrics.json of its run and start the training again, which makes the detector anew"
        )
    return detector.calibration.bands


def sigmoid(logit: float) -> float:
    """Score in [0, 1] of a logit."""
    return float(1 / (1 + np.exp(-logit)))
