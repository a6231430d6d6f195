"""A detector's reference as it is kept: the images in a Parquet file, the rest as JSON that names that file by its hash."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdd import storage
from rdd.hashing import sha256_bytes
from rdd.reference import Reference, ReferenceImages
from rdd.shapes import NUMBER, Shape, described, has_shape

REFERENCE_FILE = "reference.parquet"
"""Beside ``detector.json``; one row an image: ``record_id``, ``generator``, of each input a column of little-endian floats."""

_SHAPE: Shape = {
    "sha256": str,
    "images": int,
    "neighbours": int,
    "far_from": NUMBER,
    "rate": NUMBER,
    "validation_records": int,
}
_DTYPE = b"dtype"


def to_file(images: ReferenceImages) -> bytes:
    """The content of :data:`REFERENCE_FILE`."""
    columns: dict[str, pa.Array] = {"record_id": pa.array(images.record_ids), "generator": pa.array(images.generators)}
    fields = [pa.field(name, pa.string(), nullable=False) for name in columns]
    for name, values in images.features.items():
        little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        kind = pa.binary(little.itemsize * little.shape[1])
        columns[name] = pa.FixedSizeBinaryArray.from_buffers(kind, len(little), [None, pa.py_buffer(little.tobytes())])
        fields.append(pa.field(name, kind, nullable=False, metadata={_DTYPE: values.dtype.name.encode()}))
    buffer = pa.BufferOutputStream()
    table = pa.table(list(columns.values()), schema=pa.schema(fields))
    pq.write_table(table, buffer, use_dictionary=["record_id", "generator"], compression="none")
    return buffer.getvalue().to_pybytes()


def describe(reference: Reference | None, content: bytes) -> dict[str, Any] | None:
    """What ``detector.json`` says of a reference, whose images are ``content``."""
    if reference is None:
        return None
    return {
        "sha256": sha256_bytes(content),
        "images": len(reference.images.record_ids),
        "neighbours": reference.neighbours,
        "far_from": reference.far_from,
        "rate": reference.rate,
        "validation_records": reference.validation_records,
    }


def read_reference(folder: str, what: Any, inputs: Mapping[str, int], *, way_out: str) -> Reference | None:
    """The reference of a detector.

    Args:
        folder: of the detector.
        what: :func:`describe` of it.
        inputs: names and widths of the detector's inputs, in their order.
        way_out: what a person can do where the file is damaged, for the message.

    Returns:
        It; None where the detector was made without.

    Raises:
        RuntimeError: the file is missing, torn or another one, or what is said of it is wrong; it is named.
    """
    if what is None:
        return None
    place = storage.join(folder, REFERENCE_FILE)
    if not has_shape(what, _SHAPE):
        raise RuntimeError(f"the reference in {folder} must be {described(_SHAPE)}, got {repr(what)[:60]}; {way_out}")
    if not storage.exists(place):
        raise RuntimeError(f"{place} is missing; {way_out}")
    content = storage.read_bytes(place)
    if (there := sha256_bytes(content)) != what["sha256"]:
        raise RuntimeError(
            f"{place} must be the file with sha256 {what['sha256'][:12]}... that the detector was saved with, got "
            f"{there[:12]}...: it was changed or replaced; {way_out}"
        )
    try:
        images = _from_file(content, inputs)
        numbers = {name: what[name] for name in ("neighbours", "far_from", "rate", "validation_records")}
        return Reference(images=images, **numbers)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        raise RuntimeError(f"{place} does not hold the reference of this detector: {said}; {way_out}") from error


def _from_file(content: bytes, inputs: Mapping[str, int]) -> ReferenceImages:
    table = pq.ParquetFile(pa.BufferReader(content)).read()
    if (there := table.column_names) != (wanted := ["record_id", "generator", *inputs]):
        raise ValueError(f"its columns must be {', '.join(wanted)}, got {', '.join(there)}")
    features = {}
    for name, width in inputs.items():
        field = table.schema.field(name)
        dtype = np.dtype((field.metadata or {})[_DTYPE].decode()).newbyteorder("<")
        if (there := field.type.byte_width // dtype.itemsize) != width:
            raise ValueError(f"its {name} must be {width} wide, got {there}")
        features[name] = np.frombuffer(b"".join(table[name].to_pylist()), dtype=dtype).reshape(table.num_rows, width)
    return ReferenceImages(table["record_id"].to_pylist(), table["generator"].to_pylist(), features)
