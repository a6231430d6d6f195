"""Column names and types of everything that one stage writes and another reads."""

from collections.abc import Iterable

import pyarrow as pa

from rdd.feature_names import TEXTS, view_name

LABEL_REAL = 0
LABEL_GENERATED = 1

REAL = "real"
"""Name of the generator of a real image."""

NUM_GENERATED = 4
"""Generated images in a D3 record: ``image_gen0`` to ``image_gen3``."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

D3 = pa.schema(
    [(name, pa.string()) for name in ("id", "original_prompt", "positive_prompt", "negative_prompt", "url")]
    + [
        field
        for i in range(NUM_GENERATED)
        for field in (
            (f"model_gen{i}", pa.string()),
            (f"width_gen{i}", pa.int64()),
            (f"height_gen{i}", pa.int64()),
            (f"num_inference_steps_gen{i}", pa.int64()),
            (f"filepath_gen{i}", pa.string()),
            (f"image_gen{i}", IMAGE),
        )
    ]
)
"""One row of ELSA_D3: four generated images and the address of the real one."""

REAL_IMAGES = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("bytes", pa.binary()),
        ("sha256", pa.string()),
        ("content_type", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("final_url", pa.string()),
        ("status", pa.string()),
    ]
)
"""The real image of a record; ``status`` is ``ok`` or the reason why there is none."""

FETCHED = pa.schema(
    [
        *REAL_IMAGES,
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("fetched_at", pa.timestamp("ms", tz="UTC")),
        ("declared_width", pa.int64()),
        ("declared_height", pa.int64()),
    ]
)
"""A row of the table that fetching writes: more of a failure, when it was asked for, and the size that the records declare."""

ADDRESSES = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("declared_width", pa.int64()),
        ("declared_height", pa.int64()),
        ("first", pa.int64()),
        ("status", pa.string()),
        ("detail", pa.string()),
    ]
)
"""One row a record of D3, made before anything is asked for; ``first`` is the first row with its address, ``status`` is null
where it is to be fetched."""

STATUS_OK = "ok"

_PLACE = [("key", pa.string()), ("source", pa.string()), ("row", pa.int64()), ("record_id", pa.string())]
_REJECTION = [("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())]

INDEX = pa.schema(
    [
        *_PLACE,
        ("rows", pa.list_(pa.int64())),
        ("paths", pa.list_(pa.string())),
        ("generators", pa.list_(pa.string())),
        ("caption", pa.string()),
        *_REJECTION,
    ]
)
"""One row a record, made before any image is read. ``key`` (file and row) is unique by construction, ``record_id`` is not."""

RAW = pa.schema(
    [
        *_PLACE,
        ("generators", pa.list_(pa.string())),
        ("images", pa.list_(pa.binary())),
        ("text_original", pa.string()),
        ("text_positive", pa.string()),
        *_REJECTION,
    ]
)
"""A record with the bytes of its images as they were stored."""

_FILES = [
    ("formats", pa.list_(pa.string())),
    ("widths", pa.list_(pa.int32())),
    ("heights", pa.list_(pa.int32())),
    ("num_bytes", pa.list_(pa.int64())),
    ("content_hashes", pa.list_(pa.uint64())),
    ("sha256s", pa.list_(pa.binary(32))),
    ("jpeg_qualities", pa.list_(pa.int16())),
    ("chromas", pa.list_(pa.string())),
    ("have_exif", pa.list_(pa.bool_())),
    ("have_icc", pa.list_(pa.bool_())),
    ("have_other_metadata", pa.list_(pa.bool_())),
]

FILE_FACTS = {
    "formats": "format",
    "widths": "width",
    "heights": "height",
    "num_bytes": "num_bytes",
    "content_hashes": "content_hash",
    "sha256s": "sha256",
    "jpeg_qualities": "jpeg_quality",
    "chromas": "chroma",
    "have_exif": "has_exif",
    "have_icc": "has_icc",
    "have_other_metadata": "has_other_metadata",
}
"""By column, what it holds of each image's file (:class:`rdd.data.file_facts.FileFacts`)."""

CAPTION_COSINES = pa.list_(pa.float32())
"""Of each image with the original prompt (:mod:`rdd.embedding.caption_cosine`); null where prompts are not embedded, or CLIP's
own output for images is not kept. Feature sets of an earlier version lack the column."""

_CAPTIONS = [("caption_original", pa.string()), ("caption_positive", pa.string())]

DECODED = pa.schema(
    [
        *_PLACE,
        ("generators", pa.list_(pa.string())),
        ("pixels", pa.list_(pa.binary())),
        ("tokens_original", pa.binary()),
        ("tokens_positive", pa.binary()),
        ("prompts_cut", pa.int32()),
        *_CAPTIONS,
        *_FILES,
        *_REJECTION,
    ]
)
"""A record with its images resized and cropped, (height, width, 3) uint8 each, and its prompts as int32 tokens."""


def decoded_schema(views: int) -> pa.Schema:
    """:data:`DECODED`, and the pixels of each view of the images beside theirs."""
    pixels = DECODED.field("pixels")
    return pa.schema([*DECODED, *[pixels.with_name(view_name("pixels", view)) for view in range(1, views + 1)]])


def features_schema(names: Iterable[str]) -> pa.Schema:
    """A record's features, one binary column each, and what is known of its files. A row with a ``reason`` has no features.

    Args:
        names: of the features of its k images; ``(k, width)`` little-endian each, float16 unless the manifest says float32.
            Those of each prompt are ``(D,)``.
    """
    return pa.schema(
        [
            *_PLACE,
            ("generators", pa.list_(pa.string())),
            *[(name, pa.binary()) for name in (*names, *TEXTS)],
            ("prompts_cut", pa.int32()),
            *_CAPTIONS,
            ("caption_cosines", CAPTION_COSINES),
            *_FILES,
            *_REJECTION,
        ]
    )


QUARANTINE = pa.schema([("record_id", pa.string()), ("source", pa.string()), ("row", pa.int64()), *_REJECTION])


def label_of(generator: str) -> int:
    """Label of an image by the name of what made it."""
    return LABEL_REAL if generator == REAL else LABEL_GENERATED
