"""The properties of images and captions that an audit asks about, each as something that a simple classifier can be fitted to.

A further property is one more entry of :data:`PROPERTIES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd.evaluation.cross_validation import Fit, Values, on_features, on_numbers, on_words
from rdd.feature_names import TEXT_ORIGINAL, TEXT_POSITIVE
from rdd.features.image_facts import ImageFacts


@dataclass(frozen=True)
class Property:
    """One property of an image, its file or its caption."""

    name: str
    question: str
    """What it is, for a reader of the table."""
    columns: tuple[str, ...]
    """Columns of a file of features that it is computed from."""
    values: Callable[[ImageFacts], Values]
    fit: Fit = on_numbers
    """The classifier that is fitted to it."""


def _numbers(images: ImageFacts, name: str) -> np.ndarray:
    """``(N,)`` float64, NaN where it is not known."""
    column = images.facts[name].combine_chunks()
    if pa.types.is_null(column.type):
        return np.full(len(images), np.nan)
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan))


def _names(images: ImageFacts, name: str) -> np.ndarray:
    """``(N, C)``: for each of the C names that occur, whether it is the image's."""
    column = images.facts[name].combine_chunks()
    if pa.types.is_null(column.type):
        return np.full((len(images), 1), np.nan)
    encoded = column.dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1))
    columns = (codes[:, None] == np.arange(max(1, len(encoded.dictionary)))).astype(np.float64)
    columns[codes < 0] = np.nan
    return columns


def _of(name: str) -> Callable[[ImageFacts], Values]:
    return lambda images: _numbers(images, name)[:, None]


def _of_size(number: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[ImageFacts], Values]:
    return lambda images: number(_numbers(images, "width"), _numbers(images, "height"))[:, None]


def _is_square(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(width + height), np.nan, width == height)


def _bytes_per_pixel(images: ImageFacts) -> Values:
    pixels = _numbers(images, "width") * _numbers(images, "height")
    return (_numbers(images, "num_bytes") / pixels)[:, None]


def _metadata(images: ImageFacts) -> Values:
    return np.stack([_numbers(images, name) for name in ("has_exif", "has_icc", "has_other_metadata")], axis=1)


def _texts(column: pa.ChunkedArray, images: ImageFacts) -> np.ndarray:
    """``(N,)`` objects: the caption of each image's record."""
    return np.array([text or None for text in column.to_pylist()], dtype=object)[images.record_of]


def shared_texts(images: ImageFacts) -> Values:
    """The original caption for every image."""
    return _texts(images.captions["caption_original"], images)


def official_texts(images: ImageFacts) -> Values:
    """The original caption for a real image, the positive prompt for a generated one, as the official code pairs them."""
    positive = _texts(images.captions["caption_positive"], images)
    return np.where(images.labels == 1, positive, shared_texts(images))


def _vectors(images: ImageFacts, name: str) -> np.ndarray:
    """``(N, D)`` float32: CLIP's features of a prompt of each image's record, which are kept in float16."""
    column = images.captions[name].combine_chunks()
    known = np.asarray(column.is_valid())
    if not known.any():
        return np.full((len(images), 1), np.nan, dtype=np.float32)
    held = np.stack([np.frombuffer(vector, dtype="<f2") for vector in column.drop_null().to_pylist()])
    vectors = np.full((len(known), held.shape[1]), np.nan, dtype=np.float32)
    vectors[known] = held
    return vectors[images.record_of]


def _official_vectors(images: ImageFacts) -> Values:
    generated = images.labels[:, None] == 1
    return np.where(generated, _vectors(images, TEXT_POSITIVE), _vectors(images, TEXT_ORIGINAL))


def _caption_length(images: ImageFacts) -> Values:
    lengths = pc.utf8_length(images.captions["caption_original"].cast(pa.string())).cast(pa.float64())
    numbers = np.asarray(lengths.fill_null(0).combine_chunks())
    return np.where(numbers > 0, numbers, np.nan)[images.record_of][:, None]


_SIZE = ("widths", "heights")

PROPERTIES = (
    Property("format", "the file's format, such as JPEG or PNG", ("formats",), lambda images: _names(images, "format")),
    Property("width", "width in pixels", ("widths",), _of("width")),
    Property("height", "height in pixels", ("heights",), _of("height")),
    Property("aspect", "width over height", _SIZE, _of_size(lambda width, height: width / height)),
    Property("square", "whether it is as wide as high", _SIZE, _of_size(_is_square)),
    Property("pixels", "width times height", _SIZE, _of_size(lambda width, height: width * height)),
    Property("bytes_per_pixel", "size of the file by pixel", ("num_bytes", *_SIZE), _bytes_per_pixel),
    Property("jpeg_quality", "quality by a JPEG's quantisation, among JPEGs", ("jpeg_qualities",), _of("jpeg_quality")),
    Property("chroma", "a JPEG's chroma subsampling, among JPEGs", ("chromas",), lambda images: _names(images, "chroma")),
    Property(
        "metadata", "whether it has EXIF, a colour profile, other", ("have_exif", "have_icc", "have_other_metadata"), _metadata
    ),
    Property("caption_length", "letters of the original caption", ("caption_original",), _caption_length),
    Property("caption_cosine", "CLIP's cosine of image and caption", ("caption_cosines",), _of("caption_cosine")),
    Property("text_words", "words of the original caption alone", ("caption_original",), shared_texts, on_words),
    Property(
        "text_words_official",
        "words of the caption alone, as text_mode official pairs them",
        ("caption_original", "caption_positive"),
        official_texts,
        on_words,
    ),
    Property(
        "text_features",
        "CLIP's features of the original caption alone",
        (TEXT_ORIGINAL,),
        lambda images: _vectors(images, TEXT_ORIGINAL),
        on_features,
    ),
    Property(
        "text_features_official",
        "CLIP's features of the caption alone, as text_mode official pairs them",
        (TEXT_ORIGINAL, TEXT_POSITIVE),
        _official_vectors,
        on_features,
    ),
)
