"""Thumbnails of a few images of a feature set, from the records that it was embedded from, if they are still there."""

import base64
import io
import logging
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.config import RecordsConfig
from rdd.config.parse import from_dict
from rdd.data.decode import UnusableImageError, decode_image
from rdd.data.index import make_index
from rdd.data.open import Source, open_source
from rdd.features.feature_set import FeatureSet, Member
from rdd.features.files import feature_files
from rdd.hashing import sha256_bytes
from rdd.report.worst import WorstImage

logger = logging.getLogger(__name__)

LONGEST_SIDE = 144
"""Pixels of a thumbnail."""

_PLACES = ["key", "source", "row", "record_id", "generators", "sha256s"]
_JPEG_QUALITY = 80

Key = tuple[str, str, int]


def key_of(image: WorstImage) -> Key:
    """What tells an image from all others of its set."""
    return image.record_id, image.generator, image.nth


def thumbnails(path: str | Sequence[str], wanted: Iterable[WorstImage]) -> dict[Key, str]:
    """Small copies of images as ``data:`` addresses, of those that are found as they were embedded.

    An image whose file has another SHA-256 than the embedded one is left out: it is another image.

    Args:
        path: ``features.path``: directories of features.
        wanted: images of their records.

    Returns:
        By image.

    Raises:
        ValueError: the records are not there any more, or are of another kind.
        RuntimeError: a file of features is damaged, or a store does not answer.
        OSError: a disk does not.
    """
    keys = {key_of(image) for image in wanted}
    found: dict[Key, str] = {}
    for member in FeatureSet.open(path).members:
        missing = keys - found.keys()
        if missing:
            found |= _of_member(member, missing)
    return found


def _of_member(member: Member, keys: set[Key]) -> dict[Key, str]:
    records = member.manifest.get("config", {}).get("records")
    if not records:
        raise ValueError(f"the manifest of {member.path} does not say which records were embedded")
    config = from_dict({"records": records}).records
    places = _places(member.path, sorted({record_id for record_id, _, _ in keys}))
    if not places.num_rows:
        return {}
    hashes = {row["record_id"]: row["sha256s"] for row in places.to_pylist()}
    source = open_source(config)
    found: dict[Key, str] = {}
    for row in _raw_records(source, config, places):
        shown = _images_of(row, hashes[row["record_id"]], config)
        found |= {key: address for key, address in shown.items() if key in keys}
    return found


def _places(path: str, record_ids: list[str]) -> pa.Table:
    """Where the records stood that were embedded, from the files of features."""
    wanted, parts = pa.array(record_ids, pa.string()), []
    for file in feature_files(path):
        names = storage.read_table(file, ["record_id"], way_out="embed again")["record_id"].cast(pa.string())
        here = pc.is_in(names, value_set=wanted)
        if pc.any(here).as_py():
            whole = storage.read_table(file, [*_PLACES, "reason"], optional={"sha256s"}, way_out="embed again")
            whole = whole.filter(pc.and_(here, pc.is_null(whole["reason"])))
            if "sha256s" not in whole.column_names:  # of an earlier version
                whole = whole.append_column("sha256s", pa.nulls(whole.num_rows, pa.list_(pa.binary(32))))
            parts.append(whole.select(_PLACES))
    return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({name: [] for name in _PLACES})


def _raw_records(source: Source, config: RecordsConfig, places: pa.Table) -> Iterable[Mapping]:
    """The records themselves (rows of ``schema.RAW``), those left out that can not be read."""
    if config.kind == "d3":  # a place is all that its reader needs, and its index would be a pass over all files
        rows = {name: places[name].to_pylist() for name in ("key", "source", "row", "record_id")}
        index = make_index(rows | {"rows": [[row] for row in rows["row"]]})
    else:
        index = source.index()
        index = index.filter(pc.is_in(index["key"], value_set=places["key"].combine_chunks().cast(pa.string())))
    for name in pc.unique(index["source"]).to_pylist():
        for table in source.reader(index.filter(pc.equal(index["source"], name))):
            yield from (row for row in table.to_pylist() if row["reason"] is None)


def _images_of(row: Mapping, hashes: Sequence[bytes] | None, config: RecordsConfig) -> dict[Key, str]:
    """Thumbnails of a record's images."""
    shown: dict[Key, str] = {}
    seen: dict[str, int] = {}
    for generator, data in zip(row["generators"], row["images"], strict=True):
        nth = seen.get(generator, 0)
        seen[generator] = nth + 1
        if hashes is not None and bytes.fromhex(sha256_bytes(data)) not in hashes:
            continue
        try:
            shown[row["record_id"], generator, nth] = thumbnail(data, max_pixels=config.max_pixels)
        except UnusableImageError as error:
            logger.warning("no thumbnail of an image of record %s: %s", row["record_id"], error)
    return shown


def thumbnail(data: bytes, *, max_pixels: int) -> str:
    """A small JPEG of an image file as a ``data:`` address; nothing of the file but its pixels is in it.

    Args:
        data: the file.
        max_pixels: largest width x height that is decoded.

    Raises:
        UnusableImageError: it can not be decoded.
    """
    image = decode_image(data, max_pixels=max_pixels).image.convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
