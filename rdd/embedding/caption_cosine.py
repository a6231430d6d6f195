"""The cosine of an image and its record's original prompt: how well a real image fits the caption that it was found with.

What an address of LAION gives today may be another picture than the one that was described, and then the cosine falls. How low
is too low depends on the encoder and on the captions, so nothing is rejected by it: each image's is kept, and the manifest has
the quantiles of real and generated images.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd.schema import CAPTION_COSINES, REAL

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def caption_cosines(projected: np.ndarray, captions: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Cosine of each image with the prompt of its record.

    Args:
        projected: ``(n, D)`` float32, CLIP's own output for the images, record by record.
        captions: ``(records, D)`` float32, that for the prompts.
        images: ``(records,)`` int, images of each record; their sum is n.

    Returns:
        ``(n,)`` float32 in [-1, 1]; NaN for a vector of length 0, which has no direction.

    Example:
        >>> two = np.float32([[3, 0], [1, 1], [0, -5]])
        >>> caption_cosines(two, np.float32([[2, 0], [0, 1]]), np.array([2, 1])).round(3).tolist()
        [1.0, 0.7070000171661377, -1.0]
    """
    own = np.repeat(captions, images, axis=0)
    lengths = np.linalg.norm(projected, axis=1) * np.linalg.norm(own, axis=1)
    with np.errstate(invalid="ignore"):
        cosines = np.einsum("nd,nd->n", projected, own) / lengths
    return np.clip(cosines, -1, 1)  # rounding may lead beyond


def with_cosines(table: pa.Table) -> pa.Table:
    """Rows of a file of features with the column ``caption_cosines``, null where an earlier version has written the file."""
    if "caption_cosines" in table.column_names:
        return table
    place = table.schema.get_field_index("caption_positive") + 1 or table.num_columns  # where the schema has it
    return table.add_column(place, pa.field("caption_cosines", CAPTION_COSINES), pa.nulls(table.num_rows, CAPTION_COSINES))


def cosine_quantiles(table: pa.Table) -> dict[str, dict[str, float]]:
    """Number and quantiles of the cosines of real and of generated images.

    Args:
        table: ``generators`` and ``caption_cosines`` of accepted records; the latter may be null.

    Returns:
        By ``real`` and ``generated`` the number of ``images``, and ``q01`` to ``q99``; without those that have no image with a
        cosine.

    Example:
        >>> table = pa.table({"generators": [["real", "sd"], ["sd"]], "caption_cosines": [[0.3, 0.4], None]})
        >>> cosine_quantiles(table)["real"]["q50"]
        0.3
    """
    known = table.filter(pc.is_valid(table["caption_cosines"]))
    cosines = np.asarray(pc.list_flatten(known["caption_cosines"]), dtype=np.float64)
    real = np.asarray(pc.equal(pc.list_flatten(known["generators"]), REAL), dtype=bool)
    parts = {"real": cosines[real & np.isfinite(cosines)], "generated": cosines[~real & np.isfinite(cosines)]}
    return {
        name: {"images": len(part), **{f"q{100 * q:02.0f}": round(float(np.quantile(part, q)), 4) for q in _QUANTILES}}
        for name, part in parts.items()
        if len(part)
    }
